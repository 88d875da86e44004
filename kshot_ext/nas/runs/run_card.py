"""What a run folder says about its run, besides the settings: enough to know it, and to build its networks again."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.runs.settings import SupernetSettings
from kshot_ext.nas.spaces.own import file_of, is_own
from kshot_ext.nas.tables import as_table


class RunCardError(ValueError):
    """A card cannot be read, or does not fit the run that is to go on; the message says why."""


@dataclass(frozen=True)
class RunCard:
    """The identity of a run.

    Args:
        run: its name among all runs.
        command: what was run: ``"search"`` or ``"rank"``.
        data_name: what its images are called.
        image_shape: ``(channels, height, width)`` of them.
        num_classes: number of their classes.
        settings: digest of all settings.
        inputs: digest of everything that the settings name, see `input_digests`.
        data_notes: what of the data is left out, and how names were understood where they leave it open.
    """

    run: str
    command: str
    data_name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    settings: str
    inputs: Mapping[str, str]
    data_notes: tuple[str, ...] = ()

    @classmethod
    def new(cls, command: str, settings: SupernetSettings, data_name: str, splits: DataSplits) -> RunCard:
        """The card of a run that begins now."""
        return cls(
            run=uuid.uuid4().hex,
            command=command,
            data_name=data_name,
            image_shape=splits.image_shape,
            num_classes=splits.num_classes,
            settings=_settings_digest(settings),
            inputs=input_digests(settings, splits),
            data_notes=splits.notes,
        )

    def to_json(self) -> str:
        """The card as a JSON object of its fields."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunCard:
        """The card that :meth:`to_json` wrote.

        Raises:
            RunCardError: if it is something else.
        """
        try:
            fields = json.loads(text)
            lists = {"image_shape": tuple(fields["image_shape"]), "data_notes": tuple(fields.get("data_notes", ()))}
            return cls(**fields | lists)
        except (ValueError, TypeError, KeyError) as error:
            raise RunCardError(f"expected the JSON object of a run, got {text[:80]!r} ({error})") from error

    def check_continues(self, settings: SupernetSettings, splits: DataSplits) -> None:
        """Checks that a run goes on with what it began with.

        Raises:
            RunCardError: if the settings, or the images and files that they name, are not those of the card.
        """
        if _settings_digest(settings) != self.settings:
            raise RunCardError("its settings were changed since the run began; a run goes on with its own settings")
        inputs = input_digests(settings, splits)
        for name in sorted(self.inputs.keys() | inputs.keys()):
            if self.inputs.get(name) != inputs.get(name):
                place = getattr(settings, name) or self.data_name
                raise RunCardError(
                    f"{name}: {place} is not what the run began with; bring the old one back, or begin a new run"
                )


def input_digests(settings: SupernetSettings, splits: DataSplits) -> dict[str, str]:
    """SHA-256, by the name of the setting, of the images, the table of results, and the file of an own space.

    Raises:
        OSError: if a file cannot be read.
    """
    files = {} if settings.truth is None else {"truth": settings.truth}
    if is_own(settings.space):
        files["space"] = file_of(settings.space)
    digests = {name: hashlib.sha256(Path(file).read_bytes()).hexdigest() for name, file in files.items()}
    return {"data": splits.digest(), **digests}


def _settings_digest(settings: SupernetSettings) -> str:
    """SHA-256 of all settings, whatever their order in the file."""
    return hashlib.sha256(json.dumps(as_table(settings), sort_keys=True).encode()).hexdigest()
