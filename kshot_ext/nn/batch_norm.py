"""K-shot batch norms: `torch.nn.BatchNorm1d/2d/3d` with K copies of their affine parameters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm

from kshot_ext import functional as KF
from kshot_ext.nn.code import KShotModule
from kshot_ext.nn.conversions import register_conversion
from kshot_ext.ops.synchronized_batch_norm import synchronized_batch_norm_act

if TYPE_CHECKING:
    from typing_extensions import Self

ACTIVATION_NAMES = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.SiLU: "silu", nn.Hardswish: "hardswish"}
"""The modules that `batch_norm_act` does in its pass, by their classes, exactly."""


class NormalisesBatch(KShotModule, _BatchNorm):
    """Base of the K-shot layers that normalise by the batch: affine parameters `[K, C]`, running statistics `[C]`.

    They are batch norms to whoever looks for such layers to work on their statistics, as
    `torch.optim.swa_utils.update_bn` and `torch.func.replace_all_batch_norm_modules_` do.
    """

    process_group: dist.ProcessGroup | None = None

    def forward(
        self,
        input: Tensor,
        code: Tensor | None = None,
        *,
        activation: str = "identity",
        residual: Tensor | None = None,
    ) -> Tensor:
        """`batch_norm_act` of `[N, C, H, W]` with this layer's parameters."""
        if isinstance(input, Proxy):
            other = None if activation == "identity" else activation
            return self.leaf_of_graph(input, code=code, activation=other, residual=residual)
        if input.dim() != 4:
            raise ValueError(f"input must have shape [N, C, H, W], got {list(input.shape)}")
        if not self.affine:
            code = None
        elif code is None:
            code = self._code if self._rows is None else self.code_of_rows(input)  # a call that is saved as a rule
        if self.affine and (code is None or self.check_code):  # a call that is saved where there is nothing to check
            code = self.resolve_code(code)
        momentum = self.momentum
        if momentum is None or self.num_batches_tracked is None:
            momentum = count_batch(self)
        elif self.training and self.track_running_stats:  # as `count_batch`, without the call
            self.num_batches_tracked.add_(1)
        training = self.training or self.running_mean is None  # statistics that are not tracked any more are used, too
        keeps = self.track_running_stats or not training
        synchronized = training and self.process_group is not None
        where: dict[str, Any] = {"group": self.process_group} if synchronized else {"training": training}
        normalised: Callable[..., Tensor] = synchronized_batch_norm_act if synchronized else KF.batch_norm_act
        return normalised(
            input,
            self.weight,
            self.bias,
            self.running_mean if keeps else None,
            self.running_var if keeps else None,
            code=code,
            momentum=momentum,
            eps=self.eps,
            activation=activation,
            residual=residual,
            **where,
        )

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        # torch's and timm's functions of this name would go on with a layer of one copy.
        if sys._getframe(1).f_code.co_name == "convert_sync_batchnorm":
            raise ValueError(
                f"convert_sync_batchnorm makes layers of one copy, and this is a {self._get_name()} of "
                f"{self.num_shots}: use kshot_ext.distributed.synchronize_batch_norm(model, group) instead"
            )
        return super().named_children()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "process_group": None}  # a group of processes belongs to this one


