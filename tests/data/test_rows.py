import pytest
import torch

from cl_ac.data import rows
from cl_ac.data.rows import Room, Table
from cl_ac.errors import StorageError

CPU = torch.device("cpu")


@pytest.mark.parametrize("memory", [0, 400, 2**30])
def test_rows_are_found_again_wherever_they_are(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "FIRST", 2)
    monkeypatch.setattr(rows, "LARGEST", 300)
    table = Table(Room(memory, CPU, tmp_path))
    values = torch.randn(23, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    vectors = torch.arange(23, dtype=torch.float16)[:, None]
    for part in torch.arange(23).split(5):
        table.add(part.tolist(), [values[part], vectors[part]])
    chosen = torch.randperm(23, generator=torch.Generator().manual_seed(1)).tolist()
    for keys in (chosen, chosen[:1], [4, 4, 22], []):
        found = table.read(keys, CPU)
        assert torch.equal(found[0], values[keys])
        assert torch.equal(found[1], vectors[keys])
    assert len(table.columns[0].segments) > 3
    assert list(tmp_path.iterdir()) == [], "files have no name, so that none is left behind"


def test_maps_keep_their_order_of_memory():
    table, maps = Table(Room(2**20, CPU)), torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    table.add(range(4), [maps])
    (found,) = table.read([2, 1], CPU)
    assert torch.equal(found, maps[[2, 1]])
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"name another folder in training.frozen_outputs.folder"):
        Room(0, CPU, tmp_path / "file").empty((3,), torch.float32)
