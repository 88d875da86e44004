"""K-shot group norm: `torch.nn.GroupNorm` with K copies of its affine parameters."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nn.code import by_samples
from kshot_ext.nn.conversions import register_conversion
from kshot_ext.nn.mixed import KShotMixed


class KShotGroupNorm(KShotMixed):
    """`torch.nn.GroupNorm` with K copies of weight and bias, `[K, C]`.

        y[n, c, ...] = weight[n, c] * normalised(x)[n, c, ...] + bias[n, c],    weight[n] = sum_k code[n, k] * weight[k]

    `forward(input, code=None)`: a code is `[K]`, or `[N, K]` for one row per sample. It mixes, then calls torch.

    Args:
        num_shots: K, the number of copies; all other arguments are those of `torch.nn.GroupNorm`.

    Example:
        >>> import torch
        >>> KShotGroupNorm(2, 8, num_shots=3)(torch.randn(4, 8, 5, 5), torch.tensor([1.0, 0.0, 0.0])).shape
        torch.Size([4, 8, 5, 5])
    """

    plain = nn.GroupNorm
    num_groups: int
    eps: float

    @by_samples
    def forward(self, input: Tensor, code: Tensor | None = None) -> Tensor:
        parameters = self.mixed_parameters(code, len(input))
        weight, bias = parameters["weight"], parameters["bias"]
        if weight is None or weight.dim() == 1:
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)
        shape = (*weight.shape, *(1,) * (input.dim() - 2))
        output = F.group_norm(input, self.num_groups, eps=self.eps) * weight.reshape(shape)
        return output if bias is None else output + bias.reshape(shape)


register_conversion(nn.GroupNorm, KShotGroupNorm.from_plain, KShotGroupNorm.to_plain)
