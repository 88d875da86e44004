"""What a method must know about a search space: layers of choices, the network around them, their cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from kshot_ext.nas.architecture import Architecture
from kshot_ext.nas.counting import Cost, measure
from kshot_ext.nas.plain_network import to_plain_network
from kshot_ext.nas.randomness import seeded_by


class SearchSpace(ABC):
    """A network with a stem, searched layers that each offer several operations, and a head.

    A space of your own defines :meth:`stem`, :meth:`candidate` and :meth:`head` in plain ``torch.nn``. The
    shape of a layer's output must not depend on the operation chosen.

    Args:
        name: the space's name, for messages and run folders.
        image_shape: ``(channels, height, width)`` of the images.
        num_classes: number of classes, at least 2.
        operations: names of the operations that each layer offers, one sequence per layer.

    Raises:
        ValueError: if a size is out of range or a layer offers nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        operations: Sequence[Sequence[str]],
    ) -> None:
        if len(image_shape) != 3 or min(image_shape) < 1:
            raise ValueError(f"image_shape: expected (channels, height, width), each >= 1, got {image_shape}")
        if num_classes < 2:
            raise ValueError(f"num_classes: expected at least 2, got {num_classes}")
        if not operations or not all(operations):
            raise ValueError(f"operations: expected one or more names for every layer, got {operations!r}")
        self.name = name
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self._operations = tuple(tuple(names) for names in operations)

    @abstractmethod
    def stem(self) -> nn.Module:
        """A new module from the images ``[N, *image_shape]`` to the input of the first layer."""

    @abstractmethod
    def candidate(self, layer: int, operation: int) -> nn.Module:
        """A new module for one operation of one layer."""

    @abstractmethod
    def head(self) -> nn.Module:
        """A new module from the last layer's output to class scores ``[N, num_classes]``."""

    def assemble(self, stem: nn.Module, layers: Iterable[nn.Module], head: nn.Module) -> nn.Module:
        """The network of one path, made of the given modules: of new ones or of a supernet's."""
        named = {f"layer{index}": layer for index, layer in enumerate(layers)}
        return nn.Sequential(OrderedDict(stem=stem, **named, head=head))

    @property
    def num_layers(self) -> int:
        """Number of searched layers."""
        return len(self._operations)

    def operations(self, layer: int) -> tuple[str, ...]:
        """Names of the operations that a layer offers."""
        return self._operations[layer]

    def sample(self, generator: torch.Generator) -> Architecture:
        """An architecture drawn uniformly: each layer's operation independently of the others."""
        return Architecture(
            tuple(int(torch.randint(len(names), (), generator=generator)) for names in self._operations)
        )

    def validate(self, architecture: Architecture) -> None:
        """Checks that an architecture belongs to this space.

        Raises:
            ValueError: naming the layer and the legal values.
        """
        if len(architecture.operations) != self.num_layers:
            raise ValueError(
                f"architecture: space {self.name} has {self.num_layers} layers, "
                f"got {len(architecture.operations)} operations"
            )
        if architecture.widths is not None:
            raise ValueError(f"architecture: space {self.name} searches no widths, got {architecture.widths}")
        for layer, (operation, names) in enumerate(zip(architecture.operations, self._operations)):
            if operation >= len(names):
                legal = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
                raise ValueError(f"operations[{layer}]: expected one of {legal}, got {operation}")

    def encode(self, architecture: Architecture) -> Tensor:
        """One-hot rows, float32 ``[num_layers, most operations of a layer]``: what the simplex-net reads."""
        self.validate(architecture)
        rows = torch.zeros(self.num_layers, max(map(len, self._operations)))
        rows[range(self.num_layers), architecture.operations] = 1.0
        return rows

    def cost(self, architecture: Architecture) -> Cost:
        """Multiply-accumulates for one image and parameters of an architecture's plain network."""
        self.validate(architecture)
        fixed, layers = self._costs
        return sum((costs[choice] for costs, choice in zip(layers, architecture.operations)), start=fixed)

    def count_macs(self, architecture: Architecture) -> int:
        """Multiply-accumulates of an architecture for one image, as :func:`measure` counts them."""
        return self.cost(architecture).macs

    def count_parameters(self, architecture: Architecture) -> int:
        """Number of trainable numbers in an architecture's plain network."""
        return self.cost(architecture).parameters

    def cheapest(self) -> Architecture:
        """The architecture with the fewest multiply-accumulates."""
        return self._pick_by_macs(min)

    def largest(self) -> Architecture:
        """The architecture with the most multiply-accumulates."""
        return self._pick_by_macs(max)

    def cheaper_neighbours(self, architecture: Architecture) -> list[Architecture]:
        """The architectures that differ in one layer and have fewer multiply-accumulates."""
        self.validate(architecture)
        _, layers = self._costs
        return [
            architecture.with_operation(layer, operation)
            for layer, (costs, current) in enumerate(zip(layers, architecture.operations))
            for operation, cost in enumerate(costs)
            if cost.macs < costs[current].macs
        ]

    def build(self, architecture: Architecture, generator: torch.Generator) -> torch.fx.GraphModule:
        """The network of one architecture with new weights, in plain ``torch.nn`` layers.

        Args:
            architecture: a member of this space.
            generator: source of the initial weights.

        Returns:
            A network from ``[N, *image_shape]`` to ``[N, num_classes]`` that needs only torch to be loaded.
        """
        self.validate(architecture)
        with seeded_by(generator):
            layers = [self.candidate(layer, choice) for layer, choice in enumerate(architecture.operations)]
            network = to_plain_network(self.assemble(self.stem(), layers, self.head()))
        return network.to(memory_format=torch.channels_last)  # as the image batches are

    def _pick_by_macs(self, pick: Callable[..., int]) -> Architecture:
        _, layers = self._costs
        return Architecture(tuple(pick(range(len(costs)), key=lambda choice: costs[choice].macs) for costs in layers))

    @cached_property
    def _costs(self) -> tuple[Cost, tuple[tuple[Cost, ...], ...]]:
        """Cost of stem and head together, and of each operation of each layer: costs of a path add up."""
        fixed, shape = measure(self.stem, self.image_shape)
        layers = []
        for layer in range(self.num_layers):
            costs, shape = self._layer_costs(layer, shape)
            layers.append(costs)
        head, _ = measure(self.head, shape)
        return fixed + head, tuple(layers)

    def _layer_costs(self, layer: int, input_shape: tuple[int, ...]) -> tuple[tuple[Cost, ...], tuple[int, ...]]:
        """Cost of each operation of a layer, and the output shape that they all must share."""
        measured = [
            measure(partial(self.candidate, layer, operation), input_shape)
            for operation in range(len(self._operations[layer]))
        ]
        shapes = {shape for _, shape in measured}
        if len(shapes) != 1:
            raise ValueError(f"layer {layer} of space {self.name}: its operations give the shapes {shapes}")
        return tuple(cost for cost, _ in measured), shapes.pop()


def operation_shares(space: SearchSpace, architectures: Sequence[Architecture]) -> dict[str, float]:
    """Share of each operation's name among the choices of the architectures; a drift to one is a warning.

    Returns:
        Shares by name, all names of the space, summing to 1.
    """
    counts = Counter(
        space.operations(layer)[operation]
        for architecture in architectures
        for layer, operation in enumerate(architecture.operations)
    )
    names = dict.fromkeys(name for layer in range(space.num_layers) for name in space.operations(layer))
    return {name: counts[name] / max(counts.total(), 1) for name in names}
