"""How simplex codes are formed, started and kept in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kshot_ext.nas.checks import check_at_least, check_one_of
from kshot_ext.nas.networks.code_starts import CODE_STARTS


class CodeForm(NamedTuple):
    """How logits become a code at one moment of the training; see :class:`CodeSettings`."""

    free_share: float
    temperature: float


@dataclass(frozen=True, kw_only=True)
class CodeSettings:
    """How codes are formed, and what keeps them from collapsing into one or from parting for no reason.

    A code is an equal part and a free one, which depends on the architecture:

        code(a) = (1 - free_share) / K + free_share * softmax(logits(a) / temperature)

    Codes that are all alike make a K-shot supernet a one-shot one. Codes that differ a lot give each copy only its
    part of the training. So let them part by degrees: all copies learn the same at first, and specialise later.

    Args:
        per_layer: whether each layer has a code of its own; else one serves all layers of a path. What comes before
            and after the searched layers then uses the mean of their codes.
        mixed_batch_norm: whether batch norm's scales and offsets are mixed by the code as weights are; else every
            code uses the same ones.
        perturbation: distance of the copies from each other at the start, relative to the weights' size. Larger ones
            give codes something to choose between from the start, but weaken the mixed weight.
        start: what codes follow before the simplex-net is trained, one of
            :data:`kshot_ext.nas.networks.code_starts.CODE_STARTS`: ``equal``; ``cost``; ``count``, the number of layers
            with weights; ``decision``, the choice whose gradients disagree most after warm-up; ``two-decisions``;
            ``neighbours``, for each layer what is around it; ``random``, for comparison.
        spread: how far logits lie apart at the start; None for what suits it.
        fixed_epochs: epochs after warm-up during which the simplex-net is not trained yet.
        free_share_at_start, free_share: after warm-up and at the end; in between it moves evenly. At a share s no
            copy gets less than (1 - s) / K, nor more than (1 - s) / K + s.
        growth: share of the training after warm-up over which free share and temperature move; 1 for all of it.
        temperature_at_start, temperature: after warm-up and at the end; in between it moves by a constant factor.
            A high one makes codes alike, a low one lets an architecture pick a single copy.
        balance: weight of the term that keeps every copy in use, see
            :func:`kshot_ext.nas.training.code_penalties.imbalance`.
        width_separation: weight of the term that parts codes of different widths, see
            :func:`kshot_ext.nas.training.code_penalties.width_mismatch`. Without effect where no widths are searched.
        width_distance: squared distance that it asks of the codes of full width and of none; 2 is the most there is.

    Raises:
        ValueError: if a value is out of range.

    Example:
        >>> settings = CodeSettings(free_share_at_start=0.0, free_share=0.5, temperature_at_start=4.0)
        >>> settings.form_at(0.5)
        CodeForm(free_share=0.25, temperature=2.0)
    """

    per_layer: bool = False
    mixed_batch_norm: bool = True
    perturbation: float = 0.1
    start: str = "equal"
    spread: float | None = None
    fixed_epochs: int = 0
    free_share_at_start: float = 1.0
    free_share: float = 1.0
    growth: float = 1.0
    temperature_at_start: float = 1.0
    temperature: float = 1.0
    balance: float = 1.0
    width_separation: float = 0.1
    width_distance: float = 0.5

    def __post_init__(self) -> None:
        for name in ("perturbation", "fixed_epochs", "balance", "width_separation"):
            check_at_least(name, getattr(self, name), 0)
        check_one_of("start", self.start, CODE_STARTS)
        if self.spread is not None:
            check_at_least("spread", self.spread, 0)
        kind = CODE_STARTS[self.start]
        if kind is not None and kind.per_layer and not self.per_layer:
            raise ValueError(f"start: {self.start} gives each layer a code of its own, so expected per_layer = true")
        for name in ("free_share_at_start", "free_share"):
            check_at_least(name, getattr(self, name), 0, 1)
        check_at_least("growth", self.growth, 0, 1)
        for name in ("temperature_at_start", "temperature"):
            check_at_least(name, getattr(self, name), 1e-3)
        check_at_least("width_distance", self.width_distance, 0, 2)

    @property
    def starts_equal(self) -> bool:
        """Whether all architectures begin with one code, so that only training can part them."""
        return self.start == "equal" or self.spread == 0

    def form_at(self, progress: float) -> CodeForm:
        """The form of codes at a point of the training between the end of warm-up, 0, and its own end, 1."""
        progress = min(progress / self.growth, 1.0) if self.growth > 0 else 1.0
        share = self.free_share_at_start + progress * (self.free_share - self.free_share_at_start)
        factor = self.temperature / self.temperature_at_start
        return CodeForm(share, self.temperature_at_start * factor**progress)
