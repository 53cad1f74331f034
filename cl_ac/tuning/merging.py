"""Tuning that has learned: put into the weights of a network, or taken out of it again."""

from torch import nn
from torch.nn.utils import parametrize

from cl_ac.tuning.adapters import Adapted
from cl_ac.tuning.bank import Bank
from cl_ac.tuning.prompts import VisualPrompts
from cl_ac.tuning.scale_shift import Switched


def switch_off(module: nn.Module) -> None:
    """Puts all tuning out of work, so that the network answers as before; a state knows it."""
    for part in module.modules():
        if isinstance(part, Bank):
            part.mix = {}
        elif isinstance(part, Switched | VisualPrompts):
            part.at_work = False


def merge(module: nn.Module) -> None:
    """Puts low-rank adapters, and scales and shifts, into the weights: bit for bit the same function, and no more work.

    Adapters at feed-forward networks are no function of the weights, and stay.
    """
    _remove_parametrizations(module, keep=True)


def untune(module: nn.Module) -> None:
    """Takes out all that tuning has put in: what is left is the network as it was before."""
    _remove_parametrizations(module, keep=False)
    for name, part in list(module.named_modules()):
        if isinstance(part, Adapted):
            module.set_submodule(name, part.main)


def _remove_parametrizations(module: nn.Module, keep: bool) -> None:
    for part in list(module.modules()):
        if not parametrize.is_parametrized(part):
            continue
        # A copy has the class of what it was copied from, and torch takes properties away from the class.
        own = type(part)
        part.__class__ = type(own.__name__, own.__bases__, dict(vars(own)))
        for name, chain in list(part.parametrizations.items()):
            if all(isinstance(each, Bank | Switched) for each in chain):
                parametrize.remove_parametrizations(part, name, leave_parametrized=keep)
