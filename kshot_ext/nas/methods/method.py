"""What a search method is: the contract that all of them keep to, and nothing else.

A method is one file with one class. It says how its weights are trained, a step at a time, and which networks it has
then; the loop, scores, search, run folders and pages are the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kshot_ext.nas.datasets.augmentation import Views
from kshot_ext.nas.findings import Curve, Figure, Findings, Number
from kshot_ext.nas.methods.selection import Selection, SelectionTools
from kshot_ext.nas.networks.calibration import Batches
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.coded_supernet import CodedSupernet, InheritedNetworks
from kshot_ext.nas.networks.evaluation import Scores, evaluate_network
from kshot_ext.nas.randomness import draw_seed, named_generator
from kshot_ext.nas.searchers.search_stage import SearchStage
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.stage import Stage
from kshot_ext.nas.task import CLASSIFICATION, Task
from kshot_ext.nas.training.loop import Step, Stepper
from kshot_ext.nas.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """The table ``[method]`` of a settings file; a method with options of its own has a class of its own for it.

    Args:
        name: of the method, one that ``kshot-ext methods`` lists, or ``FILE.py:CLASS``.
    """

    name: str


OwnSettings = TypeVar("OwnSettings", bound=MethodSettings)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a method is made for.

    Args:
        space: to search.
        training: settings of the training.
        steps_per_epoch: how many steps an epoch will have.
        shots: number K of weight copies.
        codes: how their codes are formed.
        device: where the weights are to be.
        seed: decides everything random.
        views: how views of an image are made, for methods that compare such.
        task: what targets mean.
    """

    space: SearchSpace
    training: TrainingSettings
    steps_per_epoch: int
    shots: int = 1
    codes: CodeSettings = field(default_factory=CodeSettings)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    views: Views = field(default_factory=Views)
    task: Task = CLASSIFICATION

    def generator(self, purpose: str) -> torch.Generator:
        """A generator of its own for one purpose."""
        return named_generator(self.seed, purpose)

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return self.training.epochs * self.steps_per_epoch


