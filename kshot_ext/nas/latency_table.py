"""Latency of all networks of a space, added up from parts that are timed once on this device."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.benchmark import Timer

from kshot_ext.nas.architecture import Architecture
from kshot_ext.nas.outline import outlines
from kshot_ext.nas.randomness import seeded_by
from kshot_ext.nas.space import SearchSpace

_Part = Hashable  # "stem", "head", or the number of a layer


@dataclass(frozen=True)
class LatencyError:
    """How far predictions are from the times of whole networks.

    Args:
        mean, worst: of ``|predicted - measured| / measured`` over the networks.
        networks: how many were timed.
    """

    mean: float
    worst: float
    networks: int


class LatencyTable:
    """Milliseconds of one forward pass of any network of a space, in evaluation mode.

        latency(a) = sum over the parts p of a of the time of p alone

    Stem, head and each operation of each layer are timed the first time that a network has them (at these widths), as
    plain ``torch.nn`` modules, with as many threads as torch uses. Of a part that has no ``forward`` of its own, the
    modules in it that the network calls are timed. What happens between the parts is left out: see :meth:`error`.

    Args:
        space: whose networks.
        batch_size: images per pass.
        device: where they run.
        seconds: time spent on timing each part.

    Attributes:
        times: milliseconds of each part timed so far, by a description of it.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10, channels=2)
        >>> table = LatencyTable(space, seconds=1e-4)
        >>> table(space.cheapest()) > 0
        True
        >>> len(table.times)  # stem, eight layers, head
        10
    """

    def __init__(
        self, space: SearchSpace, *, batch_size: int = 1, device: torch.device | str = "cpu", seconds: float = 0.02
    ) -> None:
        self.space = space
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.seconds = seconds
        self.times: dict[str, float] = {}

    def __call__(self, architecture: Architecture) -> float:
        """Predicted milliseconds."""
        shape = self.space.shape_of(architecture)
        times = [self._time("stem", None, shape.stem, architecture)]
        names = self.space.operation_names(architecture)
        for layer, (operation, layer_shape) in enumerate(zip(names, shape.layers)):
            times.append(self._time(layer, operation, layer_shape, architecture))
        return sum(times) + self._time("head", None, shape.head, architecture)

    def state_dict(self) -> dict[str, float]:
        """The times measured so far."""
        return dict(self.times)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Use these times, and measure only what they lack."""
        self.times = dict(state)

    def measure(self, architecture: Architecture) -> float:
        """Milliseconds of the whole network."""
        network = self.space.build(architecture, torch.Generator().manual_seed(0))
        return self._milliseconds(network, (self.batch_size, *self.space.image_shape))

    def error(self, architectures: Sequence[Architecture]) -> LatencyError:
        """Compare predictions with the times of whole networks."""
        measured = [self.measure(architecture) for architecture in architectures]
        errors = [abs(self(one) - time) / time for one, time in zip(architectures, measured)]
        return LatencyError(sum(errors) / len(errors), max(errors), len(errors))

    def _time(self, part: _Part, operation: str | None, shape: Hashable, architecture: Architecture) -> float:
        key = f"{part} {operation} {shape}"
        if key not in self.times:
            with seeded_by(torch.Generator().manual_seed(0)):
                module = self._build(part, operation, shape)
            calls = self._calls(part, architecture)
            self.times[key] = sum(self._milliseconds(module.get_submodule(name), size) for name, size in calls)
        return self.times[key]

    def _build(self, part: _Part, operation: str | None, shape: Hashable) -> nn.Module:
        if operation is not None:
            return self.space.candidate(operation, shape)
        return self.space.stem(shape) if part == "stem" else self.space.head(shape)

    def _calls(self, part: _Part, architecture: Architecture) -> list[tuple[str, tuple[int, ...]]]:
        """The outermost modules of a part that the network calls, by name in the part, each with its input's shape."""
        shape, names = self.space.shape_of(architecture), self.space.operation_names(architecture)
        with outlines():
            stem, head = self._build("stem", None, shape.stem), self._build("head", None, shape.head)
            layers = [self._build(*layer) for layer in zip(range(len(names)), names, shape.layers)]
        calls: list[tuple[str, tuple[int, ...]]] = []
        running: list[str] = []

        def begin(name: str, input: torch.Tensor) -> None:
            if not running:
                calls.append((name, tuple(input.shape)))
            running.append(name)

        def end(*_: object) -> None:
            running.pop()

        for name, module in {"stem": stem, "head": head, **dict(enumerate(layers))}[part].named_modules():
            module.register_forward_pre_hook(lambda _, inputs, name=name: begin(name, inputs[0]))
            module.register_forward_hook(end)
        network = self.space.assemble(stem, layers, head).eval()
        network(torch.empty(self.batch_size, *self.space.image_shape, device="meta"))
        return calls

    @torch.no_grad()
    def _milliseconds(self, module: nn.Module, input_shape: tuple[int, ...]) -> float:
        module = module.eval().to(self.device, memory_format=torch.channels_last)
        input = torch.zeros(input_shape, device=self.device)
        if input.dim() == 4:
            input = input.contiguous(memory_format=torch.channels_last)
        timer = Timer("module(input)", globals={"module": module, "input": input}, num_threads=torch.get_num_threads())
        return 1e3 * timer.blocked_autorange(min_run_time=self.seconds).median
