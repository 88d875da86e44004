"""A search space whose layers also choose how many bits their weights and activations have."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.bit_widths import BitWidths, check_choices
from kshot_ext.nas.spaces.counting import COUNTED
from kshot_ext.nas.spaces.outline import outlines
from kshot_ext.nas.spaces.space import NetworkShape, SearchSpace
from kshot_ext.nn import QuantisedConv2d, QuantisedLinear

OUTER_BITS = BitWidths(8, 8)
"""Bits of stem and head: what is before the first and behind the last choice loses most by few bits."""

_QUANTISED = {nn.Conv2d: QuantisedConv2d, nn.Linear: QuantisedLinear}


class BitWidthSpace(SearchSpace):
    """A space with one more choice for each layer: ``op`` becomes ``op@w2a2``, ``op@w2a4`` and so on.

    All convolutions and linear layers of an operation have the bits chosen; those of stem and head have 8. In a
    supernet the choices of one operation share its weights, and each quantises them with its own bits. Operations
    without such a layer are offered once, as they are.

    Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020, search bit widths
    in this way.

    Args:
        space: what to choose bits for; widths stay as they are in it.
        bits: the choices, such as :func:`kshot_ext.nas.spaces.bit_widths.parse_bits` reads.

    Raises:
        ValueError: if a choice is illegal, the space has bits already, or a layer of a kind that cannot be quantised.

    Example:
        >>> from kshot_ext.nas.spaces.bit_widths import parse_bits
        >>> from kshot_ext.nas.spaces.nas_bench_macro import NASBenchMacro
        >>> space = BitWidthSpace(NASBenchMacro(image_shape=(1, 8, 8), num_classes=10), parse_bits("w2a4,w8a8"))
        >>> space.operations(1)
        ('identity', 'mb3_k3@w2a4', 'mb3_k3@w8a8', 'mb6_k5@w2a4', 'mb6_k5@w8a8')
        >>> space.without_bits(space.cheapest())
        Architecture(operations=(0, 0, 0, 0, 0, 0, 0, 0), widths=None)
    """

    def __init__(self, space: SearchSpace, bits: Sequence[BitWidths]) -> None:
        if isinstance(space, BitWidthSpace):
            raise ValueError(f"bits: expected a space without, got {space.name}")
        self.space = space
        self.bits = check_choices(bits)
        self._parts: dict[str, tuple[str, BitWidths | None]] = {}  # of each operation: its name without bits, its bits
        self._offered = [self._choices(layer) for layer in range(space.num_layers)]
        super().__init__(
            f"{space.name} with bits",
            image_shape=space.image_shape,
            num_classes=space.num_classes,
            operations=[[*itertools.chain(*offered.values())] for offered in self._offered],
            width_names=space.width_names,
            widths=space.widths,
        )
        with outlines():  # what cannot have bits is to be known now
            self.stem(space.full_shape.stem), self.head(space.full_shape.head)

    def network_shape(self, ratios: Sequence[float]) -> NetworkShape:
        return self.space.network_shape(ratios)

    def stem(self, shape: Any) -> nn.Module:
        return quantised(self.space.stem(shape), OUTER_BITS)

    def candidate(self, operation: str, shape: Any) -> nn.Module:
        """An operation with its bits; one of the wrapped space, named without, is in floating point."""
        name, bits = self._parts.get(operation, (operation, None))
        module = self.space.candidate(name, shape)
        return module if bits is None else quantised(module, bits)

    def head(self, shape: Any) -> nn.Module:
        return quantised(self.space.head(shape), OUTER_BITS)

    def assemble(self, stem: nn.Module, layers: Sequence[nn.Module], head: nn.Module) -> nn.Module:
        return self.space.assemble(stem, layers, head)

    def mixed(self, candidates: Sequence[nn.Module], weights: Sequence[Tensor] | None = None) -> nn.Module:
        return self.space.mixed(candidates, weights)

    @property
    def floating_point(self) -> SearchSpace:
        return self.space

    def weights_of(self, operation: str) -> str:
        return self.space.weights_of(self._parts.get(operation, (operation, None))[0])

    def neighbours(self, layer: int) -> tuple[int, ...]:
        return self.space.neighbours(layer)

    @property
    def sums(self) -> tuple[tuple[int, ...], ...]:
        return self.space.sums

    @property
    def no_operation(self) -> str | None:
        return self.space.no_operation

    def from_key(self, key: str) -> Architecture:
        raise ValueError(f"key {key!r}: space {self.space.name} has bits here, which no published table knows")

    def sample(self, generator: torch.Generator) -> Architecture:
        """Operations and widths as the wrapped space draws them; then each layer's bits uniformly."""

        def drawn(offered: Sequence[str]) -> str:
            return offered[int(torch.randint(len(offered), (), generator=generator))]

        return self._refined(self.space.sample(generator), drawn)

    def with_bits(self, architecture: Architecture, bits: BitWidths) -> Architecture:
        """An architecture of the wrapped space, all of whose layers get the same bits.

        Raises:
            ValueError: if these bits are not offered.
        """
        if bits not in self.bits:
            raise ValueError(f"bits: expected one of {', '.join(map(str, self.bits))}, got {bits}")
        return self._refined(architecture, lambda offered: offered[self.bits.index(bits) % len(offered)])

    def without_bits(self, architecture: Architecture) -> Architecture:
        names = (self._parts[name][0] for name in self.operation_names(architecture))
        choices = (self.space.operations(layer).index(name) for layer, name in enumerate(names))
        return replace(architecture, operations=tuple(choices))

    def bit_widths(self, architecture: Architecture) -> tuple[BitWidths | None, ...]:
        """Bits of each layer; None of one without weights."""
        return tuple(self._parts[name][1] for name in self.operation_names(architecture))

    def _refined(self, architecture: Architecture, choose: Callable[[Sequence[str]], str]) -> Architecture:
        """An architecture of the wrapped space with one of the names that each layer's operation has here."""
        choices = []
        for layer, name in enumerate(self.space.operation_names(architecture)):
            choices.append(self.operations(layer).index(choose(self._offered[layer][name])))
        return replace(architecture, operations=tuple(choices))

    def _choices(self, layer: int) -> dict[str, list[str]]:
        """The names that each operation of a layer has here."""
        choices = {}
        for operation in self.space.operations(layer):
            with outlines():
                module = self.space.candidate(operation, self.space.full_shape.layers[layer])
            has_weights = any(isinstance(part, COUNTED) for part in quantised(module, OUTER_BITS).modules())
            offered = {f"{operation}@{bits}": bits for bits in self.bits} if has_weights else {operation: None}
            self._parts |= {name: (operation, bits) for name, bits in offered.items()}
            choices[operation] = [*offered]
        return choices


def quantised(module: nn.Module, bits: BitWidths) -> nn.Module:
    """The module itself, whose convolutions and linear layers now have bits; names and tensors stay.

    Raises:
        ValueError: naming a layer that cannot have them.
    """
    for name, layer in module.named_modules():
        kind = _QUANTISED.get(type(layer))
        if kind is not None:
            layer.__class__ = kind
            layer.set_bits(*bits)
        elif isinstance(layer, COUNTED):
            raise ValueError(f"bits: expected Conv2d and Linear only, but layer {name!r} is a {type(layer).__name__}")
    return module
