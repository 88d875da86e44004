"""The shapes that are measured: convolutions and batch norms of real networks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ConvLayer:
    """A convolution with square kernel and image, without bias, padded by half its kernel.

    Args:
        name: where it stands in its network.
        size: height and width of the input.
        activation: whether batch norm *and* ReLU follow it.
        count: how often this geometry occurs in its network.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel_size: int
    size: int
    stride: int = 1
    groups: int = 1
    activation: bool = True
    count: int = 1

    @property
    def padding(self) -> int:
        return self.kernel_size // 2

    @property
    def out_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel_size) // self.stride + 1

    @property
    def kind(self) -> str:
        return "depthwise" if self.groups == self.out_channels > 1 else "dense"

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.out_channels, self.in_channels // self.groups, self.kernel_size, self.kernel_size)

    @property
    def multiplications(self) -> int:
        """Multiply-accumulates of one sample's forward pass."""
        out_channels, *window = self.weight_shape
        return out_channels * window[0] * window[1] * window[2] * self.out_size**2

    @property
    def geometry(self) -> str:
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        kernel = f"{self.kernel_size}x{self.kernel_size}"
        return f"{kernel} {self.in_channels}->{self.out_channels}{stride} at {self.size}x{self.size}"

    def at_width(self, fraction: float) -> ConvLayer:
        """The same layer with that fraction of its channels; image channels stay."""
        in_channels = self.in_channels if self.in_channels == 3 else max(1, round(self.in_channels * fraction))
        if self.kind == "depthwise":
            return dataclasses.replace(self, in_channels=in_channels, out_channels=in_channels, groups=in_channels)
        out_channels = max(1, round(self.out_channels * fraction))
        return dataclasses.replace(self, in_channels=in_channels, out_channels=out_channels)


@dataclass(frozen=True)
class NormLayer:
    """A batch norm followed by ReLU."""

    name: str
    channels: int
    size: int
    count: int = 1

    @property
    def geometry(self) -> str:
        return f"{self.channels} channels at {self.size}x{self.size}"


@dataclass(frozen=True)
class LayerSet:
    """The convolutions of a network, in order, and how they are run."""

    name: str
    batch: int
    num_shots: int
    convolutions: Sequence[ConvLayer]

    def distinct_convolutions(self) -> list[ConvLayer]:
        """Each geometry once, under the name of its first occurrence, with its count."""
        return _distinct(self.convolutions, ("name", "activation"))

    def distinct_norms(self) -> list[NormLayer]:
        """Each batch norm with ReLU once, under the name of the first convolution it follows."""
        norms = [
            NormLayer(layer.name, layer.out_channels, layer.out_size) for layer in self.convolutions if layer.activation
        ]
        return _distinct(norms, ("name",))


def _distinct(layers: Sequence, ignored: tuple[str, ...]) -> list:
    keys = [dataclasses.replace(layer, **dict.fromkeys(ignored)) for layer in layers]
    counts = Counter(keys)
    first = dict(zip(reversed(keys), reversed(layers)))
    return [dataclasses.replace(first[key], count=count) for key, count in counts.items()]
