"""Latency of all networks of a space, added up from parts that are timed once on this device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.benchmark import Timer

from kshot_ext.nas.randomness import seeded_by
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.outline import outlines, run_outline
from kshot_ext.nas.spaces.space import SearchSpace


class _Part(NamedTuple):
    """A description, by which its time is kept, and what builds it."""

    key: str
    build: Callable[[], nn.Module]


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
        parts = self._parts(architecture)
        if any(part.key not in self.times for part in parts.values()):
            self._time(architecture, parts)
        return sum(self.times[part.key] for part in parts.values())

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

    def _parts(self, architecture: Architecture) -> dict[str, _Part]:
        """The parts of a network in the order of its forward pass, by name."""
        space, shape = self.space, self.space.shape_of(architecture)
        parts = {"stem": _Part(f"stem {shape.stem}", partial(space.stem, shape.stem))}
        for layer, (operation, inner) in enumerate(zip(space.operation_names(architecture), shape.layers)):
            parts[str(layer)] = _Part(f"{layer} {operation} {inner}", partial(space.candidate, operation, inner))
        return parts | {"head": _Part(f"head {shape.head}", partial(space.head, shape.head))}

    def _time(self, architecture: Architecture, parts: Mapping[str, _Part]) -> None:
        """Time the parts that are not yet."""
        calls = self._calls(architecture, parts)
        for name, part in parts.items():
            if part.key not in self.times:
                with seeded_by(torch.Generator().manual_seed(0)):
                    module = part.build()
                self.times[part.key] = sum(
                    self._milliseconds(module.get_submodule(inner), shape) for inner, shape in calls[name]
                )

    def _calls(
        self, architecture: Architecture, parts: Mapping[str, _Part]
    ) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
        """Of each part the outermost modules that the network calls, by name in the part, with their input's shape."""
        with outlines():
            modules = {name: part.build() for name, part in parts.items()}
        calls: dict[str, list[tuple[str, tuple[int, ...]]]] = {name: [] for name in parts}
        running: list[str] = []

        def begin(part: str, name: str, input: torch.Tensor) -> None:
            if not running:
                calls[part].append((name, tuple(input.shape)))
            running.append(name)

        def end(*_: object) -> None:
            running.pop()

        for part, whole in modules.items():
            for name, module in whole.named_modules():
                module.register_forward_pre_hook(lambda _, inputs, part=part, name=name: begin(part, name, inputs[0]))
                module.register_forward_hook(end)
        stem, *layers, head = modules.values()
        run_outline(self.space.assemble(stem, layers, head), (self.batch_size, *self.space.image_shape))
        return calls

    @torch.no_grad()
    def _milliseconds(self, module: nn.Module, input_shape: tuple[int, ...]) -> float:
        module = module.eval().to(self.device, memory_format=torch.channels_last)
        input = torch.zeros(input_shape, device=self.device)
        if input.dim() == 4:
            input = input.contiguous(memory_format=torch.channels_last)
        timer = Timer("module(input)", globals={"module": module, "input": input}, num_threads=torch.get_num_threads())
        return 1e3 * timer.blocked_autorange(min_run_time=self.seconds).median
