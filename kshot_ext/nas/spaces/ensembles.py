"""Ensembles of networks of a space that share their first layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.counting import Cost
from kshot_ext.nas.spaces.space import NetworkShape, SearchSpace


@dataclass(frozen=True)
class _TrunkShape:
    """Of the place where the length of the trunk is chosen."""


class EnsembleSpace(SearchSpace):
    """Ensembles of ``size`` networks whose first layers are one trunk; their output is the mean of the members' scores:

        f(x) = 1/k sum_i head_i(branch_i(trunk(x)))

    An architecture first has the number of layers that are shared, after the stem, which always is; then the choices of
    each member in turn. In the trunk all members have the choices of the first one.

    Args:
        space: whose networks are the members; a chain of layers, each with a width of its own if any are searched.
        size: k, the number of members, at least 2.

    Attributes:
        kept: of each layer of the space underneath the operations that are still to be chosen from, see :meth:`keep`.

    Raises:
        ValueError: if the space is of another kind.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10, channels=2)
        >>> ensembles = EnsembleSpace(space, 2)
        >>> one, other = Architecture((1,) * 8), Architecture((1,) * 7 + (2,))
        >>> pair = ensembles.of_members(7, (one, other))
        >>> ensembles.trunk(pair), ensembles.members(pair) == (one, other)
        (7, True)
        >>> ensembles.count_macs(pair) < space.count_macs(one) + space.count_macs(other)
        True
    """

    def __init__(self, space: SearchSpace, size: int) -> None:
        check_at_least("size", size, 2)
        _check_chain(space)
        super().__init__(
            f"ensembles of {size} in {space.name}",
            image_shape=space.image_shape,
            num_classes=space.num_classes,
            operations=[
                [f"trunk {shared}" for shared in range(space.num_layers + 1)],
                *[space.operations(layer) for _ in range(size) for layer in range(space.num_layers)],
            ],
            width_names=[f"{name} of network {member}" for member in range(1, size + 1) for name in space.width_names],
            widths=space.widths,
        )
        self.space = space
        self.size = size
        self.kept = [tuple(range(len(space.operations(layer)))) for layer in range(space.num_layers)]

    def keep(self, kept: Sequence[Sequence[int]]) -> None:
        """Narrows what :meth:`sample` and :meth:`from_genes` give: other operations give way to those kept.

        Args:
            kept: of each layer of the space underneath the operations that are left, one or more.

        Raises:
            ValueError: if they are no operations of the layers.
        """
        if len(kept) != self.space.num_layers:
            raise ValueError(f"kept: expected operations of {self.space.num_layers} layers, got {len(kept)}")
        for layer, operations in enumerate(kept):
            legal = range(len(self.space.operations(layer)))
            if not operations or not set(operations) <= set(legal):
                raise ValueError(f"kept[{layer}]: expected one or more of {list(legal)}, got {list(operations)}")
        self.kept = [tuple(sorted(set(operations))) for operations in kept]

    def give_back(self) -> bool:
        """Lets each layer choose again from the cheapest operation that it has lost; whether any had lost one."""
        kept = []
        for layer, left in enumerate(self.kept):
            lost = set(range(len(self.space.operations(layer)))) - set(left)
            macs = {operation: self.space.layer_cost(layer, operation).macs for operation in lost}
            cheapest = sorted(lost, key=macs.__getitem__)[:1]
            kept.append((*left, *cheapest))
        grown = sum(map(len, kept)) > sum(map(len, self.kept))
        self.keep(kept)
        return grown

    def trunk(self, architecture: Architecture) -> int:
        """How many layers all members share."""
        return architecture.operations[0]

    def is_single(self, architecture: Architecture) -> bool:
        """Whether this is no ensemble, but an architecture of the space underneath."""
        return len(architecture.operations) == self.space.num_layers

    def members(self, architecture: Architecture) -> tuple[Architecture, ...]:
        """The members, architectures of the space underneath."""
        layers, widths = self.space.num_layers, self.space.num_widths
        return tuple(
            Architecture(
                architecture.operations[1 + member * layers :][:layers],
                None if architecture.widths is None else architecture.widths[member * widths :][:widths],
            )
            for member in range(self.size)
        )

    def of_members(self, trunk: int, members: Sequence[Architecture]) -> Architecture:
        """The ensemble of these members, all of which get the first one's choices in the trunk."""
        first, *others = members
        joined = [first, *(_with_trunk(first, other, trunk) for other in others)]
        operations = (trunk, *(choice for member in joined for choice in member.operations))
        widths = None if first.widths is None else tuple(width for member in joined for width in member.widths or ())
        return Architecture(operations, widths)

    def from_genes(self, genes: Sequence[int]) -> Architecture:
        """The ensemble of these choices; those of later members that lie in the trunk do not count, and an operation
        that is no longer kept stands for one that is."""
        plain = super().from_genes(genes)
        members = [
            Architecture(
                tuple(o if o in kept else kept[o % len(kept)] for o, kept in zip(member.operations, self.kept)),
                member.widths,
            )
            for member in self.members(plain)
        ]
        return self.of_members(plain.operations[0], members)

    def sample(self, generator: torch.Generator) -> Architecture:
        """An ensemble with a trunk of any length and, of what is kept, any choices, each drawn uniformly."""
        trunk = int(torch.randint(self.space.num_layers + 1, (), generator=generator))
        members = []
        for _ in range(self.size):
            drawn = (kept[int(torch.randint(len(kept), (), generator=generator))] for kept in self.kept)
            members.append(Architecture(tuple(drawn), self.space.sample(generator).widths))
        return self.of_members(trunk, members)

    def validate(self, architecture: Architecture) -> None:
        super().validate(architecture)
        if self.of_members(self.trunk(architecture), self.members(architecture)) != architecture:
            raise ValueError(
                f"architecture: expected the same choices of all networks in their trunk of "
                f"{self.trunk(architecture)} layers, got {architecture.short()}"
            )

    def cheapest(self) -> Architecture:
        return self.of_members(self.space.num_layers, [self._extreme(min, self.space.cheapest())] * self.size)

    def largest(self) -> Architecture:
        return self.of_members(0, [self._extreme(max, self.space.largest())] * self.size)

    def network_shape(self, ratios: Sequence[float]) -> NetworkShape:
        return self._joined_shape(0, self._member_shapes(ratios))

    def shape_of(self, architecture: Architecture) -> NetworkShape:
        """As elsewhere; layers of later members that lie in the trunk have no shape, as they are not built."""
        return self._joined_shape(self.trunk(architecture), self._member_shapes(self.ratios(architecture)))

    def stem(self, shape: Any) -> nn.Module:
        return self.space.stem(shape)

    def candidate(self, operation: str, shape: Any) -> nn.Module:
        if isinstance(shape, _TrunkShape):
            return _Trunk(self._operations[0].index(operation))
        return nn.Identity() if shape is None else self.space.candidate(operation, shape)

    def head(self, shape: Any) -> nn.Module:
        return nn.ModuleList(self.space.head(member) for member in shape)

    def assemble(self, stem: nn.Module, layers: Sequence[Any], head: Any) -> nn.Module:
        trunk, *layers = layers
        depth, shared = self.space.num_layers, trunk.layers
        branches = [
            self.space.assemble(nn.Identity(), layers[member * depth :][shared:depth], one)
            for member, one in enumerate(head)
        ]
        return BranchedNetwork(self.space.assemble(stem, layers[:shared], nn.Identity()), branches)

    def neighbours(self, layer: int) -> tuple[int, ...]:
        """Those of the space underneath, in the same member; the length of the trunk has none."""
        if layer == 0:
            return ()
        member, inner = divmod(layer - 1, self.space.num_layers)
        return tuple(1 + member * self.space.num_layers + other for other in self.space.neighbours(inner))

    @cached_property
    def _costs(self) -> Any:  # tells what a space asks of its table
        return _EnsembleCosts(self.space)

    def _member_shapes(self, ratios: Sequence[float]) -> list[NetworkShape]:
        count = len(self.space.width_names)
        return [self.space.network_shape(ratios[member * count :][:count]) for member in range(self.size)]

    def _joined_shape(self, trunk: int, members: Sequence[NetworkShape]) -> NetworkShape:
        first, *others = members
        branches = (shape for other in others for shape in ((None,) * trunk + other.layers[trunk:]))
        heads = tuple(member.head for member in members)
        return NetworkShape(first.stem, (_TrunkShape(), *first.layers, *branches), heads)

    def _extreme(self, pick: Callable[..., int], member: Architecture) -> Architecture:
        """A member with the operations of most or least multiply-accumulates that are kept."""
        layers = enumerate(self.kept)
        chosen = (pick(kept, key=lambda o, layer=layer: self.space.layer_cost(layer, o).macs) for layer, kept in layers)
        return Architecture(tuple(chosen), member.widths)


