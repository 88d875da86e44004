"""What a method must know about a search space: layers of choices, the network around them, their cost."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.randomness import seeded_by
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.cost_table import CostTable
from kshot_ext.nas.spaces.counting import Cost
from kshot_ext.nas.spaces.mixture import Mixture
from kshot_ext.nas.spaces.plain_network import to_plain_network
from kshot_ext.nas.spaces.width_ratios import check_ratios


class NamedChoices(TypedDict):
    """An architecture for people: each layer's operation, and each width's share; None if none is searched."""

    operations: tuple[str, ...]
    widths: tuple[float, ...] | None


@dataclass(frozen=True)
class NetworkShape:
    """What the parts of a network must know to be built at chosen widths: channels, strides and the like.

    All of it is hashable; what it is, a space decides.

    Args:
        stem, head: of these parts.
        layers: of each searched layer.
    """

    stem: Any
    layers: tuple[Any, ...]
    head: Any


class SearchSpace(ABC):
    """A network with a stem, searched layers that each offer several operations, and a head.

    A space of your own defines :meth:`network_shape` and, in plain ``torch.nn``, :meth:`stem`, :meth:`candidate`
    and :meth:`head`; :class:`kshot_ext.nas.spaces.staged_space.StagedSpace` does most of that for networks in stages.
    The shape of a layer's output must not depend on the operation chosen.

    With ``widths`` the space also offers channel widths: one choice for each of ``width_names``. A narrower network
    uses the leading channels of the full one, so each part must have the same layers at all widths, with at
    most as many channels, and more at larger ratios.

    Args:
        name: the space's name, for messages and run folders.
        image_shape: ``(channels, height, width)`` of the images, or ``(channels, depth, height, width)`` of volumes.
        num_classes: number of classes, or of outputs for another task.
        operations: names of the operations that each layer offers, one sequence per layer.
        width_names: what can be narrowed; in a chain of layers usually each layer.
        widths: shares of the full width to choose from, rising to 1; None to search no widths.

    Raises:
        ValueError: if a size is out of range or a layer offers nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        image_shape: tuple[int, ...],
        num_classes: int,
        operations: Sequence[Sequence[str]],
        width_names: Sequence[str] = (),
        widths: Sequence[float] | None = None,
    ) -> None:
        if len(image_shape) not in (3, 4) or min(image_shape) < 1:
            raise ValueError(
                "image_shape: expected (channels, height, width), or (channels, depth, height, width), each >= 1, "
                f"got {image_shape}"
            )
        check_at_least("num_classes", num_classes, 1)
        if not operations or not all(operations):
            raise ValueError(f"operations: expected one or more names for every layer, got {operations!r}")
        if widths is not None and not width_names:
            raise ValueError(f"widths: space {name} has nothing that can be narrowed, got {tuple(widths)}")
        self.name = name
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self.width_names = tuple(width_names)
        self.widths = None if widths is None else check_ratios(widths)
        self._operations = tuple(tuple(names) for names in operations)

    @abstractmethod
    def network_shape(self, ratios: Sequence[float]) -> NetworkShape:
        """What the parts are built from, for one ratio, above 0 and at most 1, per width name."""

    @abstractmethod
    def stem(self, shape: Any) -> nn.Module:
        """A new module from the images ``[N, *image_shape]`` to the input of the first layer."""

    @abstractmethod
    def candidate(self, operation: str, shape: Any) -> nn.Module:
        """A new module for one operation of a layer."""

    @abstractmethod
    def head(self, shape: Any) -> nn.Module:
        """A new module from the last layer's output to class scores ``[N, num_classes]``."""

    def assemble(self, stem: nn.Module, layers: Sequence[nn.Module], head: nn.Module) -> nn.Module:
        """The network of one path, made of the given modules: of new ones or of a supernet's."""
        named = {f"layer{index}": layer for index, layer in enumerate(layers)}
        return nn.Sequential(OrderedDict(stem=stem, **named, head=head))

    def mixed(self, candidates: Sequence[nn.Module], weights: Sequence[Tensor] | None = None) -> nn.Module:
        """Several candidates of one layer as a layer: by default a :class:`Mixture`, their weighted sum.

        A space whose candidates are no modules of their own, such as lists, says here how their parts are mixed.

        Args:
            candidates: made by :meth:`candidate` at one shape, or a supernet's; at least one.
            weights: a tensor of a single number for each; None to add them up as they are.
        """
        return Mixture(candidates, weights)

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of networks, which is that of their batches: channels last."""
        return torch.channels_last if len(self.image_shape) == 3 else torch.channels_last_3d

    @property
    def num_layers(self) -> int:
        """Number of searched layers."""
        return len(self._operations)

    @property
    def num_widths(self) -> int:
        """Number of widths to choose; 0 if the space searches none."""
        return 0 if self.widths is None else len(self.width_names)

    @property
    def num_choices(self) -> tuple[int, ...]:
        """Number of choices of each gene: the layers' operations, then the widths."""
        return (*map(len, self._operations), *[len(self.widths or ())] * self.num_widths)

    def operations(self, layer: int) -> tuple[str, ...]:
        """Names of the operations that a layer offers."""
        return self._operations[layer]

    def weights_of(self, operation: str) -> str:
        """The operation whose weights another one has in a supernet; itself, unless a space lets some share theirs.

        Those that share must have layers of the same names and shapes, and :meth:`candidate` must know this one too.
        """
        return operation

    def own_weights(self, layer: int) -> tuple[str, ...]:
        """The operations that a supernet keeps weights of, for all that a layer offers."""
        return tuple(dict.fromkeys(map(self.weights_of, self._operations[layer])))

    @property
    def floating_point(self) -> SearchSpace:
        """The space of the same networks without bits: itself, if it has none."""
        return self

    def without_bits(self, architecture: Architecture) -> Architecture:
        """The architecture of :attr:`floating_point` that a member of this space quantises; itself, if nothing does."""
        return architecture

    def values(self, operation: str) -> tuple[str, ...]:
        """The values of variables, such as a kernel size, that an operation combines; by default its name alone."""
        return (operation,)

    def operation_names(self, architecture: Architecture) -> tuple[str, ...]:
        """Name of the operation chosen in each layer."""
        return tuple(names[choice] for names, choice in zip(self._operations, architecture.operations))

    def with_outputs(self, count: int) -> SearchSpace:
        """The same space with networks that put out so many numbers, in the place of a score for each class.

        It is this space with another ``num_classes``, which heads are to read when they are built.
        """
        check_at_least("count", count, 2)
        other = copy.copy(self)
        other.num_classes = count
        for cached in ("full_shape", "_costs"):
            other.__dict__.pop(cached, None)
        return other

    def ratios(self, architecture: Architecture) -> tuple[float, ...]:
        """The chosen ratio for each of ``width_names``; all 1 where no widths are searched."""
        if architecture.widths is None:
            return (1.0,) * len(self.width_names)
        assert self.widths is not None, "an architecture with widths is of a space that searches them"
        return tuple(self.widths[width] for width in architecture.widths)

    def named(self, architecture: Architecture) -> NamedChoices:
        """The choices of an architecture as results have them."""
        widths = None if architecture.widths is None else self.ratios(architecture)
        return {"operations": self.operation_names(architecture), "widths": widths}

    def genes(self, architecture: Architecture) -> tuple[int, ...]:
        """All choices of an architecture in a row, for methods that treat them alike."""
        return (*architecture.operations, *(architecture.widths or ()))

    def from_genes(self, genes: Sequence[int]) -> Architecture:
        """The architecture whose :meth:`genes` these are."""
        operations, widths = tuple(genes[: self.num_layers]), tuple(genes[self.num_layers :])
        return Architecture(operations, widths or None)

    def from_key(self, key: str) -> Architecture:
        """The architecture that a published table of results means by a key: here, a digit per layer (a is ten).

        Raises:
            ValueError: if the key is not of this form, or not of this space.
        """
        try:
            architecture = Architecture(tuple(int(digit, 16) for digit in key))
        except ValueError as error:
            raise ValueError(f"key {key!r}: expected a digit for each of {self.num_layers} layers") from error
        try:
            self.validate(architecture)
        except ValueError as error:
            raise ValueError(f"key {key!r}: {error}") from error
        return architecture

    def sample(self, generator: torch.Generator) -> Architecture:
        """An architecture drawn uniformly: each choice independently of the others."""
        return self.from_genes([int(torch.randint(count, (), generator=generator)) for count in self.num_choices])

    def validate(self, architecture: Architecture) -> None:
        """Checks that an architecture belongs to this space.

        Raises:
            ValueError: naming the layer or the width, and the legal values.
        """
        if len(architecture.operations) != self.num_layers:
            raise ValueError(
                f"architecture: space {self.name} has {self.num_layers} layers, "
                f"got {len(architecture.operations)} operations"
            )
        for layer, (operation, names) in enumerate(zip(architecture.operations, self._operations)):
            if operation >= len(names):
                raise ValueError(f"operations[{layer}]: expected one of {_legal(names)}, got {operation}")
        if self.widths is None:
            if architecture.widths is not None:
                raise ValueError(f"architecture: space {self.name} searches no widths, got {architecture.widths}")
            return
        if architecture.widths is None or len(architecture.widths) != self.num_widths:
            raise ValueError(
                f"architecture: space {self.name} needs {self.num_widths} widths, got {architecture.widths}"
            )
        for name, width in zip(self.width_names, architecture.widths):
            if width >= len(self.widths):
                raise ValueError(f"width of {name}: expected one of {_legal(self.widths)}, got {width}")

    def encode(self, architecture: Architecture) -> Tensor:
        """One-hot rows, float32 ``[num_layers, most operations of a layer]``: what the simplex-net reads."""
        self.validate(architecture)
        return F.one_hot(torch.tensor(architecture.operations), max(map(len, self._operations))).float()

    def encode_widths(self, architecture: Architecture) -> Tensor:
        """One-hot rows, float32 ``[num_widths, number of ratios]``, in a space that searches widths."""
        self.validate(architecture)
        return F.one_hot(torch.tensor(architecture.widths), len(self.widths or ())).float()

    def cost(self, architecture: Architecture) -> Cost:
        """Multiply-accumulates for one image and parameters of an architecture's plain network."""
        self.validate(architecture)
        shape = self.shape_of(architecture)
        layers = (self._costs.layer(layer, choice, shape) for layer, choice in enumerate(architecture.operations))
        return sum(layers, start=self._costs.outer(shape))

    def layer_cost(self, layer: int, operation: int) -> Cost:
        """Cost of one operation of a layer at full width."""
        return self._costs.layer(layer, operation, self.full_shape)

    def count_parametrised(self, architecture: Architecture) -> int:
        """Number of searched layers whose operation has weights."""
        return sum(self.layer_cost(*chosen).parameters > 0 for chosen in enumerate(architecture.operations))

    def neighbours(self, layer: int) -> tuple[int, ...]:
        """The layers that a layer gets its input from or gives its output to; here those before and after it."""
        return tuple(other for other in (layer - 1, layer + 1) if 0 <= other < self.num_layers)

    @property
    def sums(self) -> tuple[tuple[int, ...], ...]:
        """The layers whose outputs are added up, in groups; here each layer by itself."""
        return tuple((layer,) for layer in range(self.num_layers))

    @property
    def no_operation(self) -> str | None:
        """Name of the operation that stands for no connection, whose output is zero; None if layers cannot be cut."""
        return None

    def count_macs(self, architecture: Architecture) -> int:
        """Multiply-accumulates of an architecture for one image; see :func:`kshot_ext.nas.spaces.counting.cost_of`."""
        return self.cost(architecture).macs

    def count_parameters(self, architecture: Architecture) -> int:
        """Number of trainable numbers in an architecture's plain network."""
        return self.cost(architecture).parameters

    def cheapest(self) -> Architecture:
        """The architecture with the fewest multiply-accumulates, and of those with the fewest bit operations."""
        return self._pick_by_cost(min)

    def largest(self) -> Architecture:
        """The architecture with the most multiply-accumulates, and of those with the most bit operations."""
        return self._pick_by_cost(max)

    def build(self, architecture: Architecture, generator: torch.Generator) -> torch.fx.GraphModule:
        """The network of one architecture with new weights, in plain ``torch.nn`` layers.

        Args:
            architecture: a member of this space.
            generator: source of the initial weights.

        Returns:
            A network from ``[N, *image_shape]`` to ``[N, num_classes]`` that needs only torch to be loaded.
        """
        return to_plain_network(self.new_network(architecture, generator))

    def new_network(self, architecture: Architecture, generator: torch.Generator) -> nn.Module:
        """As :meth:`build`, but of this space's own classes: what :meth:`assemble` makes may have methods.

        Args:
            architecture: a member of this space.
            generator: source of the initial weights.
        """
        self.validate(architecture)
        shape = self.shape_of(architecture)
        with seeded_by(generator):
            layers = [self.candidate(*chosen) for chosen in zip(self.operation_names(architecture), shape.layers)]
            network = self.assemble(self.stem(shape.stem), layers, self.head(shape.head))
        network.to(memory_format=self.memory_format)  # type: ignore[call-overload]  # torch's stub lacks memory_format
        return network

    def shape_of(self, architecture: Architecture) -> NetworkShape:
        """What the parts of an architecture's network are built from."""
        return self.full_shape if architecture.widths is None else self.network_shape(self.ratios(architecture))

    @cached_property
    def full_shape(self) -> NetworkShape:
        """What the parts of the full network are built from, the one that narrower ones are cut from."""
        return self.network_shape((1.0,) * len(self.width_names))

    def _pick_by_cost(self, pick: Callable[..., int]) -> Architecture:
        widths = None if self.widths is None else (pick(range(len(self.widths))),) * self.num_widths
        shape = self.shape_of(Architecture((0,) * self.num_layers, widths))

        def picked(layer: int) -> int:
            costs = [self._costs.layer(layer, choice, shape) for choice in range(len(self._operations[layer]))]
            return pick(range(len(costs)), key=lambda choice: (costs[choice].macs, costs[choice].bit_operations))

        return Architecture(tuple(map(picked, range(self.num_layers))), widths)

    @cached_property
    def _costs(self) -> CostTable:
        return CostTable(self)


def _legal(values: Sequence[object]) -> str:
    return ", ".join(f"{index} ({value})" for index, value in enumerate(values))


def operation_shares(space: SearchSpace, architectures: Sequence[Architecture]) -> dict[str, float]:
    """Share of each operation's name among the choices of the architectures; a drift to one is a warning.

    Returns:
        Shares by name, all names of the space, summing to 1.
    """
    counts = Counter(name for architecture in architectures for name in space.operation_names(architecture))
    names = dict.fromkeys(name for layer in range(space.num_layers) for name in space.operations(layer))
    return {name: counts[name] / max(counts.total(), 1) for name in names}
