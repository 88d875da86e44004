"""Operators that are linear in each tensor, against the reference in float64.

With u the unit roundoff of a dtype, a sum of n products of rounded factors is off by at most gamma_n = n u / (1 - n u)
times the sum of the absolute products (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). That sum
is what the reference makes of absolute values, so

    |actual - exact| <= gamma_2n(sum dtype) * magnitude + r * u(dtype) * magnitude + n * eta * ample

where r roundings to a coarser dtype are allowed (mixed weight, gate, bias, result), eta is the least subnormal number,
and `ample` is the reference on max(|x|, 1): a product of any of the factors, by which an underflow may be multiplied.

Whether a result may be finite is counted: the reference on ones, once more with the non-finite elements of one tensor
counted twice. Where the two differ, a term of the sum has a factor that is not finite.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot_ext import reference

from .case import DTYPES, Case
from .operators import MULTILINEAR, Operator, may_be_vendors, pads, strides
from .running import Change, Results, cotangents, machine, run

ROUNDINGS = 4


class _Exact:
    """The reference's runs on the values of one case, in float64."""

    def __init__(self, case: Case, operator: Operator, outputs: list[Tensor]) -> None:
        self.case, self.operator = case, operator
        tensors, self.options = operator.tensors(case)
        self.tensors = {name: tensor.double() for name, tensor in tensors.items()}
        self.cotangents = [c.double() for c in cotangents(case, outputs)]

    def run(self, change: Change) -> Results:
        """On changed values of all tensors, the cotangents included."""
        changed = {name: change(name, tensor) for name, tensor in self.tensors.items()}
        of_outputs = [change("cotangent", cotangent) for cotangent in self.cotangents]
        return run(self.operator.twin, changed, self.options, self.case.constant, lambda outputs: of_outputs)

    def touched(self) -> Results:
        """Where a term has a factor that is not finite."""
        ones = self.run(lambda name, t: torch.ones_like(t))
        touched = {name: torch.zeros_like(result, dtype=torch.bool) for name, result in ones.items()}
        for special in self.special():

            def counted(name: str, t: Tensor, special: str = special) -> Tensor:
                return 1.0 + (~t.isfinite()).double() if name == special else torch.ones_like(t)

            for name, result in self.run(counted).items():
                touched[name] |= result != ones[name]
        return touched

    def special(self) -> list[str]:
        every = [*self.tensors.items(), *(("cotangent", c) for c in self.cotangents)]
        return list(dict.fromkeys(name for name, t in every if not t.isfinite().all()))


def _finite(t: Tensor) -> Tensor:
    return torch.where(t.isfinite(), t, 0.0)


def check(case: Case) -> bool:
    """Fail unless the operator does on this case what the reference does; False if both refuse the call."""
    operator = MULTILINEAR[case.operator]
    tensors, options = operator.tensors(case)
    try:
        of_reference: Any = operator.twin(**{name: t.double() for name, t in tensors.items()}, **options)
    except (ValueError, RuntimeError, TypeError) as error:
        of_reference = error
    with machine(case):
        try:
            actual = run(operator.function, tensors, options, case.constant, lambda found: cotangents(case, found))
        except (ValueError, RuntimeError, TypeError) as error:
            must_be_refused(error, of_reference, case)
            return False
    assert not isinstance(of_reference, Exception), f"took what the reference refuses: {case!r}"
    outputs = [result for name, result in actual.items() if name.startswith("output")]
    _compare(case, actual, _Exact(case, operator, outputs), tensors)
    return True


def must_be_refused(error: Exception, of_reference: Any, case: Case) -> None:
    """Fail unless an error is right: the reference has one too, or it names a limit of ours that is documented."""
    documented = ("has no kernel for", "expected more than one value per channel", "must have at least one position")
    if not isinstance(of_reference, Exception) and not any(text in str(error) for text in documented):
        raise AssertionError(f"refused what the reference takes: {error}: {case!r}") from error


