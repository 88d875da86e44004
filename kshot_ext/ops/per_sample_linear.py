"""A linear map with a weight per sample, for one row a sample: as cheap as mixing the weights alone would be."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_ext.ops.effective_weight import effective_bias


def per_sample_linear(input: Tensor, weight: Tensor, code: Tensor, bias: Tensor | None, gate: Tensor | None) -> Tensor:
    """Apply every copy to the batch, each row times the sample's coefficient, and add up the results.

        output[n, o] = gate[o] * (bias[o] + sum_k sum_i weight[k, o, i] * (code[n, k] * input[n, i]))

    Mixing first takes as many multiplications, N * K * C_out * C_in, only to use each weight once; this way the
    dictionary is read once for the whole batch. The coefficients come first, so that a copy which a sample does not
    use cannot overflow.

    Args:
        input: `[N, C_in]`.
        weight: the active part of a dictionary, `[K, C_out, C_in]`.
        code: `[N, K]`.
        bias, gate: as `kshot_linear` takes them; the leading C_out are used.

    Returns:
        `[N, C_out]`.
    """
    rows = code.to(input.dtype).t()[:, :, None] * input  # [K, N, C_in]
    output = torch.bmm(rows, weight.mT).sum(0)
    out_channels = weight.shape[1]
    mixed_bias = effective_bias(bias, code, None, out_channels)
    if mixed_bias is not None:
        output = output + mixed_bias.to(output.dtype)
    return output if gate is None else output * gate[..., :out_channels].to(output.dtype)


def suits_one_product(input: Tensor) -> bool:
    """Whether rounding the results of the copies, in place of the mixed weight, loses nothing: in full precision."""
    return input.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(input.device.type)
