"""The numbers of a run over time: one JSON line per epoch or generation, mirrored to TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kshot_ext.nas.extras import require
from kshot_ext.nas.files import write_text
from kshot_ext.nas.strict_json import finite_or_none, strict_json

_KEYS = ("stage", "step")


class MetricsLog:
    """Appends to a file of JSON lines; TensorBoard's files are rebuilt from it, so the two always agree.

    Args:
        path: the JSON lines file; may be missing.
        tensorboard: folder of TensorBoard's event files; those of an earlier process are replaced.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """

    def __init__(self, path: Path, tensorboard: Path) -> None:
        require("tensorboard")
        writer_class = require("torch.utils.tensorboard").SummaryWriter
        self._path = path
        self.records = read_records(path)
        for events in tensorboard.glob("events.out.tfevents.*"):
            events.unlink()
        self._writer = writer_class(str(tensorboard))
        self._mirrored: set[tuple[str, int]] = set()

    def begin_stage(self, stage: str, done: int) -> None:
        """Forget the records of a stage beyond its first ``done`` steps: these will be done again.

        A killed process may leave such records, since it records a step before it saves the checkpoint.
        """
        self.records = [record for record in self.records if record["stage"] != stage or record["step"] <= done]
        write_text(self._path, "".join(map(_line, self.records)))
        for record in self.records:
            if record["stage"] == stage:
                self._mirror(record)

    def record(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append the numbers of one finished step of a stage; None stands for one that is not finite."""
        record = finite_or_none({"stage": stage, "step": step, **values})
        self.records.append(record)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(record))
        self._mirror(record)

    def close(self) -> None:
        """Close TensorBoard's files."""
        self._writer.close()

    def _mirror(self, record: Mapping[str, Any]) -> None:
        key = record["stage"], record["step"]
        if key in self._mirrored:
            return
        self._mirrored.add(key)
        for name, value in record.items():
            if name not in _KEYS and value is not None:
                self._writer.add_scalar(f"{record['stage']}/{name}", value, record["step"])
        self._writer.flush()


def _line(record: Mapping[str, Any]) -> str:
    return strict_json(record) + "\n"


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a metrics file; none if there is no file."""
    if not path.exists():
        return []
    # What follows the last newline was torn off by the death of its writer.
    whole_lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in whole_lines]
