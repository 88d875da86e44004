"""What a run folder says about its run, besides the settings: enough to know it, and to build its networks again."""

from __future__ import annotations

import hashlib
import json
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.files import parse_json, read_bytes
from kshot_ext.nas.messages import one_line
from kshot_ext.nas.own_classes import own_digest
from kshot_ext.nas.runs.settings import SupernetSettings, own_classes
from kshot_ext.nas.tables import as_table

_COMMANDS = ("search", "rank", "retrain")
_LARGEST_SIDE = 2**16
_MOST_CLASSES = 2**24


class RunCardError(ValueError):
    """A card cannot be read, or does not fit the run that is to go on; the message says why."""


@dataclass(frozen=True)
class RunCard:
    """The identity of a run.

    Args:
        run: its name among all runs.
        command: what was run: ``"search"``, ``"rank"`` or ``"retrain"``.
        data_name: what its images are called.
        image_shape: ``(channels, height, width)`` of them.
        num_classes: number of their classes, or of a network's outputs for another task.
        settings: digest of the settings' file.
        inputs: digest of everything that the settings name, see `input_digests`.
        data_notes: what of the data is left out, and how names were understood where they leave it open.
        begun: when, with the time zone; empty of runs of older versions, as are the words of the
        command_line: that began it.

    Raises:
        ValueError: if a field has another type, or cannot be.
    """

    run: str
    command: str
    data_name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    settings: str
    inputs: Mapping[str, str]
    data_notes: tuple[str, ...] = ()
    begun: str = ""
    command_line: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("run", "command", "data_name", "settings", "begun"):
            _expect(isinstance(getattr(self, name), str), name, "text", getattr(self, name))
        _expect(self.command in _COMMANDS, "command", f"one of {', '.join(_COMMANDS)}", self.command)
        shape, classes = self.image_shape, self.num_classes
        whole = isinstance(shape, tuple) and len(shape) == 3 and all(type(side) is int for side in shape)
        _expect(whole and all(1 <= side <= _LARGEST_SIDE for side in shape), "image_shape", "three sizes", shape)
        _expect(type(classes) is int and 1 <= classes <= _MOST_CLASSES, "num_classes", "1 or more", classes)
        texts = isinstance(self.inputs, Mapping) and all(isinstance(digest, str) for digest in self.inputs.values())
        _expect(texts and "data" in self.inputs, "inputs", "digests by name", self.inputs)
        for name, expected in {"data_notes": "sentences", "command_line": "words"}.items():
            value = getattr(self, name)
            _expect(isinstance(value, tuple) and all(isinstance(text, str) for text in value), name, expected, value)

    @classmethod
    def new(cls, command: str, settings: SupernetSettings, data_name: str, splits: DataSplits) -> RunCard:
        """The card of a run that begins now."""
        return cls(
            run=uuid.uuid4().hex,
            command=command,
            data_name=data_name,
            image_shape=splits.image_shape,
            num_classes=splits.num_classes,
            settings=_settings_digest(as_table(settings)),
            inputs=input_digests(settings, splits),
            data_notes=splits.notes,
            begun=time.strftime("%Y-%m-%d %H:%M:%S %z"),
            command_line=(Path(sys.argv[0]).name.replace("__main__.py", "kshot-ext"), *sys.argv[1:]),
        )

    def to_json(self) -> str:
        """The card as a JSON object of its fields.

        Those that older versions did not have are left out where they are empty, so that their cards stay as they are.
        """
        fields = asdict(self)
        kept = {name: value for name, value in fields.items() if value or name not in ("begun", "command_line")}
        return json.dumps(kept, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunCard:
        """The card that :meth:`to_json` wrote.

        Raises:
            RunCardError: if it is something else.
        """
        try:
            fields = parse_json(text)
            shape = tuple(fields["image_shape"])
            texts = {name: tuple(fields.get(name, ())) for name in ("data_notes", "command_line")}
            return cls(**fields | texts | {"image_shape": shape})
        except (ValueError, TypeError, KeyError) as error:
            got = f"{text[:80]!r} ({one_line(error)})"
            raise RunCardError(f"expected the JSON object of a run, got {got}; bring it back from a copy") from error

    @property
    def digest(self) -> str:
        """SHA-256 of the card, by which files that hold a run's state know their run."""
        return hashlib.sha256(self.to_json().encode("utf-8", "backslashreplace")).hexdigest()

    def check_settings(self, table: Mapping[str, Any]) -> None:
        """Checks that a settings file holds what it held when the run began, in whatever order.

        Raises:
            RunCardError: if not.
        """
        if _settings_digest(table) != self.settings:
            raise RunCardError(
                "its settings were changed since the run began; a run goes on with its own settings: bring them back"
            )

    def check_continues(self, settings: SupernetSettings, splits: DataSplits) -> None:
        """Checks that a run goes on with what it began with.

        Raises:
            RunCardError: if the images and files that the settings name are not those of the card.
        """
        inputs = input_digests(settings, splits)
        for name in sorted(self.inputs.keys() | inputs.keys()):
            if self.inputs.get(name) != inputs.get(name):
                place = own_classes(settings).get(name) or getattr(settings, name) or self.data_name
                raise RunCardError(
                    f"{name}: {place} is not what the run began with; bring the old one back, or begin a new run"
                )


def input_digests(settings: SupernetSettings, splits: DataSplits) -> dict[str, str]:
    """SHA-256, by the name of the setting, of the images, the table of results, and the files of own classes.

    Raises:
        OSError: if a file cannot be read.
    """
    files = {} if settings.truth is None else {"truth": settings.truth}
    digests = {name: hashlib.sha256(read_bytes(Path(file))).hexdigest() for name, file in files.items()}
    own = {setting: own_digest(name) for setting, name in own_classes(settings).items()}
    return {"data": splits.digest(), **digests, **own}


def _settings_digest(table: Mapping[str, Any]) -> str:
    """SHA-256 of all settings, whatever their order in the file."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def _expect(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {got!r:.80}")
