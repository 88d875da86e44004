"""NAS-Bench-201: cells of six edges, each one of five operations; all cells of a network are alike.

Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020; widths as in
the size space of Dong et al., "NATS-Bench", TPAMI 2021, but one for a whole stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn

from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.blocks import Zero, conv_batch_norm
from kshot_ext.nas.spaces.space import NetworkShape, SearchSpace
from kshot_ext.nas.spaces.width_ratios import scaled
from kshot_ext.nn.deferred import SharedImage
from kshot_ext.nn.fused_sequence import plus_residual

_CHANNELS = 16
_STAGE_FACTORS = (1, 2, 4)
_CELLS = 5
_MOST_CELLS = 100
"""Of a stage. What a network needs is counted on its layers, one after the other, before memory can be asked for."""
_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # from node, to node; in the order of the paper's strings
_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


class NASBench201(SearchSpace):
    """5^6 networks: three stages of equal cells, with a residual block that halves the image between stages.

    A cell is a graph of four nodes, each the sum of its incoming edges; a searched layer is one edge, in all cells
    with weights of their own. The network: a 3x3 stem of ``channels``; stages of 1, 2 and 4 times as many; batch norm,
    ReLU, global average pool and a linear layer. Edges come in the order of the paper's strings: into node 1; into
    node 2 from 0, 1; into node 3 from 0, 1, 2.

    Nodes add up, so all channels of a stage have one width: the widths are those of the three stages.

    Args:
        image_shape: ``(channels, height, width)`` of the images; 32x32 is the published network.
        num_classes: number of classes.
        channels: channels of the first stage; None for the published 16.
        widths: shares of the full width that each stage chooses from; None for none.
        cells: cells of each stage, at most 100; None for the published 5.

    A space of other operations sets :attr:`edge_operations`, and makes what is not in the list here in :meth:`edge`.
    """

    edge_operations: ClassVar[tuple[str, ...]] = _OPERATIONS

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        channels: int | None = None,
        widths: Sequence[float] | None = None,
        cells: int | None = None,
    ) -> None:
        super().__init__(
            "nas-bench-201",
            image_shape=image_shape,
            num_classes=num_classes,
            operations=[self.edge_operations] * len(_EDGES),
            width_names=[f"stage {stage}" for stage in range(len(_STAGE_FACTORS))],
            widths=widths,
        )
        self.channels = _CHANNELS if channels is None else channels
        check_at_least("channels", self.channels, 1)
        self.cells = _CELLS if cells is None else cells
        check_at_least("cells", self.cells, 1, _MOST_CELLS)

    def from_key(self, key: str) -> Architecture:
        """The architecture of a key in the form ``|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|``."""
        edges = [edge for node in key.split("+") for edge in node.strip("|").split("|")]
        names, starts = zip(*(edge.rpartition("~")[::2] for edge in edges))
        if starts != tuple(str(start) for start, _ in _EDGES) or not set(names) <= set(self.edge_operations):
            raise ValueError(f"key {key!r}: expected the form |nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|")
        architecture = Architecture(tuple(map(self.edge_operations.index, names)))
        self.validate(architecture)
        return architecture

    def neighbours(self, layer: int) -> tuple[int, ...]:
        """The edges that share a node with an edge."""
        return tuple(
            other for other, ends in enumerate(_EDGES) if other != layer and not {*ends}.isdisjoint(_EDGES[layer])
        )

    @property
    def sums(self) -> tuple[tuple[int, ...], ...]:
        """The edges into each node."""
        return tuple(tuple(edge for edge, (_, end) in enumerate(_EDGES) if end == node) for node in range(1, 4))

    @property
    def no_operation(self) -> str | None:
        return "none" if "none" in self.edge_operations else None

    def network_shape(self, ratios: Sequence[float]) -> NetworkShape:
        stages = tuple(scaled(factor * self.channels, ratio) for factor, ratio in zip(_STAGE_FACTORS, ratios))
        return NetworkShape(stem=stages[0], layers=(stages,) * len(_EDGES), head=stages)

    def stem(self, shape: int) -> nn.Module:
        return conv_batch_norm(self.image_shape[0], shape, 3, activation=None)

    def candidate(self, operation: str, shape: tuple[int, ...]) -> nn.Module:
        """The edge of every cell: a list by stage and cell."""
        return nn.ModuleList(
            nn.ModuleList(self.edge(operation, channels) for _ in range(self.cells)) for channels in shape
        )

    def edge(self, operation: str, channels: int) -> nn.Module:
        """A new module for one edge of one cell, from ``[N, channels, H, W]`` to the same shape."""
        return _edge(operation, channels)

    def mixed(self, candidates: Sequence[nn.Module], weights: Sequence[Tensor] | None = None) -> nn.Module:
        """Mixes the edge in every cell by the same weights."""
        mix = super().mixed
        stages = [zip(*stage) for stage in zip(*candidates)]
        return nn.ModuleList(nn.ModuleList(mix(edges, weights) for edges in stage) for stage in stages)

    def head(self, shape: tuple[int, ...]) -> nn.Module:
        """What joins the stages, and the classifier."""
        return nn.ModuleDict(
            {
                "reductions": nn.ModuleList(_Reduction(*channels) for channels in pairwise(shape)),
                "classifier": nn.Sequential(
                    nn.BatchNorm2d(shape[-1]),
                    nn.ReLU(inplace=True),
                    nn.AdaptiveAvgPool2d(1),
                    nn.Flatten(),
                    nn.Linear(shape[-1], self.num_classes),
                ),
            }
        )

    def assemble(self, stem: nn.Module, layers: Sequence[nn.Module], head: nn.Module) -> nn.Module:
        return _CellNetwork(stem, nn.ModuleList(layers), head)


class _CellNetwork(nn.Module):
    def __init__(self, stem: nn.Module, edges: nn.ModuleList, head: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.edges: Any = edges  # of each a list by stage and cell
        self.head: Any = head  # by name: what joins the stages, and the classifier

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for stage in range(len(_STAGE_FACTORS)):
            if stage > 0:
                features = self.head["reductions"][stage - 1](features)
            for cell in zip(*(edge[stage] for edge in self.edges)):
                features = self._cell(cell, features)
        return self.head["classifier"](features)

    def _cell(self, operations: Sequence[nn.Module], features: Tensor) -> Tensor:
        nodes = [SharedImage.of(features)]
        for node in range(1, 4):
            edges = [(operation, nodes[start]) for operation, (start, end) in zip(operations, _EDGES) if end == node]
            connected = [edge for edge in edges if not isinstance(edge[0], Zero)]
            connected.sort(key=lambda edge: isinstance(edge[0], nn.Sequential))  # their norms add the sum so far
            total: Any = None
            for operation, start in connected or edges[:1]:
                total = plus_residual(operation, start, total)
            nodes.append(SharedImage.of(total))
        return nodes[-1].raw


class _Reduction(nn.Module):
    """Residual block that halves the image."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = _relu_conv(in_channels, out_channels, 3, stride=2)
        self.second = _relu_conv(out_channels, out_channels, 3)
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True),  # for odd sizes, which the convolution rounds up too
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.shortcut(input) + self.second(self.first(input))


def _edge(operation: str, channels: int) -> nn.Module:
    if operation == "none":
        return Zero()
    if operation == "skip_connect":
        return nn.Identity()
    if operation == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return _relu_conv(channels, channels, {"nor_conv_1x1": 1, "nor_conv_3x3": 3}[operation])


def _relu_conv(in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> nn.Sequential:
    # Not in place: other edges read the same node.
    return nn.Sequential(
        nn.ReLU(), conv_batch_norm(in_channels, out_channels, kernel_size, stride=stride, activation=None)
    )
