"""Methods that train a supernet path by path, each path under its code."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kshot_ext.nas.findings import Figure, Findings
from kshot_ext.nas.methods.method import Method, MethodSettings, OwnSettings, Setup
from kshot_ext.nas.methods.parts.code_findings import CODE_CURVES, CODE_NUMBERS, code_findings, codes_figure
from kshot_ext.nas.networks.code_settings import CodeForm, CodeSettings
from kshot_ext.nas.networks.coded_supernet import CodedSupernet, InheritedNetworks
from kshot_ext.nas.networks.cost_rank import CostRank
from kshot_ext.nas.networks.simplex_net import SimplexNet, code_statistics
from kshot_ext.nas.networks.supernet import Supernet, path_loss
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.training.choice_similarity import choice_similarities
from kshot_ext.nas.training.code_prospects import why_codes_stay_alike
from kshot_ext.nas.training.divergence import check_path_losses
from kshot_ext.nas.training.loop import Step, Stepper
from kshot_ext.nas.training.optimization import Tally
from kshot_ext.nas.training.path_sampling import PATH_SAMPLINGS
from kshot_ext.nas.training.path_steps import PathSteps
from kshot_ext.nas.training.settings import TrainingSettings
from kshot_ext.nas.training.simplex_training import SimplexSettings
from kshot_ext.optim import KShotSGD, decay_groups

_BATCHES_TO_SETTLE = 8

WARM_UP = "paths as training.path_sampling draws them, under equal codes"
"""What :meth:`Method.warm_up` says of a method whose first epochs are no more than that."""


class PathMethod(Method[OwnSettings]):
    """Trains one or several paths in a step, see `path_sampling`, under their codes, which are held fixed.

    First all codes are equal (warm-up), then they part by degrees to those that the settings' start gives them; see
    :class:`kshot_ext.nas.networks.code_settings.CodeSettings`. With one copy there is one code, and nothing of that.
    Settings under which K > 1 copies stay one are warned of.

    Args:
        setup: what the method is made for; any space, widths and number of copies.
        settings: its own options.

    Attributes:
        supernet, simplex_net: what is trained, and what gives the codes.
    """

    numbers = CODE_NUMBERS
    curves = CODE_CURVES

    def __init__(self, setup: Setup, settings: OwnSettings) -> None:
        super().__init__(setup, settings)
        training, shots = setup.training, setup.shots
        alike = why_codes_stay_alike(shots, training, setup.codes, self.simplex_settings(settings))
        if alike is not None:
            warnings.warn(f"this training will end with a one-shot supernet: {alike}", stacklevel=3)
        supernet, simplex_net = self._build_networks()
        self.supernet, self.simplex_net = supernet.to(setup.device), simplex_net.to(setup.device)
        self.modules = {"supernet": self.supernet, "simplex_net": self.simplex_net}
        self.optimizers = {"supernet": weight_optimizer(self.supernet, training, shots)}
        # And the gradient of K copies is shorter by the square root of that.
        self._clip_norm = training.clip_norm / math.sqrt(shots)
        self._warm_up_steps = training.warm_up * setup.steps_per_epoch
        self._path_steps = PathSteps(
            training.equal_path_steps, training.cost_aware_rates, lambda: CostRank(self.space, self.own_stream())
        )

    @property
    def networks(self) -> InheritedNetworks:
        return self.coded

    @property
    def coded(self) -> CodedSupernet:
        return CodedSupernet(self.supernet, self.simplex_net)

    def trained_space(self) -> SearchSpace:
        """The space whose networks are trained: the one searched, or one with the same choices and another head."""
        return self.space

    @classmethod
    def refusal(cls, settings: OwnSettings, training: TrainingSettings, shots: int, codes: CodeSettings) -> str | None:
        """K > 1 copies that would end as one; a run must not begin so without a word."""
        alike = why_codes_stay_alike(shots, training, codes, cls.simplex_settings(settings))
        return None if alike is None else f"{alike}; a one-shot run is shots = 1"

    @classmethod
    def simplex_settings(cls, settings: MethodSettings) -> SimplexSettings | None:
        """How the method trains a simplex-net; None if it leaves codes as they start."""
        return settings if isinstance(settings, SimplexSettings) else None

    @property
    def notes_before_training(self) -> Sequence[str]:
        """What keeps the codes that it starts from below the bar in the form that they end in.

        Then only the training of the simplex-net can make this a K-shot run.
        """
        start = self.simplex_net.start
        if start is not None and start.settles:  # when warm-up has ended
            return ()
        return [f"before training {shortfall}" for shortfall in self.coded.report(self.setup.seed).shortfalls]

    @property
    def findings(self) -> Findings:
        """What codes and copies amount to."""
        return code_findings(self.coded.report(self.setup.seed))

    def figures(self, architectures: Sequence[Architecture], records: Sequence[Mapping[str, Any]]) -> Iterable[Figure]:
        """The codes of the architectures, where there are any."""
        return [codes_figure(self.coded, architectures)] if architectures else []

    def step(self, images: Tensor, labels: Tensor, do: Stepper) -> Step:
        """One step of the dictionaries."""
        if do.number == self._warm_up_steps:
            self._settle_codes(do)
        self.simplex_net.set_form(self._code_form(do.number))
        return self.train_paths(self.draw_paths(images, labels, do), images, labels, do)

    def draw_paths(self, images: Tensor, labels: Tensor, do: Stepper) -> list[Architecture]:
        """The paths of a step; the same in all processes."""
        return PATH_SAMPLINGS[self.training.path_sampling](self.space, do.generator)

    def train_paths(
        self,
        paths: list[Architecture],
        images: Tensor,
        labels: Tensor,
        do: Stepper,
        *,
        shares: Sequence[float] | None = None,
    ) -> Step:
        """Moves the weights of some paths by the sum of their gradients.

        Args:
            paths: the same in all processes.
            images, labels: this process's part of a batch.
            do: what a step may use.
            shares: what each gradient is multiplied with; None for 1.

        Raises:
            DivergedError: if the loss of one is not finite; in all processes.
        """
        losses, codes, tally = [], [], Tally()
        fall = do.learning_rate_fall
        for path, share in zip(paths, shares or itertools.repeat(1.0)):
            code = self.simplex_net.code(path)
            with do.forward():
                loss, logits = self.path_loss(path, code, images, labels)
            do.backward(share * self._path_steps.factor(path, code, fall) * loss)
            losses.append(do.share * tally.add(loss, logits, labels, self.task))
            codes.append(code)
        losses = do.processes.summed(losses)
        check_path_losses(losses, paths, codes)
        do.apply(self.optimizers["supernet"], clip_norm=self._clip_norm * self._path_steps.mean_rate(paths, fall))
        return Step(sum(losses) / len(losses), tally, paths)

    def path_loss(self, path: Architecture, code: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a path, to be made small, and its logits."""
        return path_loss(self.supernet, path, code, images, labels, self.training.label_smoothing, self.task)

    def end_epoch(self, do: Stepper) -> Mapping[str, float]:
        """How the codes spread."""
        self.simplex_net.set_form(self._code_form(do.number))
        codes = code_statistics(self.simplex_net, self.space, do.generator)
        shares = {f"entry_share_{k}": share for k, share in enumerate(codes.entry_shares, start=1)}
        return {"code_distance": codes.distance, **shares}

    def _build_networks(self) -> tuple[Supernet, SimplexNet]:
        return build_networks(replace(self.setup, space=self.trained_space()))

    def _code_form(self, number: int) -> CodeForm:
        """How codes are formed at a step."""
        progress = (number - self._warm_up_steps) / max(self.setup.num_steps - self._warm_up_steps, 1)
        form = self.simplex_net.settings.form_at(max(progress, 0))
        return form if progress >= 0 else form._replace(free_share=0.0)

    def _settle_codes(self, do: Stepper) -> None:
        """Lets the codes' start see what the warm-up has taught."""
        start = self.simplex_net.start
        if start is None or not start.settles:
            return
        generator, shots = self.own_stream(), self.setup.shots
        images = itertools.islice(do.training_batches(generator), _BATCHES_TO_SETTLE)
        equal = torch.full((shots,), 1 / shots, device=self.setup.device)
        smoothing = self.training.label_smoothing
        tools = do.gradient_steps, do.processes, smoothing, self.task
        start.settle(choice_similarities(self.supernet, equal, images, generator, *tools))


def weight_optimizer(module: nn.Module, training: TrainingSettings, shots: int) -> KShotSGD:
    """What trains dictionaries of so many copies, as the settings say for the mixed weight under equal codes."""
    return KShotSGD(
        decay_groups(module, training.weight_decay / shots, decay_norms=training.decay_norms),
        # Under equal codes the mixed weight moves by sum_k code_k^2 = 1/K of this rate.
        lr=shots * training.learning_rate,
        momentum=training.momentum,
        nesterov=True,
    )


def build_networks(setup: Setup) -> tuple[Supernet, SimplexNet]:
    """Untrained supernet and simplex-net, as the seed makes them."""
    supernet = Supernet(
        setup.space,
        setup.shots,
        setup.generator("supernet"),
        perturbation=setup.codes.perturbation,
        mixed_batch_norm=setup.codes.mixed_batch_norm,
    )
    return supernet, SimplexNet(setup.space, setup.shots, setup.generator("simplex-net"), settings=setup.codes)
