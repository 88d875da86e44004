"""The update of SGD against the reference in float64, and the operands of all optimisers' updates.

Every element is a short sum: the bound is gamma_n of the same sum with absolute values, which is the reference's with a
negative learning rate, plus the roundings of weight and momentum where they are kept in a half type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kshot_ext import reference
from kshot_ext.ops.compact_gradient import Use
from kshot_ext.ops.sgd_update import sgd_update

from .case import DTYPES, Case
from .linear_check import assert_within
from .running import Change, Results, machine

_HALF_ROUNDINGS = 4


def operands(case: Case, kept: Sequence[str], change: Change) -> tuple[list, dict[str, list], list, list]:
    """Weights, what is kept of them by name, dense gradients and uses of all dictionaries, with changed values."""
    s, dtype, number = case.sizes, DTYPES[case.dtype], 0

    def tensor(name: str, shape: tuple[int, ...], of: torch.dtype) -> Tensor:
        nonlocal number
        number += 1
        return change(name, case.tensor(name, shape, of, number))

    sum_dtype = torch.promote_types(dtype, torch.float32)
    weights, states, grads, uses = [], {name: [] for name in kept}, [], []
    for shape, widths in zip(s["weights"], s["uses"]):
        weights.append(tensor("weight", tuple(shape), dtype))
        for name in kept:
            states[name].append(tensor(name, tuple(shape), dtype))
        grads.append(tensor("grad", tuple(shape), dtype) if widths is None else None)
        uses.append([])
        for out_channels, in_channels, gated in widths or ():
            active = (out_channels, *((in_channels, *shape[3:]) if len(shape) > 2 else ()))
            code = tensor("code", (shape[0],), sum_dtype)
            gate = tensor("gate", (out_channels,), sum_dtype) if gated else None
            uses[-1].append(Use(code, gate, tensor("use", active, dtype)))
    return weights, states, grads, uses


def _operands(case: Case, change: Change) -> tuple[list, list, list, list]:
    kept = ["momentum"] if case.sizes["settings"]["momentum"] else []
    weights, states, grads, uses = operands(case, kept, change)
    return weights, states.get("momentum", []), grads, uses


def _results(weights: list[Tensor], momenta: list[Tensor]) -> Results:
    return {f"{what} {i}": t for what, each in (("weight", weights), ("momentum", momenta)) for i, t in enumerate(each)}


def check(case: Case) -> bool:
    """Fail unless the update does on this case what the reference does."""
    settings: dict[str, Any] = case.sizes["settings"]
    with machine(case):
        operands = _operands(case, lambda name, t: t)
        sgd_update(*operands, **settings)
        actual = _results(*operands[:2])

    def exact(change: Change, **changes: Any) -> Results:
        operands = _operands(case, lambda name, t: change(name, t.double()))
        reference.sgd_update(*operands, *{**settings, **changes}.values())
        return _results(*operands[:2])

    absolute = {"lr": -settings["lr"], "maximize": False}
    expected = exact(lambda name, t: t)
    magnitude = exact(lambda name, t: torch.where(t.isfinite(), t, 0.0).abs(), **absolute)
    ample = exact(lambda name, t: torch.where(t.isfinite(), t, 0.0).abs().clamp(min=1.0), **absolute)
    dtype = DTYPES[case.dtype]
    sum_dtype = torch.promote_types(dtype, torch.float32)
    n = max((len(of or ()) for of in case.sizes["uses"]), default=0) + 12
    half = torch.finfo(dtype).eps / 2 if dtype.itemsize == 2 else 0.0
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    for name, result in actual.items():
        what = f"{name} of {case!r}"
        beyond = (ample[name] >= torch.finfo(sum_dtype).max / 4) | (magnitude[name] >= torch.finfo(dtype).max / 4)
        differ = (result.isfinite() != expected[name].isfinite()) & ~beyond
        assert not differ.any(), f"{int(differ.sum())} elements are finite only here or only there: {what}"
        bound = (n * torch.finfo(sum_dtype).eps + _HALF_ROUNDINGS * half) * magnitude[name] + n * tiny * ample[name]
        assert_within(result, expected[name], bound, beyond | ~expected[name].isfinite(), what)
    return True
