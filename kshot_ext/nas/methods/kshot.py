"""K-shot NAS: K copies of every weight, mixed for each path by a code that a simplex-net gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kshot_ext.nas.methods.method import MethodSettings, Setup
from kshot_ext.nas.methods.parts.path_method import WARM_UP, PathMethod
from kshot_ext.nas.training.loop import Step, Stepper
from kshot_ext.nas.training.simplex_training import SimplexSettings, SimplexTraining


@dataclass(frozen=True, kw_only=True)
class KShotSettings(SimplexSettings, MethodSettings):
    """How the simplex-net is trained; how codes are formed is a matter of the table ``[codes]``."""

    name: str = "kshot"


class KShot(PathMethod[KShotSettings]):
    """Alternates dictionary steps and simplex steps.

    A dictionary step trains paths under their codes. A simplex step, after each ``simplex_every`` of them, trains only
    the simplex-net, on held-out images: on images that the weights have fitted, codes would be rewarded for memorising.
    It begins ``codes.fixed_epochs`` after warm-up.

    Su et al., "K-shot NAS: Learnable Weight-Sharing for NAS with K-shot Supernets", ICML 2021.
    """

    summary = "K copies of every weight, mixed for each path by a learnt code"
    paper = "Su et al., K-shot NAS: Learnable Weight-Sharing for NAS with K-shot Supernets, ICML 2021"
    Settings = KShotSettings
    any_task = True

    def __init__(self, setup: Setup, settings: KShotSettings) -> None:
        super().__init__(setup, settings)
        self._first_trained = self._warm_up_steps + setup.codes.fixed_epochs * setup.steps_per_epoch
        num_simplex_steps = sum(map(self._has_simplex_step, range(setup.num_steps)))
        self.simplex_training = SimplexTraining(
            self.supernet,
            self.simplex_net,
            settings,
            num_simplex_steps,
            self.own_generator,
            setup.training.label_smoothing,
            setup.task,
        )
        self.needs_held_out = num_simplex_steps > 0 and self.simplex_training.objective.needs_images
        self._simplex_losses: list[float] = []  # of the epoch

    @classmethod
    def warm_up(cls, settings: MethodSettings) -> object:
        return WARM_UP

    def step(self, images: Tensor, labels: Tensor, do: Stepper) -> Step:
        done = super().step(images, labels, do)
        if self._has_simplex_step(do.number):
            do.before_change(self.simplex_net.parameters())
            loss = self.simplex_training.step(do.held_out(), do.gradient_steps, do.processes)
            self._simplex_losses += [] if loss is None else [loss]
        return done

    def end_epoch(self, do: Stepper) -> Mapping[str, float]:
        losses, self._simplex_losses = self._simplex_losses, []
        mean = {"simplex_loss": sum(losses) / len(losses)} if losses else {}
        return {**mean, **super().end_epoch(do)}

    def state_dict(self) -> dict[str, Any]:
        return {"simplex_training": self.simplex_training.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._simplex_losses = []
        self.simplex_training.load_state_dict(state["simplex_training"])

    def _has_simplex_step(self, number: int) -> bool:
        """Whether a simplex step follows the dictionary step of this number, counted from 0 at the very start."""
        if self.setup.shots == 1:  # there is one code only
            return False
        return number >= self._first_trained and (number + 1) % self.settings.simplex_every == 0
