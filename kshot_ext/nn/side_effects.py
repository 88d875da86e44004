"""Side effects of a container's parts: what they may do to a value that waits, besides reading their own input."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kshot_ext.nn.deferred import Waiting, WaitingNorm
from kshot_ext.nn.fused_form import TakesValues, plain_kind
from kshot_ext.nn.watched import is_free


def is_touched(value: Waiting, part: nn.Module, input: Any) -> bool:
    """Whether a value that waits would come out differently once `part` has read an input.

    Parts whose code, or whose hooks, are not torch's or ours may do anything: write to what they read, or to what the
    value reads, a norm's parameters for one. Others may write to what they read in place, which the value may read,
    too, or another view of it; and a norm's statistics move in the order of its calls.
    """
    modules = list(part.modules())
    if isinstance(value, WaitingNorm) and any(module is value.layer for module in modules):
        return True
    if any(map(may_do_anything, modules)):
        return True
    reads = [each for each in (*value, *getattr(value, "norm", ())) if isinstance(each, Tensor)]
    shares = isinstance(input, Tensor) and any(_share_memory(each, input) for each in reads)
    return shares and any(map(_may_write, modules))


def may_do_anything(module: nn.Module) -> bool:
    """Whether a module, apart from its parts, has code or hooks that are not torch's or ours, or plain to see."""
    known = _is_of_torch_or_ours(module) or (isinstance(module, TakesValues) and module.is_plain_to_see())
    return not (known and is_free(module))


def _may_write(module: nn.Module) -> bool:
    return not _is_of_torch_or_ours(module) or bool(getattr(module, "inplace", False))


def _is_of_torch_or_ours(module: nn.Module) -> bool:
    return plain_kind(module).__module__.startswith(("torch.nn.", "kshot_ext."))


def _share_memory(one: Tensor, other: Tensor) -> bool:
    try:
        return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # tensors that stand for others do not tell
        return True