class _KShotBatchNorm(NormalisesBatch):
    """Shared by the three classes below."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        num_shots: int = 8,
    ) -> None:
        super().__init__(num_shots)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.register_parameter(
            "weight", nn.Parameter(torch.ones(num_shots, num_features, **where)) if affine else None
        )
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_shots, num_features, **where)) if affine else None)
        tracked = track_running_stats
        self.register_buffer("running_mean", torch.zeros(num_features, **where) if tracked else None)
        self.register_buffer("running_var", torch.ones(num_features, **where) if tracked else None)
        self.register_buffer(
            "num_batches_tracked", torch.tensor(0, dtype=torch.long, device=device) if tracked else None
        )

    @classmethod
    def geometry(cls, layer: nn.Module) -> dict[str, Any]:
        names = ("num_features", "eps", "momentum", "affine", "track_running_stats")
        return {name: getattr(layer, name) for name in names}

    def narrowed(self, plain: Any) -> Self:
        layer = super().narrowed(plain)
        layer.num_features = plain.num_features
        layer.process_group = self.process_group
        return layer

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}, num_shots={self.num_shots}"
        )


class KShotBatchNorm1d(_KShotBatchNorm):
    """`torch.nn.BatchNorm1d` with K copies of weight and bias, `[K, C]`; the running statistics are shared.

    `forward(input, code=None)`, the input `[N, C]` or `[N, C, L]`, is `batch_norm_act` with this layer's parameters.

    Args:
        num_shots: K, the number of copies; all other arguments are those of `torch.nn.BatchNorm1d`.

    Example:
        >>> KShotBatchNorm1d(8, num_shots=2)(torch.randn(4, 8), torch.tensor([0.5, 0.5])).shape
        torch.Size([4, 8])
    """

    plain = nn.BatchNorm1d

    def forward(self, input: Tensor, code: Tensor | None = None) -> Tensor:  # type: ignore[override]  # adds nothing
        if isinstance(input, Proxy):
            return self.leaf_of_graph(input, code=code)
        if input.dim() not in (2, 3):
            raise ValueError(f"input must have shape [N, C] or [N, C, L], got {list(input.shape)}")
        image = input[..., None] if input.dim() == 3 else input[..., None, None]
        return super().forward(image, code).reshape(input.shape)


class KShotBatchNorm2d(_KShotBatchNorm):
    """`torch.nn.BatchNorm2d` with K copies of weight and bias, `[K, C]`; the running statistics are shared.

    `forward(input, code=None, *, activation="identity", residual=None)` is `batch_norm_act` with this layer's
    parameters. An input of fewer channels uses the leading part of everything. Without affine parameters no
    code is needed.

    Args:
        num_shots: K, the number of copies; all other arguments are those of `torch.nn.BatchNorm2d`.

    Attributes:
        process_group: processes whose joined batch gives the statistics in training; None for this one's alone. See
            `kshot_ext.distributed.synchronize_batch_norm`. Copies and pickles are without.

    Example:
        >>> KShotBatchNorm2d(8, num_shots=2)(torch.randn(4, 8, 5, 5), torch.tensor([0.5, 0.5])).shape
        torch.Size([4, 8, 5, 5])
    """

    plain = nn.BatchNorm2d


class KShotBatchNorm3d(_KShotBatchNorm):
    """`torch.nn.BatchNorm3d` with K copies of weight and bias, `[K, C]`; the running statistics are shared.

    `forward(input, code=None)`, the input `[N, C, D, H, W]`, is `batch_norm_act` with this layer's parameters.

    Args:
        num_shots: K, the number of copies; all other arguments are those of `torch.nn.BatchNorm3d`.

    Example:
        >>> KShotBatchNorm3d(8, num_shots=2)(torch.randn(4, 8, 2, 5, 5), torch.tensor([0.5, 0.5])).shape
        torch.Size([4, 8, 2, 5, 5])
    """

    plain = nn.BatchNorm3d

    def forward(self, input: Tensor, code: Tensor | None = None) -> Tensor:  # type: ignore[override]  # adds nothing
        if isinstance(input, Proxy):
            return self.leaf_of_graph(input, code=code)
        if input.dim() != 5:
            raise ValueError(f"input must have shape [N, C, D, H, W], got {list(input.shape)}")
        output: Tensor = super().forward(input.flatten(3), code).unflatten(3, input.shape[3:])
        return output


for _kind in (KShotBatchNorm1d, KShotBatchNorm2d, KShotBatchNorm3d):
    register_conversion(_kind.plain, _kind.from_plain, _kind.to_plain)


def count_batch(norm: _BatchNorm) -> float:
    """Count a batch, in training, and give the weight of its statistics in the running ones, as torch's layers do."""
    if norm.training and norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:  # cumulative average
            return 1.0 / float(norm.num_batches_tracked)
    return norm.momentum if norm.momentum is not None else 0.0


def norm_act(norm: nn.BatchNorm2d, input: Tensor, activation: str, residual: Tensor | None) -> Tensor:
    """What a plain norm, and what follows it, makes of an input; of fewer channels by leading parts."""
    momentum = count_batch(norm)
    keeps = not norm.training or norm.track_running_stats
    return KF.batch_norm_act(
        input,
        norm.weight,
        norm.bias,
        norm.running_mean if keeps else None,
        norm.running_var if keeps else None,
        training=norm.training or norm.running_mean is None,
        momentum=momentum,
        eps=norm.eps,
        activation=activation,
        residual=residual,
    )
