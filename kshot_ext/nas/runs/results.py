"""What a run found, and the form in which ``results.json`` keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kshot_ext.nas.files import read_json
from kshot_ext.nas.findings import Findings
from kshot_ext.nas.runs.spread import Comparison, Spread
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.strict_json import strict_json
from kshot_ext.nas.task import CLASSIFICATION, Task

RESULTS_FORMAT = 2
"""Version of ``results.json``; files of version 1, which have no such number, had one rival and no history."""


@dataclass(frozen=True)
class RetrainedNetwork:
    """One architecture, trained from scratch.

    Args:
        title: ``"winner"`` for the best that was selected, ``"winner-2"``, ... for others; ``"random"``,
            ``"random-2"``, ... for those drawn at random that cost as much as the winner.
        architecture: its choices.
        operations: name of the operation chosen in each layer.
        macs: multiply-accumulates for one image.
        parameters: number of trainable numbers.
        supernet_accuracy: share of validation images right with the supernet's weights; the metric of another task.
        supernet_loss: mean loss of the validation images with the supernet's weights; of classes in nats.
        test_accuracy: share of test images right, or the metric of another task, after training from scratch, of the
            training whose weights are kept.
        widths: chosen share of the full width of each width searched; None if none are.
        bit_operations: for one image; 0 of a network without bits.
        test_accuracies: those of all its trainings, which differ in their random numbers only; this one's first. Empty
            stands for the one.
    """

    title: str
    architecture: Architecture
    operations: tuple[str, ...]
    macs: int
    parameters: int
    supernet_accuracy: float
    supernet_loss: float
    test_accuracy: float
    widths: tuple[float, ...] | None = None
    bit_operations: int = 0
    test_accuracies: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.test_accuracies:
            object.__setattr__(self, "test_accuracies", (self.test_accuracy,))

    @property
    def key(self) -> str:
        """The architecture as text, by which commands know it."""
        return self.architecture.short()

    def to_json(self) -> dict[str, Any]:
        """For ``results.json``: its fields, and its key."""
        return {"title": self.title, "key": self.key, **asdict(self)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> RetrainedNetwork:
        """The network that :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: if it is something else.
        """
        return cls(**_with_objects({name: value for name, value in fields.items() if name != "key"}))


@dataclass(frozen=True)
class ConsideredNetwork:
    """One architecture that was evaluated with the supernet's weights, as ``results.json`` has it.

    Args:
        number: its place in the history, from 0.
        key: its choices as text, see :meth:`kshot_ext.nas.spaces.architecture.Architecture.short`.
        architecture: its choices.
        operations: name of the operation chosen in each layer.
        widths: chosen share of the full width of each width searched; None if none are.
        macs, parameters, bit_operations: what it costs; see :class:`kshot_ext.nas.spaces.counting.Cost`.
        latency: milliseconds of one image, as predicted; None if no latency is known.
        supernet_accuracy, supernet_loss: on validation images; a loss of infinity if it gave no numbers.
    """

    number: int
    key: str
    architecture: Architecture
    operations: tuple[str, ...]
    widths: tuple[float, ...] | None
    macs: int
    parameters: int
    bit_operations: int
    latency: float | None
    supernet_accuracy: float
    supernet_loss: float

    @classmethod
    def of(cls, number: int, evaluated: Evaluated, space: SearchSpace) -> ConsideredNetwork:
        """What was evaluated, with names."""
        architecture, scores = evaluated.architecture, evaluated.scores
        return cls(
            number=number,
            key=architecture.short(),
            architecture=architecture,
            **space.named(architecture),
            macs=evaluated.macs,
            parameters=evaluated.parameters,
            bit_operations=evaluated.bit_operations,
            latency=evaluated.latency,
            supernet_accuracy=scores.accuracy,
            supernet_loss=scores.loss,
        )

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ConsideredNetwork:
        """The network whose ``asdict`` these fields are; a loss that is null was infinite.

        Raises:
            KeyError, TypeError, ValueError: if they are something else.
        """
        return cls(**_with_objects(fields))


def _with_objects(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a network as they were before they became JSON."""
    accuracy, loss = fields["supernet_accuracy"], fields["supernet_loss"]
    tuples = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return {
        **fields,
        **tuples,
        "architecture": architecture_from(fields["architecture"]),
        "supernet_accuracy": math.nan if accuracy is None else accuracy,
        "supernet_loss": math.inf if loss is None else loss,
    }


