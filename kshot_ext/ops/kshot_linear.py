"""K-shot linear map: mix, gate, slice, multiply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import has_torch_function

from kshot_ext import backend, reference
from kshot_ext.ops import checks, plans
from kshot_ext.ops.differentiable import is_recorded
from kshot_ext.ops.effective_weight import effective_bias, mix, mixing, recorded_pair, unrecorded_pair
from kshot_ext.ops.per_sample_linear import per_sample_linear, suits_one_product


def kshot_linear(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    bias: Tensor | None = None,
    *,
    gate: Tensor | None = None,
    out_features: int | None = None,
) -> Tensor:
    """Apply a linear map mixed from K copies.

        output[n, o] = gate[o] * (bias[o] + sum_i (sum_k code[k] * weight[k, o, i]) * input[n, i])

    Args:
        input: `[N, ..., C_in']`; its last size is the input width: the leading C_in' columns are used.
        weight: dictionary `[K, C_out, C_in]`; float32, float64, bfloat16 or float16.
        code: `[K]` for the whole batch, or `[N, K]`, one row per sample; any real numbers.
        bias: `[C_out]`, or a dictionary `[K, C_out]` mixed with the same code; default: none.
        gate: `[C_out]` or `[N, C_out]`, or just the active part of it; default: no gate.
        out_features: output width C_out'; default: C_out.

    Returns:
        `[N, ..., C_out']`.

    Gradients:
        To `input`, `weight`, `code`, `bias` and `gate`. A second derivative needs the reference backend.

    Raises:
        TypeError, ValueError: on a wrong dtype, rank, size, width or device, naming the argument.

    Example:
        >>> weight = torch.stack([torch.eye(3), 3 * torch.eye(3)])
        >>> kshot_linear(torch.ones(1, 3), weight, torch.tensor([0.5, 0.5]))
        tensor([[2., 2., 2.]])

    Paper: K-shot NAS, arXiv 2106.06442.
    """
    key: plans.Key | None = None
    plan: _Plan | None = None
    if not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()  # this line and the next are `backend.under_transform`
        or forward_ad._current_level >= 0
        or backend.override.reference
        or torch.jit.is_tracing()
        or has_torch_function((input,))  # also of modes
    ):
        try:
            traits, wrapped = plans.traits, plans.is_wrapped
            key = (
                "kshot_linear",
                traits(input), wrapped(input), traits(weight), wrapped(weight), traits(code), wrapped(code),
                bias is not None and (traits(bias), wrapped(bias)),
                gate is not None and (traits(gate), wrapped(gate)),
                f"{out_features!r}",
                torch.is_grad_enabled(),
                torch.is_autocast_enabled(input.device.type),
            )  # fmt: skip
            plan = plans.kept.get(key)
        except (AttributeError, RuntimeError, TypeError):  # no tensor: the checks say so
            key = None
    if plan is None:
        return _first_call(key, input, weight, code, bias, gate, out_features)
    widths = out_features or weight.shape[1], input.shape[-1]
    if plan.mixes_bias:
        return F.linear(input, *plan.run(weight, bias, code, gate, *widths))
    return F.linear(input, plan.run(weight, code, gate, *widths), bias)


def _run(
    plan: _Plan,
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    out_features: int,
) -> Tensor:
    """What `kshot_linear` does with a plan."""
    if plan.mixes_bias:
        return F.linear(input, *plan.run(weight, bias, code, gate, out_features, input.shape[-1]))
    return F.linear(input, plan.run(weight, code, gate, out_features, input.shape[-1]), bias)


class _Plan(NamedTuple):
    """What mixes the weight, and the bias with it; or else the bias is used as it is."""

    run: Callable[..., Any]
    mixes_bias: bool


def _first_call(
    key: plans.Key | None,
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    out_features: int | None,
) -> Tensor:
    """A call without a plan: checks it and runs it; keeps a plan if there is a `key` for it, and nothing to cast."""
    out_features = _checked(input, weight, code, bias, gate, out_features)
    if backend.kernels_for(input.device) is None:
        return reference.kshot_linear(input, weight, code, bias, gate=gate, out_features=out_features)
    if key is not None:
        plan = _plan_of(input, weight, code, bias, gate, out_features)
        if plan is not None:
            plans.keep(key, plan)
            return _run(plan, input, weight, code, bias, gate, out_features)  # which saves what later calls save
    if code.dim() == 2 and input.dim() == 2 and suits_one_product(input):
        return per_sample_linear(input, weight, code, bias, gate, out_features)
    mixed = mix(weight, code, gate, out_features, input.shape[-1])
    mixed_bias = effective_bias(bias, code, gate, out_features)
    if mixed.dim() == 2:
        if mixed_bias is None or mixed_bias.dim() == 1:
            return F.linear(input, mixed, mixed_bias)
    rows = input.reshape(input.shape[0], input.shape[1:-1].numel(), input.shape[-1])  # [N, R, C_in']
    output = torch.matmul(rows, mixed.mT)
    if mixed_bias is not None:
        output = output + (mixed_bias[:, None, :] if mixed_bias.dim() == 2 else mixed_bias).to(output.dtype)
    return output.reshape(*input.shape[:-1], out_features)


def _plan_of(
    input: Tensor, weight: Tensor, code: Tensor, bias: Tensor | None, gate: Tensor | None, out_features: int
) -> _Plan | None:
    """The plan of calls like this one: with one code for the batch, and nothing to cast or cut."""
    sum_dtype = torch.promote_types(weight.dtype, torch.float32)
    shared = code.dim() == 1 and (gate is None or gate.shape == (out_features,))
    alike = all(each is None or each.dtype == sum_dtype for each in (code, gate))
    if not (shared and alike and plans.are_plain(input, weight, code, bias, gate)):
        return None
    if bias is not None and bias.dim() == 1 and (gate is not None or bias.shape[0] != out_features):
        return None
    if bias is not None and bias.dtype != weight.dtype:
        return None

    recorded = is_recorded((weight, bias, code, gate))
    if bias is not None and bias.dim() == 2:
        return _Plan(recorded_pair if recorded else unrecorded_pair, True)
    return _Plan(mixing.recorded if is_recorded((weight, code, gate)) else mixing.unrecorded, False)


def _checked(
    input: Tensor, weight: Tensor, code: Tensor, bias: Tensor | None, gate: Tensor | None, out_features: int | None
) -> int:
    """The output width of a call without a mistake."""
    checks.check_tensor("input", input, "[N, ..., C_in]", range(2, 9))
    checks.check_dictionary(weight, "[K, C_out, C_in]", (3,))
    checks.check_companion("weight", weight, "input", input)
    checks.check_same_dtype("weight", weight, "input", input)
    checks.check_code(code, weight, input.shape[0])
    total_out, total_in = weight.shape[1:]
    if not 1 <= input.shape[-1] <= total_in:
        raise ValueError(f"input has {input.shape[-1]} features, expected 1 to {total_in} (C_in of the weight)")
    if out_features is None:
        out_features = total_out
    elif not 1 <= out_features <= total_out:
        raise ValueError(f"out_features must be 1 to {total_out} (C_out of the weight), got {out_features}")
    if gate is not None:
        checks.check_gate(gate, weight, total_out, out_features, input.shape[0])
    if bias is not None:
        checks.check_bias(bias, weight)
    return out_features
