"""X-DER-RPC: X-DER whose classes have fixed places, the vertices of a simplex."""

from cl_ac.approach import Task
from cl_ac.approaches.xder_ce import XDERCE
from cl_ac.heads.prepared import PreparedPolytope


class XDERRPC(XDERCE):
    """X-DER with a regular polytope classifier (Boschini et al., 2022; Pernici et al., 2021).

    As XDERCE with a learned linear map to fixed vertices, one for every class of the run; new images are classified
    among the new classes alone.

    Args:
        classes: how many classes the run will have; there may be fewer.
        strength: weight of the distillation term (α).
        replay_weight: weight of the cross-entropy on exemplars (β).
        constraint: weight of the constraints (η).
        margin: of the constraints (m).
        share: the part of its own class's logit that a transplanted one may reach (γ).
        past: whether old classes are constrained too; the authors' code of this form does not.
    """

    def __init__(
        self,
        classes: int = 100,
        strength: float = 0.1,
        replay_weight: float = 0.5,
        constraint: float = 0.1,
        margin: float = 0.3,
        share: float = 0.85,
        past: bool = False,
    ):
        super().__init__(classes, strength, replay_weight, constraint, margin, share, past)

    def build_classifier(self, in_features: int) -> PreparedPolytope:
        return PreparedPolytope(in_features, self.classes)

    def trained_classes(self, task: Task) -> slice:
        return task.classes
