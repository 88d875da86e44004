"""Few-shot NAS: one supernet, split into K sub-supernets that inherit its weights and train on by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kshot_ext.nas.methods.method import MethodSettings, Setup
from kshot_ext.nas.methods.parts.path_method import WARM_UP, PathMethod
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.training.loop import Stepper
from kshot_ext.nas.training.settings import TrainingSettings

_STARTS = {1: "decision", 2: "two-decisions"}
_ONE_HOT = 200.0
"""Logits so far apart that float32's softmax is one-hot to the bit: exp(-200) is 0."""


@dataclass(frozen=True, kw_only=True)
class FewShotSettings(MethodSettings):
    """How the supernet is split; into how many is ``shots``, and when ``training.warmup_epochs``.

    Args:
        decisions: by how many decisions at once, 1 or 2.

    Raises:
        ValueError: if it is another number.
    """

    name: str = "few-shot"
    decisions: int = 1

    def __post_init__(self) -> None:
        if self.decisions not in _STARTS:
            raise ValueError(f"decisions: expected 1 or 2, got {self.decisions}")


class FewShot(PathMethod[FewShotSettings]):
    """Trains one supernet, splits it by the decision whose choices disagree most, and trains its parts.

    During warm-up all K copies of the weights are one. Then gradients on the shared weights are compared, and the
    choices of one decision are joined to K groups (:class:`kshot_ext.nas.networks.code_starts.decisions.Decision`).
    From there on a path trains, and inherits, the copy of its group alone:

        w(a) = weight[k],   k the group of a's choice in the decision

    So each copy is a sub-supernet, of the paths of its group, that begins with the weights of the whole.

    Zhao et al., "Few-Shot Neural Architecture Search", ICML 2021, split by an edge drawn at random; by the gradients
    Hu et al., "Generalizing Few-Shot NAS with Gradient Matching", ICLR 2022.

    Raises:
        ValueError: if no decision of the space has K choices.
    """

    summary = "one supernet, split by the decision whose choices disagree most into K that train on by themselves"
    paper = "Zhao et al., Few-Shot Neural Architecture Search, ICML 2021; the split: Hu et al., ICLR 2022"
    Settings = FewShotSettings
    any_task = True

    def __init__(self, setup: Setup, settings: FewShotSettings) -> None:
        super().__init__(replace(setup, codes=_codes(settings)), settings)

    @classmethod
    def refusal(
        cls, settings: FewShotSettings, training: TrainingSettings, shots: int, codes: CodeSettings
    ) -> str | None:
        return super().refusal(settings, training, shots, _codes(settings))

    @classmethod
    def warm_up(cls, settings: FewShotSettings) -> object:
        return WARM_UP

    def end_epoch(self, do: Stepper) -> Mapping[str, float]:
        """Also, once the supernet is split, the genes that decide: layers count from 1, widths follow them."""
        start: Any = self.simplex_net.start  # of this method's own kind
        genes = [] if start is None or not start.settled else start.genes.tolist()
        return {**super().end_epoch(do), **{f"decision_{n}": gene + 1.0 for n, gene in enumerate(genes, start=1)}}


def _codes(settings: FewShotSettings) -> CodeSettings:
    """One-hot codes by the decision from the end of warm-up on, of copies that are equal until then."""
    return CodeSettings(start=_STARTS[settings.decisions], spread=_ONE_HOT, perturbation=0.0)
