"""The warm-up of one run as the beginning of others that would have warmed up alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kshot_ext.nas.methods import MethodSettings, method_class
from kshot_ext.nas.runs.run_folder import Checkpoint, RunFolderError, RunRecord
from kshot_ext.nas.runs.settings import SupernetSettings
from kshot_ext.nas.tables import as_table, flatten

WARM_UP = "warm-up"
"""Name of the checkpoint that keeps the state at the end of warm-up."""

_DECIDES_THE_WARM_UP = (
    "space",
    "image_size",
    "max_images",
    "augment",
    "task",
    "channels",
    "cells",
    "widths",
    "bits",
    "seed",
    "device",
    "held_out",
)
_MAY_DIFFER = ("equal_path_steps",)  # of training; it has no part in the warm-up


def load_warm_up(path: Path, settings: SupernetSettings, images: str) -> Checkpoint:
    """The state at the end of another run's warm-up.

    Args:
        path: its run folder.
        settings: of the run that is to begin from there.
        images: digest of that run's.

    Raises:
        RunFolderError: if there is none, or that run's images or settings were others.
        SettingsError: if its settings cannot be read.
    """
    record: RunRecord[Any] = RunRecord(path)
    theirs, ours = _deciding(record.settings), _deciding(settings)
    differences = [
        f"{name} is {theirs[name]!r} there, {value!r} here" for name, value in ours.items() if theirs[name] != value
    ]
    if record.card.inputs["data"] != images:
        differences.append("its images are others")
    if differences:
        raise RunFolderError(
            f"{path}: expected a warm-up that this run would have done alike, but {'; '.join(differences)}"
        )
    checkpoint = record.load_checkpoint(WARM_UP)
    if checkpoint is None:
        raise RunFolderError(f"{path}: keeps no warm-up; expected a run with keep_warm_up = true that has got so far")
    return checkpoint


def _deciding(settings: SupernetSettings) -> dict[str, object]:
    """All settings that have a part in the warm-up."""
    named = {name: getattr(settings, name, None) for name in _DECIDES_THE_WARM_UP}
    training = flatten(as_table(settings.training))
    normalised = {name: getattr(settings.images, name) for name in ("mean", "std")}
    varied = flatten(as_table(settings.augmentation)) if settings.augment else {}
    return {
        **named,
        "method": _warm_up_of(settings.method),
        "images": normalised,
        "augmentation": varied,
        **{f"training.{n}": value for n, value in training.items() if n not in _MAY_DIFFER},
    }


def _warm_up_of(settings: MethodSettings) -> object:
    """What the method says that its warm-up depends on; its settings, where nobody has allowed to run its file."""
    try:
        return method_class(settings.name).warm_up(settings)
    except ValueError:
        return settings
