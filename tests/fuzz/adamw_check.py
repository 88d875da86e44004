"""The update of AdamW against the reference in float64.

Moments are short sums: their bounds are gamma_n of the same sums with absolute values, which for the second moment has
the square of the gradient's. The weight moves by their ratio, which is taken over the whole range that these bounds
leave to numerator and root: where gradients cancel out, that range is wide.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kshot_ext.ops.adamw_update import adamw_update
from kshot_ext.reference.dictionary_gradient import dictionary_gradient

from .case import DTYPES, Case
from .linear_check import assert_within
from .running import Change, machine
from .update_check import operands

_NAMES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
_HALF_ROUNDINGS = 4


class _Expected(NamedTuple):
    """What a result is, how far from it sums may end, what is rounded when it is stored, and where all overflows."""

    value: Tensor
    slack: Tensor
    magnitude: Tensor
    beyond: Tensor


def _operands(case: Case, change: Change) -> tuple[list, list[list], list, list]:
    def changed(name: str, t: Tensor) -> Tensor:
        values = change(name, t)
        return values.abs_() if name in _NAMES[1:] else values

    weights, states, grads, uses = operands(case, case.sizes["moments"], changed)
    return weights, [states.get(name, []) for name in _NAMES], grads, uses


def _finite_magnitude(name: str, t: Tensor) -> Tensor:
    return torch.where(t.isfinite(), t, 0.0).abs().double()


def _expected(case: Case, i: int, sum_dtype: torch.dtype) -> dict[str, _Expected]:
    """Weight i and its moments."""
    s, t = case.sizes["settings"], case.sizes["steps"][i]
    weights, moments, grads, uses = _operands(case, lambda name, t: t.double())
    _, sizes, size_grads, size_uses = _operands(case, _finite_magnitude)
    gradient = dictionary_gradient(weights[i], grads[i], uses[i]) * (-1.0 if s["maximize"] else 1.0)
    size = dictionary_gradient(weights[i], size_grads[i], size_uses[i])
    error = (len(uses[i]) + 12) * torch.finfo(sum_dtype).eps
    least = (len(uses[i]) + 12) * torch.finfo(sum_dtype).smallest_normal * torch.finfo(sum_dtype).eps
    limit = torch.finfo(sum_dtype).max / 4

    def moment(of: int, power: int, beta: float) -> _Expected:
        value = beta * moments[of][i] + (1 - beta) * gradient**power
        magnitude = beta * sizes[of][i] + (1 - beta) * size**power
        beyond = (size >= limit ** (1 / power)) | (magnitude >= limit)
        return _Expected(value, error * magnitude + least * (1 + size), magnitude, beyond)

    first, second = moment(0, 1, s["beta1"]), moment(1, 2, s["beta2"])
    under, found = second, {"exp_avg": first, "exp_avg_sq": second}
    if moments[2]:
        largest = torch.maximum(moments[2][i], second.value)
        under = second._replace(value=largest, magnitude=torch.maximum(sizes[2][i], second.magnitude))
        found["max_exp_avg_sq"] = under
    ratios = []
    for up, down in product((-1, 1), repeat=2):
        root = ((under.value + down * under.slack).clamp(min=0) / (1 - s["beta2"] ** t)).sqrt() + s["eps"]
        ratios.append((first.value + up * first.slack) / root)
    lr, kept = s["lr"] / (1 - s["beta1"] ** t), 1 - s["lr"] * s["weight_decay"]
    exact = first.value / ((under.value / (1 - s["beta2"] ** t)).sqrt() + s["eps"])
    spread = torch.stack(ratios).sub(exact).abs().amax(0)
    magnitude = kept * weights[i].abs() + lr * (exact.abs() + spread)
    slack = lr * spread + error * magnitude + least
    beyond = first.beyond | under.beyond | (magnitude >= limit)
    found["weight"] = _Expected(kept * weights[i] - lr * exact, slack, magnitude, beyond)
    return found


def check(case: Case) -> bool:
    """Fail unless the update does on this case what the rule says."""
    settings: dict[str, Any] = case.sizes["settings"]
    with machine(case):
        weights, moments, grads, uses = _operands(case, lambda name, t: t)
        adamw_update(weights, *moments, case.sizes["steps"], grads, uses, **settings)
    dtype = DTYPES[case.dtype]
    sum_dtype = torch.promote_types(dtype, torch.float32)
    half = torch.finfo(dtype).eps / 2 if dtype.itemsize == 2 else 0.0
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    for i, weight in enumerate(weights):
        results = {"weight": weight, **{name: of[i] for name, of in zip(_NAMES, moments) if of}}
        for name, expected in _expected(case, i, sum_dtype).items():
            what = f"{name} {i} of {case!r}"
            beyond = expected.beyond | (expected.magnitude >= torch.finfo(dtype).max / 4)
            differ = (results[name].isfinite() != expected.value.isfinite()) & ~beyond
            assert not differ.any(), f"{int(differ.sum())} elements are finite only here or only there: {what}"
            bound = expected.slack + _HALF_ROUNDINGS * (half * expected.magnitude + least)
            assert_within(results[name], expected.value, bound, beyond | ~expected.value.isfinite(), what)
    return True
