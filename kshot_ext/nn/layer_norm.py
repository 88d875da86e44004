"""K-shot layer norm: `torch.nn.LayerNorm` with K copies of its affine parameters."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nn.code import by_samples
from kshot_ext.nn.conversions import register_conversion
from kshot_ext.nn.mixed import KShotMixed


class KShotLayerNorm(KShotMixed):
    """`torch.nn.LayerNorm` with K copies of weight and bias, `[K, *normalized_shape]`.

        y[n, ..., i] = weight[n, i] * normalised(x)[n, ..., i] + bias[n, i],    weight[n] = sum_k code[n, k] * weight[k]

    `forward(input, code=None)`: a code is `[K]`, or `[N, K]` for one row per sample, the first dimension of the input.
    It mixes, then calls torch.

    Args:
        num_shots: K, the number of copies; all other arguments are those of `torch.nn.LayerNorm`.

    Example:
        >>> import torch
        >>> KShotLayerNorm(8, num_shots=3)(torch.randn(4, 5, 8), torch.tensor([1.0, 0.0, 0.0])).shape
        torch.Size([4, 5, 8])
    """

    plain = nn.LayerNorm
    normalized_shape: tuple[int, ...]
    eps: float

    def row_axes(self, input: Tensor) -> range:
        return range(input.dim() - len(self.normalized_shape))

    @by_samples
    def forward(self, input: Tensor, code: Tensor | None = None) -> Tensor:
        own = len(self.normalized_shape)
        parameters = self.mixed_parameters(code, len(input))
        weight, bias = parameters["weight"], parameters["bias"]
        if weight is None or weight.dim() == own:
            return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)
        if input.dim() <= own:
            raise ValueError(
                f"a code per sample needs an input [N, ..., *{list(self.normalized_shape)}], got {list(input.shape)}"
            )
        output = F.layer_norm(input, self.normalized_shape, eps=self.eps)
        shape = (len(input), *(1,) * (input.dim() - own - 1), *self.normalized_shape)
        output = output * weight.reshape(shape)
        return output if bias is None else output + bias.reshape(shape)


register_conversion(nn.LayerNorm, KShotLayerNorm.from_plain, KShotLayerNorm.to_plain)
