"""Values between layers that are not made yet: norms that wait for what comes next.

    value = activation(norm(x) + residual)

As layers of their own norm, addition and activation make a tensor each. A value that waits takes them on one by one,
and is made in one pass, by `finished`; or never, where a convolution applies the norm while it loads its input.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from kshot_ext import functional as KF
from kshot_ext.nn.batch_norm import KShotBatchNorm2d, NormalisesBatch, norm_act
from kshot_ext.ops.chained_conv2d import serves_chains
from kshot_ext.ops.checks import DTYPES
from kshot_ext.ops.window import Window
from kshot_ext.reference.batch_norm_act import ACTIVATIONS


class Pending(NamedTuple):
    """What flows from link to link of a chain: a raw output, and the norm that its reader applies."""

    raw: Tensor
    norm: KF.ChannelNorm
    residual: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        return self.raw.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.raw.dtype

    @property
    def activation(self) -> str:
        return self.norm.activation

    def with_activation(self, activation: str) -> Pending:
        return self._replace(norm=self.norm._replace(activation=activation))

    def finished(self) -> Tensor:
        return KF.chained_norm_act(self.raw, self.norm, self.residual)


class WaitingNorm(NamedTuple):
    """A batch norm of any kind that has its input and has not run; the code is for this call of a K-shot one."""

    raw: Tensor
    layer: Any  # whose attributes its kind decides
    code: Tensor | None = None
    activation: str = "identity"
    residual: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        return self.raw.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.raw.dtype

    def with_activation(self, activation: str) -> WaitingNorm:
        return self._replace(activation=activation)

    def finished(self) -> Tensor:
        options: dict[str, Any] = {"activation": self.activation, "residual": self.residual}
        output: Tensor
        if isinstance(self.layer, KShotBatchNorm2d):
            output = self.layer(self.raw, self.code, **options)
            return output
        if isinstance(self.layer, NormalisesBatch):
            return NormalisesBatch.forward(self.layer, self.raw, self.code, **options)  # without its own activation
        if isinstance(self.layer, nn.BatchNorm2d):
            return _plain_norm_act(self.layer, self.raw, **options)
        output = self.layer(self.raw, **options)  # a sliced one
        return output


class WaitingFold(NamedTuple):
    """A convolution that has its input, and the norm behind it, of known moments: what they do is folded into one."""

    raw: Tensor
    weight: Tensor
    code: Tensor
    norm: KF.ChannelNorm
    window: tuple[Any, ...]  # stride, padding, dilation, groups
    out_channels: int
    residual: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        window = Window.of_arguments(self.weight.shape[3:], *self.window[:3]).cut_to(self.raw.shape[2:])
        return torch.Size((self.raw.shape[0], self.out_channels, *window.output_size(self.raw.shape[2:])))

    @property
    def dtype(self) -> torch.dtype:
        kind = self.raw.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.raw.dtype

    @property
    def activation(self) -> str:
        return self.norm.activation

    def with_activation(self, activation: str) -> WaitingFold:
        return self._replace(norm=self.norm._replace(activation=activation))

    def finished(self) -> Tensor:
        return KF.folded_conv2d(*self[:4], *self.window, out_channels=self.out_channels, residual=self.residual)


class SharedImage(NamedTuple):
    """An image that several modules read: what of it is alike for some of them is made once, and kept here."""

    raw: Tensor
    made: dict[Hashable, Tensor]
    activation: str = "identity"

    @classmethod
    def of(cls, image: Tensor) -> SharedImage:
        return cls(image, {})

    @property
    def shape(self) -> torch.Size:
        return self.raw.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.raw.dtype

    def with_activation(self, activation: str) -> SharedImage:
        return self._replace(activation=activation)

    def made_once(self, key: Hashable, make: Callable[[Tensor], Tensor]) -> Tensor:
        if key not in self.made:
            self.made[key] = make(self.raw)
        return self.made[key]

    def finished(self) -> Tensor:
        return self.made_once(self.activation, ACTIVATIONS[self.activation])


@dataclass(frozen=True)
class JoinedChannels:
    """Images whose channels lie in two tensors, those of the second behind those of the first."""

    first: Tensor
    second: Tensor

    @property
    def shape(self) -> torch.Size:
        batch, channels, *size = self.first.shape
        return torch.Size((batch, channels + self.second.shape[1], *size))

    @property
    def dtype(self) -> torch.dtype:
        return self.first.dtype

    def finished(self) -> Tensor:
        return torch.cat([self.first, self.second], dim=1)


Waiting = Pending | WaitingNorm | WaitingFold | SharedImage
Value = Tensor | Waiting | JoinedChannels
_TAKE_RESIDUALS = (Pending, WaitingNorm, WaitingFold)
_WAITING = (*_TAKE_RESIDUALS, SharedImage)


def waits(value: Any) -> TypeGuard[Waiting]:
    """Whether an activation may still be joined to a value."""
    return isinstance(value, _WAITING)


def finished(value: Any) -> Any:
    """The tensor that a value stands for; anything else is given back."""
    return value.finished() if isinstance(value, (*_WAITING, JoinedChannels)) else value


def plus(value: Value, addend: Value) -> Value:
    """The sum of two values, which waits for an activation if one of them waits for an addend."""
    if isinstance(addend, _TAKE_RESIDUALS) and not isinstance(value, _TAKE_RESIDUALS):
        value, addend = addend, value
    added = finished(addend)
    if isinstance(value, _TAKE_RESIDUALS) and _takes_residual(value, added):
        return value._replace(residual=added)
    total: Tensor = finished(value) + added  # in the order given, where none waits: shapes are added, too
    return total


def plus_in_place(value: Value, addend: Value) -> Value:
    """`value += addend` for a value that waits and nobody else reads: in its own shape and dtype."""
    added = finished(addend)
    if isinstance(value, _TAKE_RESIDUALS) and not _takes_residual(value, added):
        total: Tensor = finished(value)
        total += added
        return total
    return plus(value, added)


def times(one: Value, other: Value) -> Value:
    """The product of two values. That of images and a factor per sample and channel, as in squeeze-excite, waits."""
    left, right = finished(one), finished(other)
    images, factor = (right, left) if _is_factor(left, right) else (left, right)
    if not _is_factor(factor, images):
        product: Tensor = left * right
        return product
    none, full = factor.new_zeros(factor.shape[1]), factor.new_ones(factor.shape[1])
    return Pending(images, KF.ChannelNorm(none, full, weight=factor.flatten(1), eps=0.0))


def _is_factor(factor: Any, images: Any) -> bool:
    """Whether a tensor is `[N, C, 1, 1]` beside images `[N, C, H, W]` that chains take."""
    if not (isinstance(factor, Tensor) and isinstance(images, Tensor) and factor.dtype == images.dtype):
        return False
    alone = images.dim() == 4 and images.shape[2:].numel() > 1 and factor.shape == (*images.shape[:2], 1, 1)
    return alone and images.dtype in DTYPES and serves_chains(images)


def _takes_residual(value: Pending | WaitingNorm | WaitingFold, addend: Any) -> bool:
    """Whether it has room for the addend, and the sum has its shape and dtype."""
    if value.activation != "identity" or value.residual is not None or not isinstance(addend, Tensor):
        return False
    return addend.shape == value.shape and addend.dtype == value.dtype


def _plain_norm_act(norm: nn.BatchNorm2d, input: Tensor, activation: str, residual: Tensor | None) -> Tensor:
    """A `torch.nn.BatchNorm2d` with what follows it, in one operation."""
    if input.dim() != 4 or input.shape[1] != norm.num_features:
        return nn.BatchNorm2d.forward(norm, input)  # which says what is wrong
    return norm_act(norm, input, activation, residual)
