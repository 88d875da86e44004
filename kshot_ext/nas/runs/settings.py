"""All settings of the commands that run something."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from kshot_ext.nas.checks import check_between, check_given
from kshot_ext.nas.datasets.settings import AugmentationSettings, ImageSettings
from kshot_ext.nas.device import check_device_name
from kshot_ext.nas.methods import MethodSettings, method_class
from kshot_ext.nas.methods.kshot import KShotSettings
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.evaluation import EvaluationSettings
from kshot_ext.nas.own_classes import is_own, own_errors
from kshot_ext.nas.searchers.generations import SearchSettings
from kshot_ext.nas.spaces import check_space_name
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.bit_widths import BitWidths, parse_bits
from kshot_ext.nas.spaces.budget import Budget
from kshot_ext.nas.spaces.width_ratios import parse_ratios
from kshot_ext.nas.tables import SettingsError
from kshot_ext.nas.task import check_task_name
from kshot_ext.nas.training.retrain import RetrainSettings
from kshot_ext.nas.training.settings import TrainingSettings

_LEAST = {
    "image_size": 4,
    "max_images": 1,
    "channels": 1,
    "cells": 1,
    "shots": 1,
    "max_parameters": 1,
    "max_latency": 0,
    "seed": 0,
    "rivals": 0,
    "training_seed": 0,
    "architectures": 2,
    "checkpoints": 1,
}
_MOST_SHOTS = 4096

DEFAULT_CODES = CodeSettings(start="count", free_share_at_start=0.0, free_share=0.6, growth=0.5)
"""Codes of a run unless it is told others: by how many layers have weights, from equal after warm-up to well apart."""

AnySettings = TypeVar("AnySettings", bound="SupernetSettings")


@dataclass(frozen=True)
class SupernetSettings:
    """What every run that trains a supernet is told. A settings file has these names as keys, the last six
    as tables.

    Args:
        data: image folder, zip of one, or npz; None for scikit-learn's digits.
        image_size: side in pixels to which images are scaled and cut; None to leave them.
        max_images: most images to use; None for all.
        augment: whether training images are varied at random, as ``augmentation`` says.
        task: what targets mean: ``classification``, ``regression``, ``multi-label``, or ``FILE.py:CLASS``.
        space: name of the search space, or ``FILE.py:CLASS``.
        channels: width of the network's first layer; None for what suits the image size.
        cells: cells of each stage, in a space made of cells; None for what is published.
        widths: shares of the full width to search over, such as ``0.5,0.75,1`` or ``0.2-1``; None for none.
        bits: bits of weights and activations to search over, such as ``2,4,8`` or ``w2a4,w4a8``; None for none.
        shots: number K of weight copies, at most 4096.
        truth: JSON table of stand-alone accuracies to compare the supernet's with, see `read_truth`; None for none.
        seed: decides everything random.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        out: the run folder; None for a name from the date, the data and the space.
        method: which search method, and its own options.
        codes: how architectures' codes are formed; what is not set is as in :data:`DEFAULT_CODES`.
        images: how images are read, kept and normalised.
        augmentation: how training images are varied.
        training: settings of training.
        evaluation: how networks are scored with the supernet's weights.

    Raises:
        ValueError: if a value is out of range.
    """

    data: str | None = None
    image_size: int | None = None
    max_images: int | None = None
    augment: bool = True
    task: str = "classification"
    space: str = "nas-bench-macro"
    channels: int | None = None
    cells: int | None = None
    widths: str | None = None
    bits: str | None = None
    shots: int = 4
    truth: str | None = None
    seed: int = 0
    device: str = "cpu"
    out: str | None = None
    method: MethodSettings = field(default_factory=KShotSettings)
    codes: CodeSettings = DEFAULT_CODES
    images: ImageSettings = field(default_factory=ImageSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)

    @classmethod
    def of_older_runs(cls: type[AnySettings]) -> AnySettings:
        """What holds in a run whose file does not say: defaults as they were before they became others.

        Codes were plain.
        """
        return cls(codes=CodeSettings())

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name, None)
            if value is not None and not least <= value < 2**63:
                raise ValueError(f"{name}: expected {least} or more, got {value}")
        if self.shots > _MOST_SHOTS:
            raise ValueError(
                f"shots: expected {_MOST_SHOTS} or fewer, as every step mixes that many copies of the weights, "
                f"got {self.shots}"
            )
        check_task_name(self.task)
        check_space_name(self.space)
        check_device_name(self.device)
        if self.widths is not None:
            parse_ratios(self.widths)
        if self.bits is not None:
            parse_bits(self.bits)

    @property
    def width_ratios(self) -> tuple[float, ...] | None:
        """The widths as numbers; None to search operations only."""
        return None if self.widths is None else parse_ratios(self.widths)

    @property
    def bit_choices(self) -> tuple[BitWidths, ...] | None:
        """The bits as numbers; None to compute in floating point."""
        return None if self.bits is None else parse_bits(self.bits)


@dataclass(frozen=True)
class RunSettings(SupernetSettings):
    """What ``kshot-ext search`` does.

    Args:
        budget: most multiply-accumulates; see `Budget`.
        bit_budget: most bit operations, where there are bits; None for no limit.
        max_parameters: most parameters; None for no limit.
        max_latency: most milliseconds of one image on this machine, added up from timed parts; None for no limit.
        rivals: how many random networks of the winner's cost are trained from scratch, to compare it with.
        search, retrain: settings of these kinds of stage, tables in a file.

    Raises:
        ValueError: if a value is out of range.
    """

    budget: str | int | float = "60%"
    bit_budget: str | int | float | None = None
    max_parameters: int | None = None
    max_latency: float | None = None
    rivals: int = 3
    search: SearchSettings = field(default_factory=SearchSettings)
    retrain: RetrainSettings = field(default_factory=RetrainSettings)

    @classmethod
    def of_older_runs(cls: type[AnySettings]) -> AnySettings:
        """Codes were plain, the winner had one rival, and both were trained once."""
        older: Any = cls
        settings: AnySettings = older(codes=CodeSettings(), rivals=1, retrain=RetrainSettings(seeds=1))
        return settings

    def __post_init__(self) -> None:
        super().__post_init__()
        Budget.parse(self.budget)
        if self.bit_budget is not None:
            Budget.parse(self.bit_budget, "bit_budget", "bit_operations")
        if self.bits is None and (self.bit_budget is not None or "bit_operations" in self.search.costs):
            raise ValueError(
                "bits: expected some, such as 2,4,8, as bit operations are to be limited or lowered, got none"
            )


@dataclass(frozen=True)
class RetrainRunSettings(RunSettings):
    """What ``kshot-ext retrain`` does: the settings of a search, and what of it is trained.

    Args:
        architecture: which one, as JSON.
        training_seed: decides everything random in its training; images are divided by ``seed``, as in the search.

    Raises:
        ValueError: if a value is out of range.
    """

    architecture: str = ""
    training_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.architecture:
            Architecture.from_json(self.architecture)

    @property
    def chosen(self) -> Architecture:
        """The architecture as an object."""
        return Architecture.from_json(self.architecture)


@dataclass(frozen=True)
class RankSettings(SupernetSettings):
    """What ``kshot-ext rank`` does; ``truth`` must be given, and there are no widths and bits, as tables have none.

    Args:
        architectures: how many architectures of the table are evaluated.
        checkpoints: at how many points of training, evenly spread, the last one at its end.
        held_out: share of the images that architectures are evaluated on, if the data has no validation part.
        keep_warm_up: whether the run keeps its state at the end of warm-up, for other runs to begin from.
        warm_up: run folder with such a state, of one copy and otherwise equal settings but for codes: the run begins
            from there, and shares the luck of the first half with it; None to do the warm-up.
        results: JSON file that gathers the results of many runs, to add this one's to; None for the run folder's only.

    Raises:
        ValueError: if a value is out of range.
    """

    architectures: int = 300
    checkpoints: int = 1
    held_out: float = 0.1
    keep_warm_up: bool = False
    warm_up: str | None = None
    results: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("held_out", self.held_out, 0.001, 1)
        if self.widths is not None:
            raise ValueError(f"widths: a table of results has none, so expected none here, got {self.widths!r}")
        if self.bits is not None:
            raise ValueError(f"bits: a table of results has none, so expected none here, got {self.bits!r}")


SETTINGS_BY_COMMAND: dict[str, type[SupernetSettings]] = {"search": RunSettings, "rank": RankSettings}


def own_classes(settings: SupernetSettings) -> dict[str, str]:
    """The classes of the user's own that settings name, ``FILE.py:CLASS`` by the setting."""
    named = {"space": settings.space, "task": settings.task, "method": settings.method.name}
    return {setting: name for setting, name in named.items() if is_own(name)}


def check_method_begins(settings: SupernetSettings) -> None:
    """Raise `SettingsError` if the method says that a run with these settings must not begin."""
    kind = method_class(settings.method.name)
    with own_errors(settings.method.name, "method"):
        refusal = kind.refusal(settings.method, settings.training, settings.shots, settings.codes)
        if refusal is not None:
            check_given("refusal", refusal, str)
            raise SettingsError(refusal)
