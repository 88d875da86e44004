"""Result files: JSON, one part per work and layer set, each with the environment that made it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring.measure import Rival, RowResult, Timed
from benchmarks.measuring.timing import Ratio
from benchmarks.place import Place

SCHEMA = 1


def file_name(place: Place) -> str:
    """Name of a device's result file: `cpu.json`, or `gpu_` and the model."""
    if place.device == "cpu":
        return "cpu.json"
    model = re.sub(r"[^a-z0-9]+", "_", torch.cuda.get_device_name().lower()).strip("_")
    return f"gpu_{model}.json"


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of one work on one layer set.

    Args:
        environment: as `benchmarks.measuring.environment.environment` gives it.
        noise: ratios of a workload to itself, taken before the rows.
    """

    work: str
    layer_set: str
    pairs: int
    noise: Ratio
    environment: dict[str, Any]
    rows: list[RowResult]

    @property
    def precision(self) -> str:
        return self.environment.get("precision", "float32")

    @property
    def key(self) -> tuple[str, str, str]:
        """What of two parts in a file is never the same."""
        return (self.work, self.layer_set, self.precision)

    @property
    def where(self) -> str:
        """Layer set and precision, for people; float32 goes without saying."""
        return self.layer_set if self.precision == "float32" else f"{self.layer_set}, {self.precision}"

    @property
    def title(self) -> str:
        return f"{self.work}, {self.where}"


def load_document(path: Path) -> dict[str, Any]:
    """All of a result file; one without parts if there is no file.

    Raises:
        ValueError: the file is no result file, or has another schema.
    """
    if not path.exists():
        return {"schema": SCHEMA, "parts": []}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        schema = document["schema"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a file of benchmark results: {error!r}") from error
    if schema != SCHEMA:
        raise ValueError(f"{path}: expected schema {SCHEMA}, got {schema!r}; move it away and measure again")
    return document


def load_parts(path: Path) -> list[Part]:
    """Parts of a result file, as `load_document` reads it."""
    return [_part(part) for part in load_document(path)["parts"]]


def save_part(path: Path, part: Part) -> list[Part]:
    """Put `part` into the file, in place of an older one of the same key; return all parts."""
    parts = with_part(load_parts(path), part)
    save_sections(path, parts=as_json(parts))
    return parts


def with_part(parts: Sequence[Part], part: Part) -> list[Part]:
    """`parts` with one more, in place of an older one of the same key, sorted by key."""
    return sorted([*(old for old in parts if old.key != part.key), part], key=lambda part: part.key)


def as_json(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Parts as a result file has them."""
    return [dataclasses.asdict(part) for part in parts]


def with_row(part: Part, row: RowResult) -> Part:
    """`part` with a row, in place of an older one of that name."""
    return dataclasses.replace(part, rows=[*(old for old in part.rows if old.name != row.name), row])


def save_sections(path: Path, **sections: object) -> None:
    """Write these sections of a result file, and leave its others as they are."""
    write_json(path, {**load_document(path), **sections})


def write_json(path: Path, document: object) -> None:
    """Write all of the file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        json.dump(document, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())  # or a crash of the machine could leave the new name on an empty file
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def _part(fields: dict[str, Any]) -> Part:
    rows = [_row(row) for row in fields["rows"]]
    return Part(**{**fields, "noise": Ratio(**fields["noise"]), "rows": rows})


def _row(fields: dict[str, Any]) -> RowResult:
    rivals = {
        label: Rival(Timed(**rival["best"]), Ratio(**rival["speedup"])) for label, rival in fields["rivals"].items()
    }
    return RowResult(**{**fields, "ours": Timed(**fields["ours"]), "rivals": rivals})


def select(parts: Sequence[Part], work: str) -> list[Part]:
    """The parts of a work."""
    return [part for part in parts if part.work == work]
