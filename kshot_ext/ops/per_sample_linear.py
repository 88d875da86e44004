"""A linear map with a weight per sample, for one row a sample: as cheap as mixing the weights alone would be."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kshot_ext.ops.effective_weight import effective_bias


def per_sample_linear(input: Tensor, weight: Tensor, code: Tensor, bias: Tensor | None, gate: Tensor | None) -> Tensor:
    """Apply all K copies to the batch in one matrix product, and mix the results.

        output[n, o] = gate[o] * (bias[o] + sum_k code[n, k] * (sum_i weight[k, o, i] * input[n, i]))

    Mixing first takes as many multiplications, N * K * C_out * C_in, only to use each weight once; this way the
    dictionary is read once for the whole batch.

    Args:
        input: `[N, C_in]`.
        weight: the active part of a dictionary, `[K, C_out, C_in]`.
        code: `[N, K]`.
        bias, gate: as `kshot_linear` takes them; the leading C_out are used.

    Returns:
        `[N, C_out]`.
    """
    of_copies = F.linear(input, weight.flatten(0, 1)).unflatten(1, weight.shape[:2])  # [N, K, C_out]
    output = torch.bmm(code[:, None, :].to(of_copies.dtype), of_copies).squeeze(1)
    out_channels = weight.shape[1]
    mixed_bias = effective_bias(bias, code, None, out_channels)
    if mixed_bias is not None:
        output = output + mixed_bias.to(output.dtype)
    return output if gate is None else output * gate[..., :out_channels].to(output.dtype)


def suits_one_product(input: Tensor) -> bool:
    """Whether rounding the results of the copies, in place of the mixed weight, loses nothing: in full precision."""
    return input.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(input.device.type)
