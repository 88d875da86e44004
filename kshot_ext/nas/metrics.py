"""The numbers of a run over time: one JSON line per epoch or generation, mirrored to TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kshot_ext.nas.extras import require

_KEYS = ("stage", "step")


class MetricsLog:
    """Appends to ``metrics.jsonl``; TensorBoard's files are rebuilt from it, so the two always agree.

    Args:
        path: the JSON lines file; created if missing.
        tensorboard: folder of TensorBoard's event files.
        keep_bytes: length up to which the file is trusted. What lies beyond (a torn line, or steps that
            will be repeated) is cut off.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """

    def __init__(self, path: Path, tensorboard: Path, keep_bytes: int = 0) -> None:
        require("tensorboard")
        writer_class = require("torch.utils.tensorboard").SummaryWriter
        self._file = path.open("ab")
        self._file.truncate(min(keep_bytes, path.stat().st_size))
        for events in tensorboard.glob("events.out.tfevents.*"):
            events.unlink()
        self._writer = writer_class(str(tensorboard))
        for record in read_metrics(path):
            self._mirror(record)

    @property
    def num_bytes(self) -> int:
        """Length of the file; a checkpoint keeps it for ``keep_bytes``."""
        return os.fstat(self._file.fileno()).st_size

    def record(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append the numbers of one finished step of a stage."""
        record = {"stage": stage, "step": step, **values}
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        self._mirror(record)

    def close(self) -> None:
        """Close all files."""
        self._file.close()
        self._writer.close()

    def _mirror(self, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if name not in _KEYS:
                self._writer.add_scalar(f"{record['stage']}/{name}", value, record["step"])
        self._writer.flush()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a ``metrics.jsonl``, oldest first."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
