"""A space whose layers may use several operations at once: each operation of a layer is a set of another space's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache, cached_property
from itertools import combinations
from typing import Any

from torch import Tensor, nn

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.cost_table import CostTable
from kshot_ext.nas.spaces.counting import Cost
from kshot_ext.nas.spaces.space import NetworkShape, SearchSpace

_MOST_OPERATIONS = 16
_JOIN = "+"


class SubsetSpace(SearchSpace):
    """The networks of a space in which every layer adds up what a set of its operations make of its input.

    Of n operations there are 2^n - 1 sets. Each is an operation here, with the name ``"a+b"``, so an architecture
    stays one choice per layer. Small sets come first: an architecture of the space underneath is one of this space,
    too, and the same network. Cost and weights of a set are those of its operations.

    Args:
        space: whose operations; its widths are searched too.

    Raises:
        ValueError: if a layer has more than 16 operations, or one whose name has a plus in it.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2)
        >>> subsets = SubsetSpace(space)
        >>> subsets.operations(0)[:4]
        ('identity', 'mb3_k3', 'mb6_k5', 'identity+mb3_k3')
        >>> both = subsets.of_sets([{0, 1}] + [{0}] * 7)
        >>> both.operations, subsets.sets(both)[0]
        ((3, 0, 0, 0, 0, 0, 0, 0), (0, 1))
    """

    def __init__(self, space: SearchSpace) -> None:
        for layer in range(space.num_layers):
            names = space.operations(layer)
            if len(names) > _MOST_OPERATIONS:
                raise ValueError(
                    f"layer {layer} of space {space.name}: expected at most {_MOST_OPERATIONS} operations to take sets "
                    f"of, got {len(names)}"
                )
            if joined := [name for name in names if _JOIN in name]:
                raise ValueError(
                    f"layer {layer} of space {space.name}: expected names without {_JOIN!r}, which joins those of a "
                    f"set, got {joined[0]!r}"
                )
        super().__init__(
            f"subsets of {space.name}",
            image_shape=space.image_shape,
            num_classes=space.num_classes,
            operations=[
                [_JOIN.join(members) for size in range(1, len(names) + 1) for members in combinations(names, size)]
                for names in map(space.operations, range(space.num_layers))
            ],
            width_names=space.width_names,
            widths=space.widths,
        )
        self.space = space

    def sets(self, architecture: Architecture) -> tuple[tuple[int, ...], ...]:
        """The operations of each layer, as indices in the space underneath, in their order."""
        self.validate(architecture)
        return tuple(self._sets(layer)[choice] for layer, choice in enumerate(architecture.operations))

    def of_sets(self, sets: Sequence[Collection[int]], widths: Sequence[int] | None = None) -> Architecture:
        """The architecture whose :meth:`sets` these are.

        Raises:
            ValueError: naming the layer without an operation, or with one that the space underneath lacks.
        """
        if len(sets) != self.num_layers:
            raise ValueError(f"sets: expected one for each of {self.num_layers} layers, got {len(sets)}")
        choices = []
        for layer, members in enumerate(sets):
            wanted, known = tuple(sorted({*members})), self._sets(layer)
            if wanted not in known:
                legal = ", ".join(f"{index} ({name})" for index, name in enumerate(self.space.operations(layer)))
                raise ValueError(f"sets[{layer}]: expected one or more of {legal}, got {wanted}")
            choices.append(known.index(wanted))
        architecture = Architecture(tuple(choices), None if widths is None else tuple(widths))
        self.validate(architecture)
        return architecture

    def weights(self, architecture: Architecture, values: Sequence[Sequence[Tensor]]) -> list[list[Tensor | None]]:
        """The weights by which a supernet of the space underneath mixes the operations of an architecture.

        Args:
            architecture: of this space.
            values: of all operations of each layer.

        Returns:
            The values of the operations that are used, None for the others.
        """
        return [
            [value if choice in members else None for choice, value in enumerate(row)]
            for members, row in zip(self.sets(architecture), values)
        ]

    def from_key(self, key: str) -> Architecture:
        """The architecture of a key in the form ``a+b|a|c``: the names of each layer's operations."""
        layers = [part.split(_JOIN) for part in key.split("|")]
        known = [self.space.operations(layer) for layer in range(self.num_layers)]
        if len(layers) != len(known) or not all({*names} <= {*legal} for names, legal in zip(layers, known)):
            raise ValueError(
                f"key {key!r}: expected names of operations, joined by {_JOIN!r} within each of {self.num_layers} "
                f"layers and by '|' between them"
            )
        return self.of_sets([[*map(legal.index, names)] for names, legal in zip(layers, known)])

    def network_shape(self, ratios: Sequence[float]) -> NetworkShape:
        return self.space.network_shape(ratios)

    def stem(self, shape: Any) -> nn.Module:
        return self.space.stem(shape)

    def candidate(self, operation: str, shape: Any) -> nn.Module:
        """The sum of a set of operations; of one alone, itself."""
        modules = [self.space.candidate(name, shape) for name in operation.split(_JOIN)]
        return modules[0] if len(modules) == 1 else self.space.mixed(modules)

    def head(self, shape: Any) -> nn.Module:
        return self.space.head(shape)

    def assemble(self, stem: nn.Module, layers: Sequence[nn.Module], head: nn.Module) -> nn.Module:
        return self.space.assemble(stem, layers, head)

    def neighbours(self, layer: int) -> tuple[int, ...]:
        return self.space.neighbours(layer)

    @property
    def sums(self) -> tuple[tuple[int, ...], ...]:
        return self.space.sums

    @property
    def no_operation(self) -> str | None:
        return self.space.no_operation

    @cached_property
    def _costs(self) -> Any:  # tells what a space asks of its table
        return _SetCosts(self.space._costs, self._sets)

    def _sets(self, layer: int) -> tuple[tuple[int, ...], ...]:
        return _all_sets(len(self.space.operations(layer)))


class _SetCosts:
    """Costs of the parts of a space of sets: added up, not measured for each of thousands of sets."""

    def __init__(self, costs: CostTable, sets: Callable[[int], Sequence[tuple[int, ...]]]) -> None:
        self.outer = costs.outer
        self._of_one = costs.layer
        self._sets = sets

    def layer(self, layer: int, operation: int, shape: NetworkShape) -> Cost:
        members = self._sets(layer)[operation]
        return sum((self._of_one(layer, member, shape) for member in members), start=Cost(0, 0))


@cache
def _all_sets(count: int) -> tuple[tuple[int, ...], ...]:
    """All sets of so many operations but the empty one, small ones first."""
    return tuple(chosen for size in range(1, count + 1) for chosen in combinations(range(count), size))
