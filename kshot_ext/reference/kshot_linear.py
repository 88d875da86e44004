"""K-shot linear map."""

from __future__ import annotations

from torch import Tensor

from kshot_ext.reference.effective_weight import effective_weight
from kshot_ext.reference.kshot_conv import effective_bias


def kshot_linear(
    input: Tensor,
    weight: Tensor,
    code: Tensor,
    bias: Tensor | None = None,
    *,
    gate: Tensor | None = None,
    out_features: int | None = None,
) -> Tensor:
    """Linear map with a weight mixed from K copies.

        output[n, o] = gate[o] * (bias[o] + sum_i sum_k code[k] * weight[k, o, i] * input[n, i])

    Args:
        input: `[N, ..., C_in']`.
        weight: dictionary `[K, C_out, C_in]`.
        code: `[K]` or `[N, K]`.
        bias: `[C_out]`, or a dictionary `[K, C_out]`.
        gate: `[C_out]` or `[N, C_out]`.
        out_features: output width C_out'; default: C_out.

    Returns:
        `[N, ..., C_out']`.

    Example:
        >>> weight = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
        >>> kshot_linear(torch.tensor([[1.0, 1.0]]), weight, torch.tensor([0.5, 0.5]))
        tensor([[5.]])
    """
    out_features = out_features or weight.shape[1]
    mixed_weight = effective_weight(weight, code, gate=gate, out_channels=out_features, in_channels=input.shape[-1])
    mixed_bias = effective_bias(bias, code, gate, out_features)
    rows = input.reshape(input.shape[0], input.shape[1:-1].numel(), input.shape[-1])  # [N, R, C_in']
    output = rows @ mixed_weight.transpose(-2, -1)  # which ONNX has, unlike `mT`
    if mixed_bias is not None:
        output = output + (mixed_bias[:, None, :] if mixed_bias.dim() == 2 else mixed_bias)
    return output.reshape(*input.shape[:-1], out_features)
