"""What every job with a supernet has: images, space, supernet, simplex-net, and accuracies of paths."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Generic

import torch

from kshot_ext.nas.datasets import DataWarning, load_splits, open_source
from kshot_ext.nas.datasets.load import HELD_OUT_SHARES
from kshot_ext.nas.datasets.source import Part
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.memory import available_memory, lack_of_memory
from kshot_ext.nas.networks.code_report import CodeReport, code_report
from kshot_ext.nas.networks.evaluation import SupernetEvaluation
from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.randomness import named_generator
from kshot_ext.nas.runs.settings import AnySettings, SupernetSettings
from kshot_ext.nas.runs.truth import read_truth
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.supernet_trainer import SupernetTrainer

_CALIBRATION_IMAGES = 512


def load_data(
    settings: SupernetSettings, progress: ConsoleProgress, held_out: Mapping[Part, float] = HELD_OUT_SHARES
) -> tuple[str, DataSplits]:
    """Read the images that the settings name.

    Args:
        settings: which images, and how.
        progress: where it is shown, and where it is told what is left out.
        held_out: see `load_splits`.

    Returns:
        The data's name and the images.

    Raises:
        DataError: if they cannot be used.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # told below, in the command's own way
        source = open_source(None if settings.data is None else Path(settings.data))
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
    )
    return source.name, splits if settings.augment else replace(splits, augmentation=None)


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
    )


def build_networks(settings: SupernetSettings, space: SearchSpace) -> tuple[Supernet, SimplexNet]:
    """Untrained supernet and simplex-net, as the settings' seed makes them."""
    supernet = Supernet(
        space,
        settings.shots,
        named_generator(settings.seed, "supernet"),
        perturbation=settings.codes.perturbation,
        mixed_batch_norm=settings.codes.mixed_batch_norm,
    )
    generator = named_generator(settings.seed, "simplex-net")
    return supernet, SimplexNet(space, settings.shots, generator, settings=settings.codes)


def _check_memory(settings: SupernetSettings, space: SearchSpace) -> None:
    """Refuse copies that this process cannot hold: at the least, those of the largest network and their momentum.

    Raises:
        ValueError: with how many bytes are needed and available.
    """
    copies = 2 * settings.shots * space.cost(space.largest()).parameters
    lack = lack_of_memory(copies * torch.float32.itemsize, available_memory())
    if lack is not None:
        raise ValueError(f"shots: {settings.shots} copies of the weights are {lack}; use fewer, or fewer channels")


class SupernetJob(Generic[AnySettings]):
    """A supernet with all that is needed to train it and to evaluate its paths.

    Args:
        settings: what to do, and on which device.
        splits: the images to do it with, on any device.
        processes: those that train the supernet together, each on its own device; None for this one alone.

    Attributes:
        space, supernet, simplex_net, trainer: made from these.
        evaluation: scores of any architecture on the validation images, with the supernet's weights, as the settings
            say.
        truth: accuracy of architectures trained on their own, by the settings' table; None without one.

    Raises:
        ValueError: if settings, images, space and table do not fit together, or the device is not there.
    """

    def __init__(self, settings: AnySettings, splits: DataSplits, processes: DataParallel | None = None) -> None:
        self.processes = processes or DataParallel()
        device = self.processes.training_device(settings.device)
        self.settings = settings
        self.splits = splits.to(device)
        self.space = build_space(settings, splits.image_shape, splits.num_classes)
        _check_memory(settings, self.space)
        self.truth = None if settings.truth is None else read_truth(Path(settings.truth), self.space)
        supernet, simplex_net = build_networks(settings, self.space)
        self.supernet, self.simplex_net = supernet.to(device), simplex_net.to(device)
        self.trainer = SupernetTrainer(
            self.supernet,
            self.simplex_net,
            self.splits,
            settings.training,
            self.generator("training"),
            self.processes,
        )
        order = torch.randperm(len(splits.train), generator=self.generator("calibration"))
        calibration = self.splits.train.subset(order[:_CALIBRATION_IMAGES])
        validation = self.splits.validation
        if settings.evaluation.images is not None:
            order = torch.randperm(len(validation), generator=self.generator("evaluation"))
            validation = validation.subset(order[: settings.evaluation.images])
        self.evaluation = SupernetEvaluation(
            self.supernet,
            self.simplex_net,
            calibration,
            validation,
            self.splits.mean,
            self.splits.std,
            settings.evaluation.statistics,
        )

    def code_report(self) -> CodeReport:
        """What codes and copies amount to as they are now."""
        return code_report(self.supernet, self.simplex_net, self.settings.seed)

    def tell_if_codes_start_alike(self, progress: ConsoleProgress) -> None:
        """Say, before training, what keeps the codes that it starts from below the bar in the form that they end in.

        Then only the training of the simplex-net can make this a K-shot run.
        """
        start = self.simplex_net.start
        if start is not None and start.settles:  # when warm-up has ended
            return
        for shortfall in self.code_report().shortfalls:
            progress.tell(f"before training {shortfall}")

    def generator(self, purpose: str) -> torch.Generator:
        """A generator of its own for one purpose, decided by the run's seed."""
        return named_generator(self.settings.seed, purpose)
