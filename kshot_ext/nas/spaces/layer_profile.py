"""What each layer of a network is: operation, channels, resolution and cost, seen in a run of its outline."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.counting import Cost, cost_of, count_positions
from kshot_ext.nas.spaces.outline import outlines
from kshot_ext.nas.spaces.space import SearchSpace

_Part = tuple[str, str, Hashable]  # place, operation, shape


@dataclass(frozen=True)
class LayerProfile:
    """One part of a network.

    Args:
        place: ``"stem"``, ``"head"``, or the number of the layer from 0.
        operation: its name; empty of stem and head.
        weights: the operation whose weights it has in a supernet, which may be another.
        input_shape, output_shape: of what comes in first and goes out last, without the batch; empty of a part that
            does nothing, such as an edge that is not there.
        cost: of the part alone.
    """

    place: str
    operation: str
    weights: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    cost: Cost


class LayerProfiles:
    """Profiles of the layers of a space's networks.

    A part is the same in all networks where it has the same place, operation and shape: so a network of parts that
    were seen in others takes no run.

    Args:
        space: whose networks.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2)
        >>> stem, first, *_ = LayerProfiles(space).of(Architecture((1,) * 8))
        >>> first.place, first.operation, first.input_shape, first.output_shape
        ('0', 'mb3_k3', (2, 8, 8), (4, 4, 4))
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._seen: dict[_Part, LayerProfile] = {}

    def of(self, architecture: Architecture) -> tuple[LayerProfile, ...]:
        """The parts of an architecture's network, in order: the stem, the layers, the head.

        Their costs add up to ``space.cost(architecture)``.

        Raises:
            ValueError: if the architecture is none of the space.
        """
        self._space.validate(architecture)
        shape, names = self._space.shape_of(architecture), self._space.operation_names(architecture)
        numbered = ((str(number), *chosen) for number, chosen in enumerate(zip(names, shape.layers)))
        parts = [("stem", "", shape.stem), *numbered, ("head", "", shape.head)]
        if not self._seen.keys() >= set(parts):
            self._look_at(parts)
        return tuple(self._seen[part] for part in parts if part[2] is not None)  # what is not built has no shape

    def _look_at(self, parts: Sequence[_Part]) -> None:
        (_, _, stem_shape), *chosen, (_, _, head_shape) = parts
        with outlines():
            stem, head = self._space.stem(stem_shape), self._space.head(head_shape)
            layers = [self._space.candidate(operation, shape) for _, operation, shape in chosen]
        modules = [stem, *layers, head]
        watches = [_ShapeWatch(module) for module in modules]
        positions = count_positions(self._space.assemble(stem, layers, head), self._space.image_shape)
        for part, module, watch in zip(parts, modules, watches):
            place, operation, _ = part
            applied = {name: positions[layer] for name, layer in module.named_modules() if layer in positions}
            weights = operation and self._space.weights_of(operation)
            self._seen[part] = LayerProfile(
                place, operation, weights, watch.first_input, watch.last_output, cost_of(module, applied)
            )


class _ShapeWatch:
    """Shapes of what goes into a part first and comes out of it last; the part may be a list that is never called."""

    def __init__(self, part: nn.Module) -> None:
        self.first_input: tuple[int, ...] = ()
        self.last_output: tuple[int, ...] = ()
        for module in part.modules():
            module.register_forward_pre_hook(self._see_input)
            module.register_forward_hook(self._see_output)

    def _see_input(self, _module: nn.Module, inputs: tuple[object, ...]) -> None:
        for shape in _shapes(inputs):
            self.first_input = self.first_input or shape

    def _see_output(self, _module: nn.Module, _inputs: tuple[object, ...], output: object) -> None:
        for shape in _shapes((output,)):
            self.last_output = shape


def _shapes(values: tuple[object, ...]) -> Iterator[tuple[int, ...]]:
    return (tuple(value.shape[1:]) for value in values if isinstance(value, Tensor))
