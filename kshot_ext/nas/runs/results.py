"""What a run found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kshot_ext.nas.networks.code_report import CodeReport
from kshot_ext.nas.spaces.architecture import Architecture


@dataclass(frozen=True)
class RetrainedNetwork:
    """One architecture, trained from scratch.

    Args:
        title: ``"winner"`` of the search, or ``"random"`` of equal budget.
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


@dataclass(frozen=True)
class RunResult:
    """Both networks, what they had to keep to, the supernet that chose, and what it took.

    Args:
        winner, random: the networks compared.
        max_macs: the budget.
        max_bit_operations: the budget of bit operations; None without one.
        score: what chose the winner, ``"loss"`` or ``"accuracy"`` of validation images with the supernet's weights.
        codes: what codes and copies of the supernet amount to; None for a method without.
        seconds: time of each stage.
    """

    winner: RetrainedNetwork
    random: RetrainedNetwork
    max_macs: int
    score: str
    codes: CodeReport | None
    seconds: Mapping[str, float]
    max_bit_operations: int | None = None

    @property
    def networks(self) -> tuple[RetrainedNetwork, RetrainedNetwork]:
        return self.winner, self.random
