"""Layer norm of the leading features, as the transformers of AutoFormer share one among all widths."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nn.conversions import register_conversion
from kshot_ext.nn.mixed import KShotOfLastAxis
from kshot_ext.nn.narrowing import Narrowable, Widths, filled, require_at_most, require_same


class DynamicLayerNorm(Narrowable, nn.LayerNorm):
    """`torch.nn.LayerNorm` over the last axis whose width is the input's.

        y[..., i] = weight[i] * (x[..., i] - mean(x)) / sqrt(var(x) + eps) + bias[i],    i < C', moments over these

    `forward(x)`: `[..., C']` to the same shape; weight and bias are used by their leading part.

    Args:
        max_features: of the whole layer.
        eps, elementwise_affine, bias: as in `torch.nn.LayerNorm`.

    Raises:
        ValueError: if the input has more features than there are.

    `kshot_ext.convert` makes K copies of its parameters.

    Example:
        >>> DynamicLayerNorm(16)(torch.randn(2, 5, 12)).shape
        torch.Size([2, 5, 12])

    Paper: AutoFormer, arXiv 2107.00651.
    """

    plain = nn.LayerNorm

    def __init__(
        self,
        max_features: int,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(max_features, eps, elementwise_affine, bias, device, dtype)
        self.max_features = max_features

    def forward(self, x: Tensor) -> Tensor:
        features = x.shape[-1]
        self.require_inputs(features)
        if not 1 <= features <= self.max_features:
            raise ValueError(f"input must have 1 to {self.max_features} features, got {list(x.shape)}")
        leading = self._leading(features)
        return F.layer_norm(x, (features,), leading["weight"], leading["bias"], self.eps)

    def fix_like(self, plain: nn.LayerNorm) -> None:
        require_same(self, plain, "elementwise_affine", "eps")
        if len(plain.normalized_shape) != 1 or (plain.bias is None) != (self.bias is None):
            raise ValueError(f"expected one axis and bias={self.bias is not None}, got {plain}")
        self.widths = Widths(*2 * plain.normalized_shape)
        require_at_most(Widths(self.max_features, self.max_features), self.widths)

    def to_plain(self) -> nn.LayerNorm:
        features, has_bias = self.fixed_widths.outputs, self.bias is not None
        layer = nn.LayerNorm(features, self.eps, self.elementwise_affine, has_bias, device="meta")
        return filled(layer, self._leading(features), self.weight, self.training)

    def _leading(self, features: int) -> dict[str, Tensor | None]:
        return {name: None if p is None else p[:features] for name, p in (("weight", self.weight), ("bias", self.bias))}


class KShotDynamicLayerNorm(KShotOfLastAxis):
    """`DynamicLayerNorm` with K copies of weight and bias."""

    plain = DynamicLayerNorm


register_conversion(DynamicLayerNorm, KShotDynamicLayerNorm.from_plain, KShotDynamicLayerNorm.to_plain)
