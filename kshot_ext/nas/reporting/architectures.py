"""Architectures as the page of a search shows them: what each costs, how it scored, and its layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from kshot_ext.nas.messages import in_shell
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult
from kshot_ext.nas.runs.spread import Spread
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.spaces.layer_profile import LayerProfile, LayerProfiles
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.task import Task

_MOST_PARTS = 400
"""Different layers on a page; what goes beyond has no drawing. They are most of what a page weighs."""
_COLOURS = 8


@dataclass(frozen=True)
class Part:
    """A layer as it is drawn.

    Args:
        title: its operation, or what else it is.
        place: where it is.
        channels, size: of what comes in and goes out.
        macs, parameters: what it costs, for people.
        share: its multiply-accumulates in percent of those of the costliest layer on the page.
        colour: number of its operation's colour; None of stem and head.
        side, depth: of its box, 0 to 1: by resolution, and by channels.
    """

    title: str
    place: str
    channels: str
    size: str
    macs: str
    parameters: str
    share: float
    colour: int | None
    side: float
    depth: float


@dataclass(frozen=True)
class ShownArchitecture:
    """An architecture, and what is said of it.

    Args:
        key: by which commands know it.
        title: what it is in this run; empty if nothing but one of many.
        facts: costs and scores, by name.
        parts: numbers of its layers among all parts of the page; empty if it has no drawing.
    """

    key: str
    title: str
    facts: Mapping[str, str]
    parts: Sequence[int]


@dataclass
class Catalogue:
    """All architectures of a page.

    Args:
        command: what trains one; its key comes behind.
        shown: by key, the winner first.
        parts: the different layers.
    """

    command: str
    shown: dict[str, ShownArchitecture] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)

    @property
    def winner(self) -> ShownArchitecture:
        """The first."""
        return next(iter(self.shown.values()))

    def command_for(self, one: ShownArchitecture) -> str:
        """What trains an architecture."""
        return f"{self.command} {in_shell(one.key)}"

    def layers(self, one: ShownArchitecture) -> list[Part]:
        """The layers of an architecture, in order."""
        return [self.parts[number] for number in one.parts]

    def to_json(self) -> list[dict[str, Any]]:
        """What a page's program reads: a list, as JavaScript would bring keys of digits into another order."""
        return [{**asdict(one), "command": self.command_for(one)} for one in self.shown.values()]


def catalogue(space: SearchSpace, result: RunResult, command: str) -> Catalogue:
    """Gather what was trained from scratch, the front, and what else was evaluated, in this order.

    Args:
        space: of the architectures.
        result: what was found.
        command: what trains an architecture whose key comes behind.
    """
    described = {network.architecture: _of_retrained(network, result.task) for network in result.compared}
    on_front = [item.architecture for item in result.front]
    for item in result.considered:
        described.setdefault(item.architecture, ("", _of_evaluated(item, result.task)))
    order = dict.fromkeys([*(network.architecture for network in result.compared), *on_front, *described])
    profiles, numbers = LayerProfiles(space), dict[LayerProfile, int]()
    found = Catalogue(command)
    for architecture in order:
        title, facts = described[architecture]
        layers = profiles.of(architecture) if len(numbers) < _MOST_PARTS else ()
        parts = [numbers.setdefault(layer, len(numbers)) for layer in layers]
        if not parts:
            facts |= {"operations": ", ".join(space.operation_names(architecture))}
        if not title and architecture in on_front:
            title = "on the Pareto front"
        found.shown[architecture.short()] = ShownArchitecture(architecture.short(), title, facts, parts)
    names = (name for layer in range(space.num_layers) for name in space.operations(layer))
    found.parts = _drawn(list(numbers), list(dict.fromkeys(map(space.weights_of, names))))
    return found


def choices_legend(space: SearchSpace) -> list[str]:
    """What the digits of keys stand for: a line for layers that offer the same, and one for widths."""
    lines: dict[tuple[str, ...], list[int]] = {}
    for layer in range(space.num_layers):
        lines.setdefault(space.operations(layer), []).append(layer)
    legend = [f"{_layers(places, space.num_layers)}: {_numbered(names)}" for names, places in lines.items()]
    return [*legend, *([] if space.widths is None else [f"widths: {_numbered(f'{w:g}' for w in space.widths)}"])]


