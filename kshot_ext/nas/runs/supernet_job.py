"""What every job has that trains a method: images, space, method, and scores of its networks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, cast

import torch
from torch import nn

from kshot_ext.nas.checks import check_given
from kshot_ext.nas.datasets import DataError, DataWarning, load_splits, open_source
from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.keep import in_memory_if_small
from kshot_ext.nas.datasets.load import HELD_OUT_SHARES
from kshot_ext.nas.datasets.source import ImageSource, Part
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.findings import Findings
from kshot_ext.nas.kernels import build_kernels
from kshot_ext.nas.memory import available_memory, lack_of_memory
from kshot_ext.nas.messages import one_line
from kshot_ext.nas.methods import begin_training, method_class
from kshot_ext.nas.methods.method import Method
from kshot_ext.nas.networks.calibration import recalibrate_batch_norm
from kshot_ext.nas.networks.evaluation import InheritedEvaluation
from kshot_ext.nas.networks.export import plain_copy
from kshot_ext.nas.own_classes import is_given, own_errors
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.randomness import named_generator
from kshot_ext.nas.runs.run_folder import RunFolderError, RunRecord
from kshot_ext.nas.runs.settings import AnySettings, SupernetSettings
from kshot_ext.nas.runs.state_file import check_state
from kshot_ext.nas.runs.truth import read_truth
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.task import check_task, task_named
from kshot_ext.nas.training.data_parallel import DataParallel

_CALIBRATION_IMAGES = 512
_BATCH_SIZE = 256


def load_data(
    settings: SupernetSettings,
    progress: ConsoleProgress,
    held_out: Mapping[Part, float] = HELD_OUT_SHARES,
    source: ImageSource | None = None,
) -> tuple[str, DataSplits]:
    """Read the images that the settings name, or those of a source.

    Args:
        settings: which images, and how.
        progress: where it is shown, and where it is told what is left out.
        held_out: see `load_splits`.
        source: images that no text can name, such as a ``Dataset`` that `open_source` has opened; None for those of
            the settings.

    Returns:
        The data's name and the images.

    Raises:
        DataError: if they cannot be used.
    """
    if source is None and settings.data is not None and is_given(settings.data):
        raise DataError(
            f"data: expected {settings.data.partition(':')[2]} again, which a program gave as an object: data=... of "
            "nas.search, nas.rank or nas.load_run"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # told below, in the command's own way
        source = source or open_source(settings.data, task=task_named(settings.task))
    for note in source.notes:
        progress.tell(f"data: {note}")
    progress.start("read images", min(len(source), settings.max_images or len(source)))
    splits = load_splits(
        source,
        generator=named_generator(settings.seed, "data"),
        max_images=settings.max_images,
        image_size=settings.image_size,
        held_out=held_out,
        on_image=lambda done, total: progress.move(done),
        images=settings.images,
        augmentation=settings.augmentation if settings.augment else None,
    )
    for note in splits.notes[len(source.notes) :]:
        progress.tell(f"data: {note}")
    return source.name, splits


def build_space(settings: SupernetSettings, image_shape: tuple[int, int, int], num_classes: int) -> SearchSpace:
    """The space that the settings name, for images of a shape.

    Raises:
        ValueError: if settings and images do not fit together.
    """
    return create_space(
        settings.space,
        image_shape=image_shape,
        num_classes=num_classes,
        channels=settings.channels,
        widths=settings.width_ratios,
        cells=settings.cells,
        bits=settings.bit_choices,
    )


def _check_memory(settings: SupernetSettings, space: SearchSpace) -> None:
    """Refuse copies that this process cannot hold: at the least, those of the largest network and their momentum.

    Raises:
        ValueError: with how many bytes are needed and available.
    """
    method = settings.method
    with own_errors(method.name, "method"):
        copies = method_class(method.name).num_copies(method, settings.shots)
        check_given("num_copies", copies, int)
    numbers = 2 * copies * space.cost(space.largest()).parameters
    lack = lack_of_memory(numbers * torch.float32.itemsize, available_memory())
    if lack is not None:
        raise ValueError(f"shots: {copies} copies of the weights are {lack}; use fewer, or fewer channels")


class SupernetJob(Generic[AnySettings]):
    """A method with all that is needed to train it and to evaluate networks with the weights that it leaves them.

    Args:
        settings: what to do, and on which device.
        splits: the images to do it with, on any device.
        processes: those that train together, each on its own device; None for this one alone.

    Attributes:
        space, method, loop: made from these.
        evaluation: scores of any architecture on the validation images, with inherited weights, as the settings say.
        truth: accuracy of architectures trained on their own, by the settings' table; None without one.

    Raises:
        ValueError: if settings, images, space and table do not fit together, or the device is not there.
    """

    def __init__(self, settings: AnySettings, splits: DataSplits, processes: DataParallel | None = None) -> None:
        self.processes = processes or DataParallel()
        device = self._device = self.processes.training_device(settings.device)
        self.settings = settings
        self.splits = splits.to(device)
        check_task(splits.task, splits.train.labels[:2], splits.num_classes)
        self.space = build_space(settings, splits.image_shape, splits.num_classes)
        _check_memory(settings, self.space)
        self.truth = None if settings.truth is None else read_truth(Path(settings.truth), self.space)
        with warnings.catch_warnings():
            if not self.processes.leads:  # the first process tells
                warnings.simplefilter("ignore")
            self.loop = begin_training(
                settings.method,
                self.space,
                self.splits,
                settings.training,
                shots=settings.shots,
                codes=settings.codes,
                seed=settings.seed,
                processes=self.processes,
            )
        self.method = cast("Method[Any]", self.loop.method)
        with own_errors(settings.method.name, "method"):
            check_state({"method": self.method.state_dict()})  # and not when an epoch is to be saved
        searched = self.splits if self.method.needs_labels else self.splits.unlabelled()
        order = torch.randperm(len(splits.train), generator=self.generator("calibration"))
        calibration = searched.train.subset(order[:_CALIBRATION_IMAGES])
        validation = searched.validation
        if settings.evaluation.images is not None:
            order = torch.randperm(len(validation), generator=self.generator("evaluation"))
            validation = validation.subset(order[: settings.evaluation.images])
        self.evaluation = InheritedEvaluation(
            self.method.networks,
            calibration.in_memory(),
            in_memory_if_small(validation),
            self.splits.mean,
            self.splits.std,
            settings.evaluation.statistics,
            self.method.score_network,
        )

    def restore(self, record: RunRecord) -> None:
        """Take over the state of a run's training as its last checkpoint has it.

        Raises:
            RunFolderError: if there is none yet, or it does not fit.
        """
        restore(self.loop, record, "supernet", "no epoch of supernet training is saved yet")

    def inherited(self, architecture: Architecture) -> nn.Module:
        """A copy of a network with the weights that it inherits, in plain ``torch.nn`` layers.

        Its batch-norm statistics are measured on training images, as when it is scored.
        """
        with self.method.networks.network(architecture) as network:
            plain = plain_copy(network)
        calibration = batches(self.evaluation.calibration, _BATCH_SIZE, mean=self.splits.mean, std=self.splits.std)
        plain.load_state_dict(recalibrate_batch_norm(plain, calibration), strict=False)
        return plain.eval()

    def get_ready(self, progress: ConsoleProgress) -> None:
        """Build the kernels if they are not yet, and say what the method has to say before training."""
        build_kernels(self._device, progress)
        notes = self.method.notes_before_training
        check_given("notes_before_training", notes, Sequence)
        for note in notes:
            check_given("notes_before_training", note, str)
            progress.tell(note)

    def tell_after_training(self, progress: ConsoleProgress) -> None:
        """Say what the method warns of when its supernet is trained, before more time is spent on that."""
        findings = self.method.findings
        if findings is None:
            return
        check_given("findings", findings, Findings)
        for warning in findings.warnings:
            progress.tell(f"supernet: {warning}")

    def generator(self, purpose: str) -> torch.Generator:
        """A generator of its own for one purpose, decided by the run's seed."""
        return named_generator(self.settings.seed, purpose)


def restore(work: Any, record: RunRecord, stage: str, absent: str) -> None:
    """Bring the work of a stage to where its checkpoint has it.

    Raises:
        RunFolderError: if there is no checkpoint, or it does not fit.
    """
    checkpoint = record.load_checkpoint(stage)
    if checkpoint is None:
        raise RunFolderError(f"{record.path}: {absent}")
    try:
        work.load_state_dict(checkpoint.state)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{record.checkpoint_path(stage)}: does not fit the run's settings ({one_line(error)}); "
            "look at it with the version that wrote it"
        ) from error
