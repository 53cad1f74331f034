"""A search's runs on Ray, by workers that share its folder."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any

from ray.exceptions import RayError

from cl_ac.errors import ConfigurationError, UserError, told
from cl_ac.studies.cluster import Cluster, Place


@dataclass(frozen=True)
class ClusterSearch:
    """Does pieces of a search on a cluster, whose machines all see the search's folder.

    Args:
        cluster: where.
        out: the folder.
    """

    cluster: Cluster
    out: Path

    def __str__(self) -> str:
        return str(self.cluster)

    def do(
        self, work: Callable[..., Any], pieces: Sequence[tuple], begin: Callable[[int], None]
    ) -> Generator[tuple[int, Any, bool], None, None]:
        """Does all pieces, as `local.Local` does.

        Raises:
            UserError: if a machine does not see the folder, or cannot begin a piece.
        """
        with self.cluster.seen_from(self.out) as place:
            placed = [(work, piece, str(self.out), place) for piece in pieces]
            for index, result, killed in self.cluster.share_out(work_in, placed, begin):
                if isinstance(result, RayError):
                    raise UserError(f"Ray cannot do a piece of the search: {told(result)}")
                yield index, result, killed


def work_in(work: Callable[..., Any], piece: tuple, out: str, place: Place) -> Any:
    """Does one piece in a worker of Ray.

    Raises:
        ConfigurationError: if it does not see the folder.
    """
    if not place.enter():
        raise ConfigurationError(
            f"the machine '{gethostname()}' of the cluster does not have the folder '{out}' (--out); a search needs a "
            "disk that all machines share"
        )
    return work(*piece)
