"""Search spaces whose network is a chain of layers in stages: most of the mobile networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.spaces.space import NetworkShape, SearchSpace
from kshot_ext.nas.spaces.width_ratios import scaled


@dataclass(frozen=True)
class Stage:
    """Layers that keep their image size and channels, but for the first one, which sets both.

    Args:
        channels: of the output of each layer.
        depth: number of layers.
        stride: step of the first layer.
    """

    channels: int
    depth: int
    stride: int


@dataclass(frozen=True)
class LayerShape:
    """What a layer's operations are built from.

    Args:
        in_channels: channels that come in.
        out_channels: channels that go out.
        stride: step of the layer.
        keeps_shape: whether the input may be added to the output: in all layers of a stage but the first.
        full_in_channels, full_out_channels: the same counts in the full network.
        ratio: share of the inner channels that is in use.
    """

    in_channels: int
    out_channels: int
    stride: int
    keeps_shape: bool
    full_in_channels: int
    full_out_channels: int
    ratio: float

    def inner(self, full: int) -> int:
        """How many of the channels inside an operation are in use, of ``full`` in the full network."""
        return scaled(full, self.ratio)


class StagedSpace(SearchSpace):
    """A chain of layers in stages, each layer offering the same operations.

    With ``widths`` each layer has one: the share of its inner channels in use. The width of a stage's first
    layer is also the share of the channels that the whole stage hands on. The shortcuts of the other layers
    add input to output, so these cannot differ within a stage; any combination of widths is a network.

    A space of your own defines :meth:`stem`, which gets the number of channels to put out, :meth:`candidate`, which
    gets a :class:`LayerShape`, and :meth:`head`, which gets the number of channels that come in.

    Args:
        name: the space's name.
        image_shape: ``(channels, height, width)`` of the images.
        num_classes: number of classes.
        operations: names of the operations that every layer offers.
        stem_channels: channels between the stem and the first layer.
        stages: the searched layers.
        widths: shares of the full width to choose from, rising to 1; None to search no widths.
        narrow_stages: whether the widths of first layers narrow stages, or only what is inside these layers.

    Raises:
        ValueError: if a size is out of range.
    """

    def __init__(
        self,
        name: str,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        operations: Sequence[str],
        stem_channels: int,
        stages: Sequence[Stage],
        widths: Sequence[float] | None = None,
        narrow_stages: bool = True,
    ) -> None:
        num_layers = sum(stage.depth for stage in stages)
        super().__init__(
            name,
            image_shape=image_shape,
            num_classes=num_classes,
            operations=[tuple(operations)] * num_layers,
            width_names=[f"layer {layer}" for layer in range(num_layers)],
            widths=widths,
        )
        if min(stem_channels, *(stage.channels for stage in stages)) < 1:
            raise ValueError(f"channels: expected at least 1 everywhere, got {stem_channels} and {list(stages)}")
        self.stem_channels = stem_channels
        self.stages = tuple(stages)
        self.narrow_stages = narrow_stages

    def network_shape(self, ratios: Sequence[float]) -> NetworkShape:
        layers: list[LayerShape] = []
        channels = full_channels = self.stem_channels
        for stage in self.stages:
            out_channels = scaled(stage.channels, ratios[len(layers)]) if self.narrow_stages else stage.channels
            for position in range(stage.depth):
                layers.append(
                    LayerShape(
                        in_channels=channels,
                        out_channels=out_channels,
                        stride=stage.stride if position == 0 else 1,
                        keeps_shape=position > 0,
                        full_in_channels=full_channels,
                        full_out_channels=stage.channels,
                        ratio=ratios[len(layers)],
                    )
                )
                channels, full_channels = out_channels, stage.channels
        return NetworkShape(stem=self.stem_channels, layers=tuple(layers), head=channels)


def multiplied(stages: Sequence[Stage], channels: int, published: int) -> tuple[Stage, ...]:
    """The stages of a published network, made wider or narrower as its first layer is.

    Args:
        stages: as published.
        channels: channels wanted of the first layer, at least 1.
        published: channels of the published network's first layer.

    Raises:
        ValueError: if ``channels`` is below 1.
    """
    check_at_least("channels", channels, 1)
    return tuple(Stage(scaled(stage.channels, channels / published), stage.depth, stage.stride) for stage in stages)
