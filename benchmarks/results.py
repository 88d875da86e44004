"""Result files: JSON, one part per work and layer set, each with the environment that made it."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Rival, RowResult, Timed
from benchmarks.timing import Ratio

SCHEMA = 1
FILE_NAME = "cpu.json"


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of one work on one layer set.

    Args:
        environment: as `benchmarks.environment.environment` gives it.
        noise: ratios of a workload to itself, taken before the rows.
    """

    work: str
    layer_set: str
    pairs: int
    noise: Ratio
    environment: dict[str, Any]
    rows: list[RowResult]


def load_parts(path: Path) -> list[Part]:
    """Parts of a result file; none if there is no file.

    Raises:
        ValueError: the file is no result file, or has another schema.
    """
    if not path.exists():
        return []
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        schema = document["schema"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a file of benchmark results: {error!r}") from error
    if schema != SCHEMA:
        raise ValueError(f"{path}: expected schema {SCHEMA}, got {schema!r}; move it away and measure again")
    return [_part(part) for part in document["parts"]]


def save_part(path: Path, part: Part) -> list[Part]:
    """Put `part` into the file, in place of an older one of the same work and layer set; return all parts."""
    others = [old for old in load_parts(path) if (old.work, old.layer_set) != (part.work, part.layer_set)]
    parts = sorted([*others, part], key=lambda part: (part.work, part.layer_set))
    write_json(path, {"schema": SCHEMA, "parts": [dataclasses.asdict(part) for part in parts]})
    return parts


def write_json(path: Path, document: object) -> None:
    """Write all of the file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as file:
        json.dump(document, file, indent=1)
        file.write("\n")
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
