"""Batch norm against the reference in float64, under a bound from its operations.

With x of mean m and deviation s in a channel of P values, xhat = (x - m) / s: a sum of P terms is off by gamma_P of the
sum of their sizes, so xhat by gamma_P * X with X = (|x| + mean |x|) / s, whatever cancels, and

    |z - exact|  <= gamma * Z,   Z = X * |weight| + |bias| + |residual|      slope * g: gamma * G,  G = |g| * (1.5 + Z)
    |dx - exact| <= gamma * (|weight| G + mean(|weight| G) + X * mean(|weight| G X)) / s

Sums and statistics are in float32 at least: in half types a few roundings of parameters and results come on top, of the
size of the results themselves, not of X.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kshot_ext import functional as KF
from kshot_ext import reference
from kshot_ext.reference.effective_weight import effective_weight

from .case import DTYPES, Case
from .linear_check import assert_within, must_be_refused
from .running import Results, cotangents, machine, run

_KINKS = {"identity": (), "relu": (0.0,), "relu6": (0.0, 6.0), "silu": (), "hardswish": (-3.0, 3.0)}
_SLOPE = 1.5  # the steepest activation, and how fast slopes change


def tensors_of(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Differentiable tensors, running statistics, options."""
    s, dtype = case.sizes, DTYPES[case.dtype]
    parameters = DTYPES[case.parameter_dtype or case.dtype]
    shape, channels = tuple(s["input"]), s["channels"]
    tensors = {"input": case.tensor("input", shape, dtype, 0)}
    for i, name in enumerate(("weight", "bias"), start=1):
        if s.get(name):
            size = (s["shots"], channels) if s[name] == "dictionary" else (channels,)
            tensors[name] = case.tensor(name, size, parameters, i)
    if "dictionary" in (s.get("weight"), s.get("bias")):
        size = (*((shape[0],) if s.get("code_per_sample") else ()), s["shots"])
        tensors["code"] = case.tensor("code", size, parameters, 3)
    if s.get("residual"):
        tensors["residual"] = case.tensor("residual", shape, dtype, 4)
    state = {}
    if s.get("running"):
        mean, var = (case.tensor("statistics", (channels,), parameters, i).double() for i in (5, 6))
        state = {"running_mean": mean.to(parameters), "running_var": (var.square() + 0.5).to(parameters)}
    options = {name: s[name] for name in ("training", "activation", "momentum", "eps") if name in s}
    return tensors, state, options


def _run(function, tensors, state, options, constant, of_outputs) -> tuple[Results, dict[str, Tensor]]:
    after = {name: t.clone() for name, t in state.items()}
    absent = {name: None for name in ("weight", "bias") if name not in tensors}
    absent |= {name: None for name in ("running_mean", "running_var") if name not in state}
    return run(function, tensors, {**options, **absent, **after}, constant, of_outputs), after


def check(case: Case) -> bool:
    """Fail unless batch norm does on this case what the reference does; False if both refuse the call."""
    tensors, state, options = tensors_of(case)
    arguments = (tensors, state, options, case.constant)
    try:
        of_reference: Any = _run(reference.batch_norm_act, *arguments, lambda outputs: cotangents(case, outputs))
    except (ValueError, RuntimeError, TypeError, ZeroDivisionError) as error:
        of_reference = error
    with machine(case):
        try:
            actual, after = _run(KF.batch_norm_act, *arguments, lambda outputs: cotangents(case, outputs))
        except (ValueError, RuntimeError, TypeError) as error:
            must_be_refused(error, of_reference, case)
            return False
    assert not isinstance(of_reference, Exception), f"took what the reference refuses: {of_reference}: {case!r}"
    of_outputs = [c.double() for c in cotangents(case, [actual["output 0"]])]
    doubles = ({name: t.double() for name, t in group.items()} for group in (tensors, state))
    exact, exact_after = _run(reference.batch_norm_act, *doubles, options, case.constant, lambda outputs: of_outputs)
    if tensors["input"].numel() == 0:
        assert all(result.shape == exact[name].shape for name, result in actual.items()), repr(case)
    else:
        sizes = _Sizes(case, tensors, state, options, of_outputs[0])
        _compare(case, {**actual, **after}, {**exact, **exact_after}, sizes)
    return True


