"""Plans of calls: what a call is to do, worked out once for all calls whose operands and settings are alike.

A key holds everything that decides: of each operand class, shape, dtype, device, whether it asks for a gradient, and
strides where they tell forms apart; the settings; and of torch's state what the rules look at. A plan holds no tensor,
and never changes. So threads share plans, and nothing that happens outside can make one wrong but `forget`.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from kshot_ext.ops.gradient_slot import OwnedParameter

_MOST = 4096  # plans; a few megabytes
_PLAIN = {Tensor, nn.Parameter, OwnedParameter}

# Whether a function transform has wrapped a tensor; some stay wrapped when the transform has ended.
is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor

# What of an operand decides besides `is_wrapped`; strides, where they tell forms apart. No function of Python, as it
# runs in every call.
traits = attrgetter("__class__", "shape", "dtype", "device", "requires_grad")

Key = tuple[Any, ...]
kept: dict[Key, Any] = {}


def keep(key: Key, plan: Any) -> None:
    """Remember the plan of a key; of too many all are dropped, since those in use are soon made again."""
    if len(kept) >= _MOST:
        kept.clear()
    kept[key] = plan


def forget() -> None:
    """Drop all plans, when something changed that no key holds."""
    kept.clear()


def are_plain(*operands: Tensor | None) -> bool:
    """Whether none is wrapped, or of a class of its own, such as fake tensors, which stand for other calls."""
    return all(operand is None or (type(operand) in _PLAIN and not is_wrapped(operand)) for operand in operands)
