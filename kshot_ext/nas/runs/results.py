"""What a run found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kshot_ext.nas.findings import Findings
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.spaces.architecture import Architecture


@dataclass(frozen=True)
class RetrainedNetwork:
    """One architecture, trained from scratch.

    Args:
        title: ``"winner"`` for the best that was selected, ``"winner-2"``, ... for others, ``"random"`` for one drawn
            at random that costs as much as the winner.
        architecture: its choices.
        operations: name of the operation chosen in each layer.
        macs: multiply-accumulates for one image.
        parameters: number of trainable numbers.
        supernet_accuracy: share of validation images right with the supernet's weights.
        supernet_loss: mean cross-entropy of the validation images with the supernet's weights, in nats.
        test_accuracy: share of test images right after training from scratch.
        widths: chosen share of the full width of each width searched; None if none are.
        bit_operations: for one image; 0 of a network without bits.
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


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What was selected, beside a random network; what they had to keep to, and what it took.

    Args:
        networks: those selected, the best first.
        random: the random network that the best is compared with.
        ensemble_accuracy: share of test images that the mean logits of the networks get right; None if they are no
            ensemble.
        considered: what they were selected from, in order; may be empty.
        max_macs: the budget.
        max_bit_operations: the budget of bit operations; None without one.
        score: what ranks networks, ``"loss"`` or ``"accuracy"`` of validation images with the supernet's weights.
        findings: what the method tells of its own; None if nothing.
        seconds: time of each stage.
    """

    networks: tuple[RetrainedNetwork, ...]
    random: RetrainedNetwork
    ensemble_accuracy: float | None = None
    considered: tuple[Evaluated, ...] = ()
    max_macs: int
    score: str
    findings: Findings | None = None
    seconds: Mapping[str, float]
    max_bit_operations: int | None = None

    @property
    def winner(self) -> RetrainedNetwork:
        """The best of those selected."""
        return self.networks[0]

    @property
    def compared(self) -> tuple[RetrainedNetwork, ...]:
        """All networks that were trained from scratch."""
        return *self.networks, self.random

    def to_json(self) -> dict[str, Any]:
        """For ``results.json``: of several networks all are under ``networks``, and the best is the winner, too."""
        return {
            "winner": asdict(self.winner),
            "random": asdict(self.random),
            "networks": [asdict(network) for network in self.networks],
            "ensemble_accuracy": self.ensemble_accuracy,
            "max_macs": self.max_macs,
            "max_bit_operations": self.max_bit_operations,
            "score": self.score,
            "seconds": dict(self.seconds),
            **({} if self.findings is None else self.findings.results),
        }