class BranchedNetwork(nn.Module):
    """Several branches on one trunk; puts out the mean of what they put out.

    Args:
        trunk: what is shared; it is computed once.
        branches: get its output.
    """

    def __init__(self, trunk: nn.Module, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.branches = nn.ModuleList(branches)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack(self.members(images)).mean(dim=0)

    def members(self, images: Tensor, trunk_gradient: float = 1.0) -> list[Tensor]:
        """What each branch puts out.

        Args:
            images: what the trunk gets.
            trunk_gradient: what the gradient that enters the trunk is multiplied with.
        """
        features = self.trunk(images)
        if trunk_gradient != 1 and features.requires_grad:
            features.register_hook(lambda gradient: trunk_gradient * gradient)
        return [branch(features) for branch in self.branches]


class _Trunk(nn.Module):
    """Stands for the choice of how many layers are shared."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = layers


class _EnsembleCosts:
    """Costs of the parts of ensembles, by those of the space underneath."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space

    def outer(self, shape: NetworkShape) -> Cost:
        """Cost of the stem and of all heads."""
        costs = self._space._costs
        return sum(map(costs.head, shape.head), start=costs.stem(shape.stem))

    def layer(self, layer: int, operation: int, shape: NetworkShape) -> Cost:
        """Cost of one operation of one layer; nothing where a trunk has it already."""
        own = shape.layers[layer]
        if own is None or isinstance(own, _TrunkShape):
            return Cost(0, 0)
        inner = (layer - 1) % self._space.num_layers
        return self._space._costs.layer_of(inner, operation, own)


def _with_trunk(first: Architecture, other: Architecture, trunk: int) -> Architecture:
    widths = None
    if first.widths is not None and other.widths is not None:
        widths = first.widths[:trunk] + other.widths[trunk:]
    return Architecture(first.operations[:trunk] + other.operations[trunk:], widths)


def _check_chain(space: SearchSpace) -> None:
    """Refuses spaces that have no first layers to share."""
    parts = [nn.Identity() for _ in range(space.num_layers + 2)]
    stem, *layers, head = parts
    assembled = space.assemble(stem, layers, head)
    if not isinstance(assembled, nn.Sequential) or list(assembled) != parts:
        raise ValueError(
            f"ensembles share their first layers, which needs a space whose networks are a chain of layers; "
            f"got {space.name}"
        )
    if space.num_widths not in (0, space.num_layers):
        raise ValueError(
            f"ensembles share the widths of their first layers, which needs a space with one for each of its "
            f"{space.num_layers} layers, or none; got {space.name} with {space.num_widths}"
        )
