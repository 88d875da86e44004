"""Costs of all networks of a space, added up from parts that are measured once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kshot_ext.nas.spaces.counting import Cost, cost_of, count_positions
from kshot_ext.nas.spaces.outline import outlines

if TYPE_CHECKING:
    from kshot_ext.nas.spaces.space import NetworkShape, SearchSpace

_Part = str | tuple[int, str]  # "stem", "head", or (layer, name of an operation)


class CostTable:
    """Costs of the parts of a space's networks.

    A run of one full network for each operation tells at how many positions every layer works. The cost of a
    part at any width then follows from the sizes of its weights.

    Args:
        space: whose parts.

    Raises:
        ValueError: if the operations of a layer give outputs of different shapes.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._positions: dict[_Part, dict[str, int]] = {}
        self._costs: dict[tuple[_Part, Any], Cost] = {}
        output_shapes: dict[int, tuple[int, ...]] = {}
        most = max(len(space.own_weights(layer)) for layer in range(space.num_layers))
        for choice in range(most):
            self._measure_positions(choice, output_shapes)

    def outer(self, shape: NetworkShape) -> Cost:
        """Cost of stem and head together."""
        return self.stem(shape.stem) + self.head(shape.head)

    def stem(self, shape: Any) -> Cost:
        """Cost of the stem at one shape."""
        return self._cost("stem", shape)

    def head(self, shape: Any) -> Cost:
        """Cost of the head at one shape."""
        return self._cost("head", shape)

    def layer(self, layer: int, operation: int, shape: NetworkShape) -> Cost:
        """Cost of one operation of one layer."""
        return self.layer_of(layer, operation, shape.layers[layer])

    def layer_of(self, layer: int, operation: int, shape: Any) -> Cost:
        """Cost of one operation of one layer at one shape."""
        name = self._space.operations(layer)[operation]
        return self._cost((layer, name), shape, (layer, self._space.weights_of(name)))

    def _cost(self, part: _Part, shape: Any, measured: _Part | None = None) -> Cost:
        """Cost of a part, whose layers work at the positions of those of the same names in a part that was measured."""
        if (part, shape) not in self._costs:
            with outlines():
                module = self._build(part, shape)
            self._costs[part, shape] = cost_of(module, self._positions[measured or part])
        return self._costs[part, shape]

    def _build(self, part: _Part, shape: Any) -> nn.Module:
        if isinstance(part, tuple):
            return self._space.candidate(part[1], shape)
        return self._space.stem(shape) if part == "stem" else self._space.head(shape)

    def _measure_positions(self, choice: int, output_shapes: dict[int, tuple[int, ...]]) -> None:
        """Runs the full network whose layers all use one choice, or their last one if they offer fewer."""
        space, shape = self._space, self._space.full_shape
        offered = map(space.own_weights, range(space.num_layers))
        choices = [names[min(choice, len(names) - 1)] for names in offered]
        with outlines():
            stem, head = self._build("stem", shape.stem), self._build("head", shape.head)
            layers = [self._build(part, shape.layers[part[0]]) for part in enumerate(choices)]
        for index, layer in enumerate(layers):
            layer.register_forward_hook(lambda *call, index=index: self._check_shape(index, call[-1], output_shapes))
        positions = count_positions(space.assemble(stem, layers, head), space.image_shape)
        parts: dict[_Part, nn.Module] = {"stem": stem, "head": head}
        parts.update(zip(enumerate(choices), layers))
        for part, module in parts.items():
            self._positions[part] = {
                name: positions[layer] for name, layer in module.named_modules() if layer in positions
            }

    def _check_shape(self, layer: int, output: torch.Tensor, output_shapes: dict[int, tuple[int, ...]]) -> None:
        shape = tuple(output.shape[1:])
        if output_shapes.setdefault(layer, shape) != shape:
            shapes = f"{output_shapes[layer]} and {shape}"
            raise ValueError(f"layer {layer} of space {self._space.name}: its operations give the shapes {shapes}")