class _Sizes:
    """The sizes Z, X, G of the file's head, from finite values."""

    def __init__(self, case: Case, tensors, state, options, cotangent: Tensor) -> None:
        values = {name: torch.where(t.isfinite(), t, 0.0).double() for name, t in tensors.items()}
        x = self.x = values["input"]
        self.over = [d for d in range(x.dim()) if d != 1]
        self.training = options.get("training", True) or not state
        channels = x.shape[1]
        if self.training:
            mean, var, size = x.mean(self.over), x.var(self.over, correction=0), x.abs().mean(self.over)
        else:
            mean, var = (state[name].double()[:channels] for name in ("running_mean", "running_var"))
            size = mean.abs()
        deviation = (var + options.get("eps", 1e-5)).sqrt()
        self.deviation = self._per_channel(deviation)
        self.normalised = ((x - self._per_channel(mean)) / self.deviation).abs()
        self.sums = (x.abs() + self._per_channel(size)) / self.deviation
        self.mean_size, self.var = size, var
        self.all_finite = all(t.isfinite().all() for t in (*tensors.values(), cotangent))
        self.cotangent = torch.where(cotangent.isfinite(), cotangent, 0.0).abs()
        self.leaves = {name: values[name].abs().requires_grad_() for name in values if name != "input"}
        self.z = self._z(self.sums)
        self.plain_z = self._z(self.normalised)
        self.weight = self._affine("weight", 1.0)

    def _per_channel(self, t: Tensor) -> Tensor:
        return t.reshape(*t.shape, *(1,) * (self.x.dim() - 2))

    def _affine(self, name: str, otherwise: float) -> Tensor:
        if name not in self.leaves:
            return torch.full((1,) * self.x.dim(), otherwise, dtype=torch.float64)
        parameter, channels = self.leaves[name], self.x.shape[1]
        if parameter.dim() == 2:
            parameter = effective_weight(parameter, self.leaves["code"], out_channels=channels)
        return self._per_channel(parameter[..., :channels])

    def _z(self, normalised: Tensor) -> Tensor:
        z = normalised * self._affine("weight", 1.0) + self._affine("bias", 0.0)
        return z + self.leaves["residual"] if "residual" in self.leaves else z

    def results(self, normalised: Tensor) -> Results:
        """Sizes of the results, with `normalised` in place of xhat."""
        z = self._z(normalised)
        g = self.cotangent * (_SLOPE + self.z.detach())
        results = {"output 0": _SLOPE * z.detach()}
        if self.leaves and z.requires_grad:
            leaves = list(self.leaves.values())
            found = torch.autograd.grad(z, leaves, g, allow_unused=True)
            for (name, leaf), gradient in zip(self.leaves.items(), found):
                results[f"gradient of {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
        weighted = (self.weight * g).detach()
        means = [weighted.mean(self.over, keepdim=True), (weighted * normalised).mean(self.over, keepdim=True)]
        through = means[0] + normalised * means[1] if self.training else 0.0
        results["gradient of input"] = (weighted + through) / self.deviation
        return results


def _compare(case: Case, actual: Results, expected: Results, sizes: _Sizes) -> None:
    dtype = DTYPES[case.dtype]
    sum_dtype = torch.promote_types(dtype, torch.float32)
    eps = torch.finfo(sum_dtype).eps
    n = math.prod(sizes.x.shape) // sizes.x.shape[1] + case.sizes.get("shots", 1) + 16
    if not sizes.all_finite:
        return _compare_finiteness(case, actual, expected)
    sums, plain = sizes.results(sizes.sums), sizes.results(sizes.normalised)
    # Where z lies at a corner of the activation, either slope is right.
    z = expected_z(case)
    kinks = [
        ((z - kink).abs() <= n * eps * sizes.z.detach() * 4 + 1e-30).any() for kink in _KINKS[case.sizes["activation"]]
    ]
    at_a_corner = torch.tensor(any(kinks))
    undecided_size = torch.finfo(sum_dtype).max / 4
    for name, result in actual.items():
        what = f"{name} of {case!r}"
        coarser = _roundings(case, result.dtype, eps)
        if name.startswith("running"):
            size = expected[name].abs() + 1.0
            size[: len(sizes.var)] += sizes.mean_size + sizes.var + sizes.mean_size**2
            assert_within(result, expected[name], (n * eps + coarser) * size, torch.tensor(False), what)
            continue
        bound = n * eps * sums[name] + coarser * plain[name] + n * torch.finfo(result.dtype).smallest_normal
        undecided = (sums[name] >= min(undecided_size, torch.finfo(result.dtype).max / 4)) | (
            at_a_corner & torch.tensor(name.startswith("gradient"))
        )
        assert_within(result, expected[name], bound.detach(), undecided, what)


def _roundings(case: Case, result: torch.dtype, eps: float) -> float:
    """What rounding to coarser types than the sums' adds: the result's once, that of mixed affine parameters twice."""
    parameters = DTYPES[case.parameter_dtype or case.dtype]
    rounded = [torch.finfo(result).eps / 2] if torch.finfo(result).eps > eps else []
    if parameters.itemsize == 2 and "dictionary" in (case.sizes.get("weight"), case.sizes.get("bias")):
        rounded += 2 * [torch.finfo(parameters).eps / 2]
    return sum(rounded)


def expected_z(case: Case) -> Tensor:
    """The argument of the activation, in float64."""
    tensors, state, options = tensors_of(case)
    doubles = ({name: t.double() for name, t in group.items()} for group in (tensors, state))
    options = {**options, "activation": "identity"}
    return _run(reference.batch_norm_act, *doubles, options, list(tensors), lambda outputs: [])[0]["output 0"]


def _compare_finiteness(case: Case, actual: Results, expected: Results) -> None:
    """Outputs are finite where the reference's are. Where the argument of the activation is not, they need not be: an
    infinite weight may make it infinite or, as in torch's own batch norm, no number, and ReLU makes 0 of -inf.
    """
    name = "output 0"
    differ = (actual[name].isfinite() != expected[name].isfinite()) & expected_z(case).isfinite()
    assert not differ.any(), f"{int(differ.sum())} elements are finite only here or only there: {name} of {case!r}"