class Method(ABC, Generic[OwnSettings]):
    """A search method.

    A subclass sets the attributes below in its ``__init__``, after that of this class, and defines :meth:`step` and
    :attr:`networks`.

    Args:
        setup: what it is made for.
        settings: its own options.

    Attributes:
        summary: one line on what the method does.
        paper: authors, title, where and when.
        Settings: class of its options.
        takes_copies: whether K > 1 copies of the weights, mixed by codes, are of use to it.
        searches_widths: whether it can choose channel widths, in a space that searches them.
        numbers, curves: which of its own numbers in files of results and metrics are compared between runs.
        modules: all that is trained, by name. The loop saves and averages them, and shares batches with processes.
        optimizers: by name; the first one's learning rate follows the loop's schedule.
        any_task: whether targets may be other than classes: steps then use :attr:`task`, and what is found does not
            rest on classes. If not, a run with another task is refused.
        needs_held_out: whether a step ever asks for held-out batches.
        needs_labels: whether steps or scores read labels. If not, they get images without any, see
            :meth:`kshot_ext.nas.datasets.image_set.ImageSet.unlabelled`.
        generator: source of what all methods draw alike, such as batches and uniform paths.
        own_generator: source of what only this method draws.
        own_seed: of :meth:`own_stream`.

    Raises:
        ValueError: if the method cannot do what it is made for: the space, its widths, or so many copies.
    """

    summary: ClassVar[str]
    paper: ClassVar[str]
    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    takes_copies: ClassVar[bool] = True
    searches_widths: ClassVar[bool] = True
    any_task: ClassVar[bool] = False
    numbers: ClassVar[Sequence[Number]] = ()
    curves: ClassVar[Sequence[Curve]] = ()

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    needs_held_out: bool = False
    needs_labels: bool = True

    def __init__(self, setup: Setup, settings: OwnSettings) -> None:
        if (reason := self._why_no_copies(settings, setup.shots)) is not None:
            raise ValueError(reason)
        if setup.space.widths is not None and not self.searches_widths:
            raise ValueError(
                f"widths: {settings.name} chooses operations only, expected none, got {setup.space.widths}; fix the "
                f"network's width by channels instead"
            )
        if not (setup.task.has_classes or self.any_task):
            raise ValueError(
                f"task: {settings.name} needs a class for every image, expected classification, got {setup.task.name}"
            )
        self.setup = setup
        self.settings = settings
        self.space = setup.space
        self.training = setup.training
        self.generator = setup.generator("training")
        self.own_seed = draw_seed(self.generator)
        self.own_generator = self.own_stream()

    @abstractmethod
    def step(self, images: Tensor, labels: Tensor, do: Stepper) -> Step:
        """One step of training.

        Args:
            images: float32 ``[N, C, H, W]``, this process's part of a batch.
            labels: int64 ``[N]``; what the task says, of another than classification; probabilities
                ``[N, num_classes]`` where classes are mixed.
            do: what a step may use.

        Raises:
            DivergedError: if a loss is not finite; in all processes.
        """

    @property
    @abstractmethod
    def networks(self) -> InheritedNetworks:
        """The networks of the space with the weights that they have by now."""

    @property
    def coded(self) -> CodedSupernet | None:
        """Supernet and simplex-net, of a method that mixes copies of weights by codes; else None."""
        return None

    @classmethod
    def refusal(cls, settings: OwnSettings, training: TrainingSettings, shots: int, codes: CodeSettings) -> str | None:
        """Why a run with these settings must not begin, told before any image is read; None if it may."""
        return cls._why_no_copies(settings, shots)

    @classmethod
    def warm_up(cls, settings: OwnSettings) -> object:
        """What the warm-up of a run depends on besides the settings that all methods have.

        Runs of methods that say the same here may share a warm-up.
        """
        return settings

    @classmethod
    def num_copies(cls, settings: OwnSettings, shots: int) -> int:
        """How many copies of all weights of the space are kept, of ``shots`` copies in each supernet."""
        return shots

    @property
    def result_space(self) -> SearchSpace:
        """The space of the architectures that are selected."""
        return self.space

    @property
    def score_network(self) -> Callable[[nn.Module, Batches], Scores]:
        """What scores a network on batches of validation images; it can be sent to other processes."""
        return partial(evaluate_network, task=self.task)

    @property
    def task(self) -> Task:
        """What targets mean: its loss is what steps make small."""
        return self.setup.task

    def selection(self, tools: SelectionTools) -> Stage:
        """The stage that selects architectures once training has ended.

        It is asked for before training, so that what it lacks is found out then; it looks at the weights when it steps.
        """
        return SearchStage(tools.archive, tools.settings)

    def selected(self, stage: Any) -> Selection:
        """What the stage that :meth:`selection` made has found, when it has ended: by default all ``results`` of its
        work, the best first, of those that the work's ``archive`` has evaluated."""
        found = tuple(result.architecture for result in stage.work.results)
        return Selection(architectures=found, considered=stage.work.archive.history)

    @property
    def notes_before_training(self) -> Sequence[str]:
        """What the user is to be told before training."""
        return ()

    @property
    def findings(self) -> Findings | None:
        """What there is to tell of the method's own when training has ended."""
        return None

    def figures(self, architectures: Sequence[Architecture], records: Sequence[Mapping[str, Any]]) -> Iterable[Figure]:
        """Figures of the method's own.

        Args:
            architectures: some of those evaluated, evenly by cost, cheapest first.
            records: lines of ``metrics.jsonl``.
        """
        return ()

    def end_epoch(self, do: Stepper) -> Mapping[str, float]:
        """Called after each epoch: what is to be recorded of it, by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs besides modules, optimisers and generators: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where :meth:`state_dict` was taken, of a method made with the same arguments."""

    @classmethod
    def _why_no_copies(cls, settings: MethodSettings, shots: int) -> str | None:
        if shots == 1 or cls.takes_copies:
            return None
        return f"shots: {settings.name} has one weight for each operation, expected --shots 1, got {shots}"

    def own_stream(self) -> torch.Generator:
        """Random numbers for one purpose of this method, always the same."""
        return torch.Generator().manual_seed(self.own_seed)
