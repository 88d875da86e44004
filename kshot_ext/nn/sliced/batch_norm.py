"""Batch norm of which each call uses the leading channels, as once-for-all's `DynamicBatchNorm2d`."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kshot_ext.nn.batch_norm import KShotBatchNorm2d, norm_act
from kshot_ext.nn.narrowing import Sliced, Widths, filled, require_at_most, require_same


class DynamicBatchNorm2d(Sliced):
    """`torch.nn.BatchNorm2d` whose width is the input's: it uses the leading part of parameters and running statistics.

        y[n, c] = (x[n, c] - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c],    c < C'

    Training moves the running statistics of the first C' channels, in place. They are a mean over all widths that came
    by, so evaluate a sub-network after its statistics were made anew. The parameters are `bn.weight`, `bn.bias`,
    `bn.running_mean`, ..., as in once-for-all.

    Args:
        max_feature_dim: channels of the whole layer.
        num_shots: K copies of weight and bias, mixed by the code that `kshot_ext.set_code` gives; default: plain ones.

    Attributes:
        SET_RUNNING_STATISTICS: of the class; True lets the inner norm `bn` do all calls by its own forward, which
            whoever estimates statistics (once-for-all's `set_running_statistics`) has replaced then. A replaced forward
            of one inner norm does the same for it.

    `forward(x, *, activation="identity", residual=None)`: `[N, C', H, W]` to the same shape, as `batch_norm_act`.

    Example:
        >>> norm = DynamicBatchNorm2d(8)
        >>> norm(torch.randn(4, 6, 5, 5)).shape, norm.bn.running_mean[6:].tolist()
        (torch.Size([4, 6, 5, 5]), [0.0, 0.0])

    Paper: once-for-all, arXiv 1908.09791; statistics of sub-networks, arXiv 1903.05134.
    """

    plain = nn.BatchNorm2d
    SET_RUNNING_STATISTICS: ClassVar[bool] = False

    def __init__(
        self,
        max_feature_dim: int,
        *,
        num_shots: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.max_feature_dim = max_feature_dim
        self.bn = inner_norm(max_feature_dim, num_shots, device=device, dtype=dtype)

    def forward(self, x: Tensor, *, activation: str = "identity", residual: Tensor | None = None) -> Tensor:
        self.require_inputs(x.shape[1])
        bn = self.bn
        output: Tensor
        if isinstance(bn, KShotBatchNorm2d):
            output = bn(x, activation=activation, residual=residual)
            return output
        if (self.SET_RUNNING_STATISTICS or "forward" in vars(bn)) and activation == "identity" and residual is None:
            output = bn(x)
            return output
        return norm_act(bn, x, activation, residual)

    def fix_like(self, plain: nn.BatchNorm2d) -> None:
        require_same(self.bn, plain, "affine", "track_running_stats", "eps")
        self.widths = Widths(plain.num_features, plain.num_features)
        require_at_most(Widths(self.max_feature_dim, self.max_feature_dim), self.widths)

    def to_plain(self) -> nn.BatchNorm2d:
        bn, channels = self.bn, self.fixed_widths.outputs
        layer = nn.BatchNorm2d(channels, bn.eps, bn.momentum, bn.affine, bn.track_running_stats, device="meta")
        tensors = {**bn._parameters, **bn._buffers}
        values = {name: t if t is None or t.dim() == 0 else t[..., :channels] for name, t in tensors.items()}
        return filled(layer, values, bn.weight, self.training)


def inner_norm(features: int, num_shots: int | None, **where: Any) -> nn.BatchNorm2d | KShotBatchNorm2d:
    """The layer that keeps the parameters, with K copies if `num_shots` says so."""
    return (
        nn.BatchNorm2d(features, **where)
        if num_shots is None
        else KShotBatchNorm2d(features, num_shots=num_shots, **where)
    )
