"""A linear map with a weight per sample, for one row a sample: as cheap as mixing the weights alone would be."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot_ext import backend
from kshot_ext.ops.effective_weight import effective_bias, leading
from kshot_ext.ops.fused_conv2d import fused_conv2d
from kshot_ext.ops.window import Window

_PIXEL = Window((1, 1), (1, 1), (0, 0, 0, 0), (1, 1))


def per_sample_linear(
    input: Tensor, weight: Tensor, code: Tensor, bias: Tensor | None, gate: Tensor | None, out_channels: int
) -> Tensor:
    """Apply every copy to the batch, each row times the sample's coefficient, and add up the results.

        output[n, o] = gate[o] * (bias[o] + sum_k sum_i weight[k, o, i] * (code[n, k] * input[n, i]))

    Mixing first takes as many multiplications, N * K * C_out * C_in, only to use each weight once; this way the
    dictionary is read once for the whole batch. The coefficients come first, so that a copy which a sample does not
    use cannot overflow. In float32 on the CPU it is one operator of ours, elsewhere torch's batched product.

    Args:
        input: `[N, C_in']`.
        weight: dictionary `[K, C_out, C_in]`, of which the leading channels are used.
        code: `[N, K]`.
        bias, gate: as `kshot_linear` takes them; the leading C_out' are used.
        out_channels: C_out'.

    Returns:
        `[N, C_out']`.
    """
    mixed_bias = effective_bias(bias, code, None, out_channels)
    if stacks_by_itself(input):
        image, dictionary = input[..., None, None], weight[..., None, None]
        code = code.to(input.dtype)
        output = fused_conv2d(image, dictionary, code, None, mixed_bias, out_channels, _PIXEL, False).flatten(1)
    else:
        rows = code.to(input.dtype).t()[:, :, None] * input  # [K, N, C_in']
        output = torch.bmm(rows, weight[:, :out_channels, : input.shape[1]].mT).sum(0)
        if mixed_bias is not None:
            output = output + mixed_bias.to(output.dtype)
    return output if gate is None else output * leading(gate, out_channels).to(output.dtype)


def suits_one_product(input: Tensor) -> bool:
    """Whether rounding the results of the copies, in place of the mixed weight, loses nothing: in full precision."""
    return input.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(input.device.type)


def stacks_by_itself(input: Tensor) -> bool:
    """Whether `fused_conv2d` applies every copy to such a batch of single pixels, rather than mix a weight for each."""
    return input.dtype == torch.float32 and backend.kernels_for(input.device) == "cpu"