def architecture_from(fields: Mapping[str, Any]) -> Architecture:
    """The architecture whose ``asdict`` these fields are.

    Raises:
        KeyError, TypeError, ValueError: if they are something else.
    """
    return Architecture(fields["operations"], fields["widths"])


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What was selected, beside random networks; what they had to keep to, and what it took.

    Args:
        networks: those selected, the best first.
        rivals: random networks that the best is compared with; may be empty.
        ensemble_accuracy: share of test images that the mean logits of the networks get right; None if they are no
            ensemble.
        considered: what they were selected from, in order; may be empty.
        front: those of them that no other beats, cheapest first.
        space: of the architectures; None where nobody asks for names.
        max_macs: the budget.
        max_bit_operations: the budget of bit operations; None without one.
        score: what ranks networks, ``"loss"`` or ``"accuracy"`` of validation images with the supernet's weights.
        costs: names of the costs that the front weighs against the score.
        test_images: how many test accuracies are measured on.
        findings: what the method tells of its own; None if nothing.
        task: what the networks do; its metric is what is called accuracy here.
        seconds: time of each stage.
    """

    networks: tuple[RetrainedNetwork, ...]
    rivals: tuple[RetrainedNetwork, ...] = ()
    ensemble_accuracy: float | None = None
    considered: tuple[Evaluated, ...] = ()
    front: tuple[Evaluated, ...] = ()
    space: SearchSpace | None = None
    max_macs: int
    score: str
    costs: tuple[str, ...] = ("macs",)
    test_images: int = 0
    findings: Findings | None = None
    seconds: Mapping[str, float]
    max_bit_operations: int | None = None
    task: Task = CLASSIFICATION

    @property
    def winner(self) -> RetrainedNetwork:
        """The best of those selected."""
        return self.networks[0]

    @property
    def compared(self) -> tuple[RetrainedNetwork, ...]:
        """All networks that were trained from scratch."""
        return *self.networks, *self.rivals

    @property
    def comparison(self) -> Comparison | None:
        """The winner beside its rivals; None without any."""
        if not self.rivals:
            return None
        rivals = Spread.of([rival.test_accuracy for rival in self.rivals])
        return Comparison(Spread.of(self.winner.test_accuracies), rivals)

    def to_json(self) -> dict[str, Any]:
        """For ``results.json``: of several networks all are under ``networks``, and the best is the winner, too."""
        history, front = self._history()
        return {
            "format": RESULTS_FORMAT,
            "winner": self.winner.to_json(),
            "networks": [network.to_json() for network in self.networks],
            "rivals": [network.to_json() for network in self.rivals],
            "comparison": None if self.comparison is None else self.comparison.to_json(),
            "ensemble_accuracy": self.ensemble_accuracy,
            "test_images": self.test_images,
            "max_macs": self.max_macs,
            "max_bit_operations": self.max_bit_operations,
            "score": self.score,
            "task": self.task.name,
            "metric": self.task.metric_name,
            "costs": self.costs,
            "seconds": dict(self.seconds),
            **({} if self.findings is None else self.findings.results),
            "space": None if self.space is None else _outline(self.space),
            "front": [asdict(network) for network in front],
            "history": [asdict(network) for network in history],
        }

    def _history(self) -> tuple[list[ConsideredNetwork], list[ConsideredNetwork]]:
        """All that was considered, and the front of it, with names."""
        if self.space is None:
            return [], []
        named = {
            item.architecture: ConsideredNetwork.of(number, item, self.space)
            for number, item in enumerate(self.considered)
        }
        return list(named.values()), [named[item.architecture] for item in self.front]


def _outline(space: SearchSpace) -> dict[str, Any]:
    """What the choices of an architecture mean."""
    return {
        "name": space.name,
        "operations": [space.operations(layer) for layer in range(space.num_layers)],
        "width_names": space.width_names if space.widths is not None else None,
        "widths": space.widths,
    }


def read_run_results(path: Path) -> dict[str, Any]:
    """The content of a ``results.json``, that of an older version in the form of this one.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no JSON object with a winner, or of a newer version.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("winner"), dict):
        raise ValueError(f"expected a JSON object with a winner, got {strict_json(content):.40}")
    version = content.get("format", 1)
    if type(version) is not int or not 1 <= version <= RESULTS_FORMAT:
        raise ValueError(f"expected format {RESULTS_FORMAT} or older, got {version!r:.40}; read it by a newer version")
    return _from_format_1(content) if version == 1 else content


def _from_format_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """There was one rival, each network was trained once, and what was considered was not kept."""
    winner, rival = content["winner"], content["random"]
    one, other = (Spread.of([network["test_accuracy"]]) for network in (winner, rival))
    return {
        **{name: value for name, value in content.items() if name != "random"},
        "format": RESULTS_FORMAT,
        "winner": _with_trainings(winner),
        "networks": [_with_trainings(network) for network in content.get("networks", [winner])],
        "rivals": [_with_trainings(rival)],
        "comparison": Comparison(one, other).to_json(),
        "space": None,
        "front": [],
        "history": [],
    }


def _with_trainings(network: Mapping[str, Any]) -> dict[str, Any]:
    key = architecture_from({"widths": None, **network["architecture"]}).short()
    return {"key": key, **network, "test_accuracies": [network["test_accuracy"]]}
