"""What the training of a method ends in: how architectures are selected, and which ones."""

from __future__ import annotations

from dataclasses import dataclass

from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import SearchSettings
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.training.loop import TrainingLoop


@dataclass(frozen=True, kw_only=True)
class SelectionTools:
    """What a selection may use.

    Args:
        archive: evaluates networks of the method's result space by the weights that they inherit, within the limits of
            the run. It is empty.
        settings: of the search.
        loop: the method's training, for a selection that trains on.
    """

    archive: Archive
    settings: SearchSettings
    loop: TrainingLoop


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a run has found.

    Args:
        architectures: one or several, the best first, all different; each is trained from scratch.
        considered: what they were selected from, for figures and the Pareto front; may be empty.
        ensemble: whether their mean logits are the result, too.

    Raises:
        ValueError: if there is no architecture, or one twice.
    """

    architectures: tuple[Architecture, ...]
    considered: tuple[Evaluated, ...] = ()
    ensemble: bool = False

    def __post_init__(self) -> None:
        if not self.architectures:
            raise ValueError("architectures: expected one at the least to be selected, got none")
        if len(set(self.architectures)) < len(self.architectures):
            shown = ", ".join(architecture.short() for architecture in self.architectures)
            raise ValueError(f"architectures: expected different ones, got {shown}")