def _layers(places: Sequence[int], count: int) -> str:
    if len(places) == count:
        return "all layers"
    if len(places) == 1:
        return f"layer {places[0]}"
    whole = list(places) == list(range(places[0], places[-1] + 1))
    return f"layers {places[0]} to {places[-1]}" if whole else f"layers {', '.join(map(str, places))}"


def _numbered(names: Iterable[str]) -> str:
    return ", ".join(f"{number:x} {name}" for number, name in enumerate(names))


def _of_retrained(network: RetrainedNetwork, task: Task) -> tuple[str, dict[str, str]]:
    name, accuracies = f"test {task.metric_name}", network.test_accuracies
    facts = {name: task.shown(network.test_accuracy)}
    if len(accuracies) > 1:
        facts[f"mean of {len(accuracies)} trainings"] = task.shown(Spread.of(accuracies).mean)
    facts |= _scores(Scores(network.supernet_accuracy, network.supernet_loss), task) | _costs(network)
    if network.widths is not None:
        facts["widths"] = ", ".join(f"{width:g}" for width in network.widths)
    return network.title, facts


def _of_evaluated(item: Evaluated, task: Task) -> dict[str, str]:
    latency = {} if item.latency is None else {"latency": f"{item.latency:,.3f} ms"}
    return _scores(item.scores, task) | _costs(item) | latency


def _scores(scores: Scores, task: Task) -> dict[str, str]:
    return {
        f"validation {task.loss_name}": f"{scores.loss:.4f}",
        f"validation {task.metric_name}": task.shown(scores.accuracy),
    }


def _costs(network: RetrainedNetwork | Evaluated) -> dict[str, str]:
    bits = {"bit operations": f"{network.bit_operations:,}"} if network.bit_operations else {}
    return {"multiply-accumulates": f"{network.macs:,}", "parameters": f"{network.parameters:,}", **bits}


def _drawn(layers: Sequence[LayerProfile], operations: Sequence[str]) -> list[Part]:
    """Layers as they are drawn; an operation's colour is its place among those of the space that have weights apart."""
    most_macs = max((layer.cost.macs for layer in layers), default=0) or 1
    shapes = [layer.output_shape for layer in layers if len(layer.output_shape) > 1]
    most_channels = max((shape[0] for shape in shapes), default=1)
    most_side = max((max(shape[1:]) for shape in shapes), default=1)
    return [
        Part(
            title=layer.operation or layer.place,
            place=f"layer {layer.place}" if layer.operation else "",
            channels=_change(layer.input_shape[:1], layer.output_shape[:1]),
            size=_change(layer.input_shape[1:], layer.output_shape[1:]),
            macs=_compact(layer.cost.macs),
            parameters=f"{layer.cost.parameters:,}",
            share=round(100 * layer.cost.macs / most_macs, 1),
            colour=operations.index(layer.weights) % _COLOURS if layer.operation else None,
            side=_share_of_logarithm(max(layer.output_shape[1:], default=1), most_side),
            depth=_share_of_logarithm(max(layer.output_shape[:1], default=1), most_channels),
        )
        for layer in layers
    ]


def _compact(count: int) -> str:
    """A number of three digits or so: ``"12.3 k"``, ``"1.23 M"``, ``"4.56 G"``.

    Example:
        >>> _compact(0), _compact(12345), _compact(1_234_567)
        ('0', '12.3 k', '1.23 M')
    """
    for power, unit in ((9, "G"), (6, "M"), (3, "k")):
        if count >= 10**power:
            return f"{count / 10**power:.3g} {unit}" if count < 1000 * 10**power else f"{count / 10**power:,.0f} {unit}"
    return str(count)


def _change(before: Sequence[int], after: Sequence[int]) -> str:
    texts = ["x".join(map(str, shape)) for shape in (before, after)]
    return texts[1] if texts[0] == texts[1] else " → ".join(text for text in texts if text)


def _share_of_logarithm(value: int, most: int) -> float:
    return round(min(math.log2(value) / max(math.log2(most), 1), 1), 2)