def _compare(case: Case, actual: Results, exact: _Exact, tensors: dict[str, Tensor]) -> None:
    expected = exact.run(lambda name, t: _finite(t))
    magnitude = exact.run(lambda name, t: _finite(t).abs())
    ample = exact.run(lambda name, t: _finite(t).abs().clamp(min=1.0))
    special = exact.special()
    touched = exact.touched() if special else {}
    raw = exact.run(lambda name, t: t) if special else expected
    # A zero of the padding times what is not finite may be left out or not.
    open_to_padding = pads(case) and any(name not in ("input", "bias", "gate") for name in special)
    # torch's input gradient may multiply the weight by the zeros in the gaps between windows.
    open_to_gaps = bool(special) and may_be_vendors(case) and strides(case)
    depths, dtype = MULTILINEAR[case.operator].depths(case), DTYPES[case.dtype]
    sum_dtype = torch.promote_types(dtype, torch.float32)
    overflow = _may_overflow(case, dtype, exact, magnitude, ample)
    for name, result in actual.items():
        what = f"{name} of {case!r}"
        of = tensors[name.removeprefix("gradient of ")] if name.startswith("gradient of ") else None
        assert result.dtype == (dtype if of is None else of.dtype), f"{result.dtype} {what}"
        assert result.shape == expected[name].shape, f"shape {list(result.shape)} {what}"
        is_touched = touched.get(name, torch.zeros_like(expected[name], dtype=torch.bool))
        unnoticed = is_touched & result.isfinite()
        assert not unnoticed.any(), f"{int(unnoticed.sum())} elements are finite, but must not be: {what}"
        undecided = is_touched | ~raw[name].isfinite() | overflow[name] | torch.tensor(open_to_padding)
        if open_to_gaps and name == "gradient of input":
            undecided = torch.ones_like(undecided)
        # torch sums float16 weight gradients in float16; those of the code and the gate are made of them.
        halves = dtype == torch.float16 and may_be_vendors(case) and name.startswith("gradient")
        sums = torch.float16 if halves and name != "gradient of input" else sum_dtype
        bound = _bound(depths[name], magnitude[name], ample[name], {dtype, result.dtype}, sums)
        assert_within(result, expected[name], bound, undecided, what)


def _bound(n: int, magnitude: Tensor, ample: Tensor, dtypes: set[torch.dtype], sum_dtype: torch.dtype) -> Tensor:
    eps, tiny = torch.finfo(sum_dtype).eps, max(map(_lost, dtypes))
    coarser = max((torch.finfo(d).eps / 2 for d in dtypes if torch.finfo(d).eps > eps), default=0.0)
    return (n * eps + ROUNDINGS * coarser) * magnitude + n * tiny * ample


def _lost(dtype: torch.dtype) -> float:
    """What an underflow loses: half a subnormal number, in the vendor's products of bfloat16 a whole normal one."""
    finfo = torch.finfo(dtype)
    return finfo.smallest_normal * (1.0 if dtype == torch.bfloat16 else finfo.eps)


def _may_overflow(case: Case, dtype: torch.dtype, exact: _Exact, magnitude: Results, ample: Results) -> Results:
    """Where a sum or, in half types, a mixed weight or its gradient may be beyond the largest number."""
    most, sums = torch.finfo(dtype).max / 4, torch.finfo(torch.promote_types(dtype, torch.float32)).max / 4
    of_weight = False
    if dtype.itemsize == 2 and case.operator != "mix_weights":
        of_weight = bool(_mixed(exact) >= most)
    result = {}
    for name in magnitude:
        beyond = (magnitude[name] >= most) | (ample[name] >= sums) | torch.tensor(of_weight)
        if dtype.itemsize == 2 and name.startswith("gradient"):
            most_of_all = max(
                (float(a.max()) for n, a in ample.items() if n.startswith("gradient") and a.numel()), default=0
            )
            beyond |= torch.tensor(most_of_all >= most)
        result[name] = beyond
    return result


def _mixed(exact: _Exact) -> float:
    """The largest size of a mixed weight, gated or not."""
    tensors = {name: _finite(t).abs().clamp(min=1.0) for name, t in exact.tensors.items()}
    if "code" not in tensors:
        return float(tensors["weight"].max()) if tensors["weight"].numel() else 0.0
    code = tensors["code"] if tensors["code"].dim() < 3 else tensors["code"].flatten(2).amax(2)  # of all places
    mixed = reference.effective_weight(tensors["weight"], code)
    gate = float(tensors["gate"].max()) if "gate" in tensors and tensors["gate"].numel() else 1.0
    return float(mixed.max()) * gate if mixed.numel() else 0.0


def assert_within(actual: Tensor, expected: Tensor, bound: Tensor, undecided: Tensor, what: str) -> None:
    """Fail unless every decided element is finite and within its bound."""
    error = (actual.double() - expected).abs()
    wrong = ~(error <= bound) & ~undecided  # negated: a NaN is wrong
    if not wrong.any():
        return
    excess = torch.where(wrong, (error / bound.clamp(min=1e-300)).nan_to_num(nan=torch.inf, posinf=1e300), -1.0)
    at = tuple(int(i) for i in torch.unravel_index(excess.flatten().argmax(), excess.shape))
    raise AssertionError(
        f"{int(wrong.sum())} of {wrong.numel()} elements are wrong, worst at {at}: got {actual[at].item()!r}, expected "
        f"{expected[at].item()!r} within {bound[at].item():.3g}: {what}"
    )
