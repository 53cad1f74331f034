"""Modules whose state changes shape during a run."""

from torch import nn


class Growing(nn.Module):
    """A module that takes over a loaded state's own tensors, whatever their shapes.

    Parameters and buffers get the shapes of the state, and tensors that were registered later than construction
    (importance weights, prototypes, exemplars) are registered again as buffers. So whatever an approach keeps as
    tensors survives saving and loading at any task.
    """

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        reference = next((value for value in [*self.parameters(), *self.buffers()]), None)
        for key, stored in state_dict.items():
            name = key.removeprefix(prefix)
            if not key.startswith(prefix) or "." in name or name == "_extra_state":
                continue
            value = getattr(self, name, None)
            if value is None:
                device = None if reference is None else reference.device
                self.register_buffer(name, stored.clone().to(device))
            elif value.shape != stored.shape:
                # Token numbers of texts do not fit into the bytes of images.
                dtype = value.dtype if stored.is_floating_point() else stored.dtype
                empty = value.new_empty(stored.shape, dtype=dtype)
                is_parameter = isinstance(value, nn.Parameter)
                setattr(self, name, nn.Parameter(empty, value.requires_grad) if is_parameter else empty)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
