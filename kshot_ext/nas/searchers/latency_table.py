"""Latency of all networks of a space, added up from parts that are timed once on this device."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kshot_ext.nas.randomness import seeded_by
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.plain_network import to_plain_network
from kshot_ext.nas.spaces.space import SearchSpace


class _Part(NamedTuple):
    """A description, by which its time is kept, and what builds it."""

    key: str
    build: Callable[[], nn.Module]


class _Run(NamedTuple):
    """One run of a network: seconds when it began and ended, and milliseconds that a second stood for at that time."""

    begin: float
    end: float
    pace: float


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


_LEAST_RUNS = 5  # of a network that is timed, so that a median means something


def _with_notes(
    network: nn.Module, parts: Mapping[str, nn.Module], note: Callable[[str], None]
) -> torch.fx.GraphModule:
    """The plain network, which tells `note` where each of its parts ends: where another one begins, and at the end."""
    plain = to_plain_network(network)
    names = {module: name for name, module in network.named_modules()}
    # A part may be left out of the network, such as a layer that another branch has computed already.
    owners = {names[module]: part for part, whole in parts.items() for module in whole.modules() if module in names}
    running = None
    for node in plain.graph.nodes:
        called_from = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
        part = next((owners[name] for name in called_from if name in owners), running)
        ended = running is not None and (part != running or node.op == "output")
        if ended:
            with plain.graph.inserting_before(node):
                plain.graph.call_function(note, (running,))
        running = part
    plain.recompile()
    return plain


class LatencyTable:
    """Milliseconds of one forward pass of any network of a space, in evaluation mode.

        latency(a) = sum over the parts p of a of the time of p in another network

    Stem, head and each operation of each layer are timed the first time that a network has them (at these widths),
    while that network runs: alone and again and again, a part would find its weights and its code in the caches. A
    part's time begins where the part before it ended, so that what happens between them counts too. Networks are plain
    ``torch.nn``, in evaluation mode, with as many threads as torch uses.

    Of a space with bits it is the time of the same network without: this machine computes with floating-point numbers,
    and to simulate few bits takes longer than to have many.

    A machine's pace changes from minute to minute, by more than networks differ. So a reference network of the space
    runs before every run that is timed, and times are taken relative to its own, then multiplied by what it took first.

    Args:
        space: whose networks.
        batch_size: images per pass.
        device: where they run.
        seconds: time spent on timing each part.

    Attributes:
        times: milliseconds of each part timed so far, by a description of it.
        reference_time: milliseconds of the reference network when it was first timed; None before.

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
        self.space = space.floating_point
        self._without_bits = space.without_bits
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.seconds = seconds
        self.times: dict[str, float] = {}
        self.reference_time: float | None = None

    def __call__(self, architecture: Architecture) -> float:
        """Predicted milliseconds."""
        architecture = self._without_bits(architecture)
        parts = self._parts(architecture)
        if any(part.key not in self.times for part in parts.values()):
            self._time(architecture, parts)
        return sum(self.times[part.key] for part in parts.values())

    def state_dict(self) -> dict[str, Any]:
        """The times measured so far."""
        return {"times": dict(self.times), "reference_time": self.reference_time}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Use these times, and measure only what they lack."""
        self.times = dict(state["times"])
        self.reference_time = state["reference_time"]

    def measure(self, architecture: Architecture) -> float:
        """Milliseconds of the whole network."""
        network = self._build(self._without_bits(architecture))
        return median((run.end - run.begin) * run.pace for run in self._runs(network, self.seconds))

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
        """Time the parts that are not yet, in this network."""
        with seeded_by(torch.Generator().manual_seed(0)):
            modules = {name: part.build() for name, part in parts.items()}
        stem, *layers, head = modules.values()
        ends: list[tuple[str, float]] = []

        def note(part: str) -> None:
            ends.append((part, self._now()))

        network = _with_notes(self.space.assemble(stem, layers, head), modules, note)
        missing = [name for name, part in parts.items() if part.key not in self.times]
        times: dict[str, list[float]] = defaultdict(list)
        for run in self._runs(network, self.seconds * len(missing), ends.clear):
            taken, begin = dict.fromkeys(parts, 0.0), run.begin
            for part, end in ends:
                taken[part] += end - begin
                begin = end
            for name in missing:
                times[name].append(taken[name] * run.pace)
        self.times |= {parts[name].key: median(found) for name, found in times.items()}

    def _build(self, architecture: Architecture) -> nn.Module:
        return self.space.build(architecture, torch.Generator().manual_seed(0))

    @cached_property
    def _reference(self) -> nn.Module:
        return self._prepared(self._build(self.space.sample(torch.Generator().manual_seed(0))))

    @cached_property
    def _images(self) -> Tensor:
        shape = (self.batch_size, *self.space.image_shape)
        return torch.zeros(shape, device=self.device).contiguous(memory_format=self.space.memory_format)

    def _prepared(self, network: nn.Module) -> nn.Module:
        """The network on the device, after a first run, which is slower than those that follow."""
        network = network.eval().to(self.device)
        network.to(memory_format=self.space.memory_format)  # type: ignore[call-overload]  # torch's stub lacks it
        network(self._images)
        return network

    @torch.no_grad()
    def _runs(self, network: nn.Module, seconds: float, before: Callable[[], None] = lambda: None) -> Iterator[_Run]:
        """Runs a network that long, in turn with the reference network; `before` is called between the two."""
        network = self._prepared(network)
        if self.reference_time is None:
            self.reference_time = 1e3 * median(self._seconds(self._reference) for _ in range(_LEAST_RUNS))
        until, runs = self._now() + 2 * seconds, 0
        while runs < _LEAST_RUNS or self._now() < until:
            pace = self.reference_time / self._seconds(self._reference)
            before()
            begin = self._now()
            network(self._images)
            yield _Run(begin, self._now(), pace)
            runs += 1

    def _seconds(self, network: nn.Module) -> float:
        """Time of one run."""
        begin = self._now()
        network(self._images)
        return self._now() - begin

    def _now(self) -> float:
        """Seconds, once the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
