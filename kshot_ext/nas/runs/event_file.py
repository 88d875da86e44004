"""Numbers in TensorBoard's format.

`torch.utils.tensorboard.SummaryWriter` writes from a thread of its own, whose errors (a full disk) come up anywhere,
and takes no folder whose name is not UTF-8. Here TensorBoard's own encoder writes when it is told to.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kshot_ext.nas.extras import require
from kshot_ext.nas.files import write_errors
from kshot_ext.nas.messages import visible


class EventFile:
    """A new event file in a folder, whose other event files are removed.

    Args:
        folder: made if it is missing.

    Raises:
        MissingExtraError: if tensorboard is not installed.
        WriteError: if the file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._events = require("tensorboard.compat.proto.event_pb2")
        self._summaries = require("tensorboard.compat.proto.summary_pb2")
        records = require("tensorboard.summary.writer.record_writer")
        host = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())
        self._path = folder / f"events.out.tfevents.{int(time.time()):010d}.{host}.{os.getpid()}.0"
        with write_errors(folder):
            folder.mkdir(exist_ok=True)
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
            self._writer = records.RecordWriter(self._path.open("wb"))
        self._write(file_version="brain.Event:2")

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add numbers by their tags, in the file when this returns.

        Raises:
            WriteError: if they cannot be written.
        """
        value = self._summaries.Summary.Value
        values = [value(tag=visible(tag), simple_value=number) for tag, number in numbers.items()]
        self._write(step=step, summary=self._summaries.Summary(value=values))

    def close(self) -> None:
        """Close the file."""
        with write_errors(self._path):
            self._writer.close()

    def _write(self, **content: Any) -> None:
        with write_errors(self._path):
            self._writer.write(self._events.Event(wall_time=time.time(), **content).SerializeToString())
            self._writer.flush()
