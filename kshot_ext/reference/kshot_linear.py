"""K-shot linear map: output[n, o] = gate[o] * (bias[o] + sum_i sum_k code[k] * weight[k, o, i] * input[n, i])."""

from __future__ import annotations

from torch import Tensor

from kshot_ext.reference.effective_weight import effective_weight
from kshot_ext.reference.kshot_conv import effective_bias


def kshot_linear(
    input: Tensor,  # [N, ..., C_in']
    weight: Tensor,  # [K, C_out, C_in]
    code: Tensor,  # [K] or [N, K]
    bias: Tensor | None = None,  # [C_out] or [K, C_out]
    *,
    gate: Tensor | None = None,  # [C_out] or [N, C_out]
    out_features: int | None = None,
) -> Tensor:  # [N, ..., C_out']
    out_features = out_features or weight.shape[1]
    mixed_weight = effective_weight(weight, code, gate=gate, out_channels=out_features, in_channels=input.shape[-1])
    mixed_bias = effective_bias(bias, code, gate, out_features)
    rows = input.reshape(input.shape[0], input.shape[1:-1].numel(), input.shape[-1])  # [N, R, C_in']
    output = rows @ mixed_weight.transpose(-2, -1)  # which ONNX has, unlike `mT`
    if mixed_bias is not None:
        output = output + (mixed_bias[:, None, :] if mixed_bias.dim() == 2 else mixed_bias)
    return output.reshape(*input.shape[:-1], out_features)
