import pytest
import torch
from torch import Tensor


def _poison(create):
    def poisoned(*args, **kwargs) -> Tensor:
        tensor = create(*args, **kwargs)
        if tensor.is_floating_point():
            return tensor.fill_(torch.nan)
        return tensor.fill_(True if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).min)

    return poisoned


@pytest.fixture(autouse=True, scope="module")
def poisoned_memory():
    """Uninitialised tensors start as NaN or the lowest integer, so a cell that a kernel forgets to write shows."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("empty", "empty_like"):
            patch.setattr(torch, name, _poison(getattr(torch, name)))
        yield
