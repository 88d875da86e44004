"""The numbers of a run over time: one JSON line per epoch or generation, mirrored to TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kshot_ext.nas.files import append_line, as_utf8, is_there, parse_json, read_bytes, write_bytes
from kshot_ext.nas.messages import notice
from kshot_ext.nas.runs.event_file import EventFile
from kshot_ext.nas.strict_json import finite_or_none, strict_json

_KEYS = ("stage", "step")
_SCALARS = (int, float, str, type(None))


class MetricsLog:
    """Appends to a file of JSON lines; TensorBoard's file is rebuilt from it, so the two always agree.

    Lines that cannot be read, as after a crash of the machine, are left out, which is said; what checkpoints know of
    them comes back (:meth:`begin_stage`).

    Args:
        path: the JSON lines file; may be missing.
        tensorboard: folder of TensorBoard's event files; those of an earlier process are replaced.

    Raises:
        MissingExtraError: if tensorboard is not installed.
        OSError: if a file cannot be read or written.
    """

    def __init__(self, path: Path, tensorboard: Path) -> None:
        self._path = path
        content = read_records(path)
        if content.damage:
            notice(f"{path}: {content.damage}; left out")
        self.records = content.records
        self._events = EventFile(tensorboard)
        self._mirrored: set[tuple[str, int]] = set()

    def of_stage(self, stage: str) -> list[dict[str, Any]]:
        """The records of a stage."""
        return [record for record in self.records if record["stage"] == stage]

    def begin_stage(self, stage: str, done: int, saved: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Forget the records of a stage beyond its first ``done`` steps: these will be done again.

        A killed process may leave such records, since it records a step before it saves the checkpoint.

        Args:
            stage: the stage.
            done: steps that it has done.
            saved: the records of these as its checkpoint has them, which hold where the file has others; None to trust
                the file.
        """
        kept = [record for record in self.records if record["stage"] != stage or record["step"] <= done]
        own = [record for record in kept if record["stage"] == stage]
        if saved is not None and _lines(own) != _lines(saved):
            notice(f"{self._path}: the records of stage {stage} are not what was written; taken from its checkpoint")
            place = kept.index(own[0]) if own else len(kept)
            own = [dict(record) for record in saved]
            others = [[record for record in part if record["stage"] != stage] for part in (kept[:place], kept[place:])]
            kept = [*others[0], *own, *others[1]]
        self.records = kept
        write_bytes(self._path, _lines(kept))
        for record in own:
            self._mirror(record)

    def record(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Add the numbers of one finished step, on disk when this returns; None stands for one that is not finite."""
        record = finite_or_none({"stage": stage, "step": step, **values})
        self.records.append(record)
        append_line(self._path, _line(record))
        self._mirror(record)

    def record_once(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Add numbers that an earlier process may have recorded already; others in their place are replaced."""
        record = finite_or_none({"stage": stage, "step": step, **values})
        places = [i for i, old in enumerate(self.records) if (old["stage"], old["step"]) == (stage, step)]
        if not places:
            self.record(stage, step, values)
        elif [_line(self.records[i]) for i in places] != [_line(record)]:
            notice(f"{self._path}: the record of {stage} {step} is not what was written; made again")
            self.records[places[0]] = record
            for i in reversed(places[1:]):
                del self.records[i]
            write_bytes(self._path, _lines(self.records))
        self._mirror(record)

    def close(self) -> None:
        """Close TensorBoard's file."""
        self._events.close()

    def _mirror(self, record: Mapping[str, Any]) -> None:
        key = record["stage"], record["step"]
        if key in self._mirrored:
            return
        self._mirrored.add(key)
        numbers = {
            f"{record['stage']}/{name}": value
            for name, value in record.items()
            if name not in _KEYS and isinstance(value, (int, float))
        }
        self._events.add(record["step"], numbers)


@dataclass(frozen=True)
class Records:
    """What a metrics file holds.

    Args:
        records: its lines.
        damaged: numbers of lines that cannot be read.
        torn: whether the last line has no end: its writer was killed, or writes it now.
    """

    records: list[dict[str, Any]]
    damaged: tuple[int, ...] = ()
    torn: bool = False

    @property
    def damage(self) -> str:
        """What there is besides records, for people; empty if there is nothing."""
        numbers = ", ".join(map(str, self.damaged[:5])) + (", ..." if len(self.damaged) > 5 else "")
        parts = [f"line {numbers} cannot be read"] if self.damaged else []
        return ", and ".join([*parts, *(["the last line was cut off as its writer ended"] if self.torn else [])])


def read_records(path: Path) -> Records:
    """The lines of a metrics file; none if there is no file.

    Raises:
        OSError: if it cannot be read.
    """
    if not is_there(path):
        return Records([])
    *lines, rest = read_bytes(path).split(b"\n")
    read = [_read_line(line) for line in lines]
    damaged = tuple(number for number, record in enumerate(read, start=1) if record is None)
    return Records([record for record in read if record is not None], damaged, torn=bool(rest))


def is_record(value: Any) -> bool:
    """Whether a value is what one line of a metrics file holds."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("stage"), str)
        and type(value.get("step")) is int
        and 0 <= value["step"] < 2**63
        and all(isinstance(item, _SCALARS) and (type(item) is not int or abs(item) < 2**63) for item in value.values())
    )


def _read_line(line: bytes) -> dict[str, Any] | None:
    try:
        value = parse_json(line.decode("utf-8-sig"))
    except ValueError:
        return None
    return value if is_record(value) else None


def _line(record: Mapping[str, Any]) -> str:
    return strict_json(record)


def _lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    return as_utf8("".join(f"{_line(record)}\n" for record in records))
