"""Published tables of stand-alone accuracies, in the forms that they come in: what `kshot-ext truth` reads.

    .json   an object by key of the space, or a list of rows: NAS-Bench-Macro's file, and exports of others
    .csv    rows with a head
    .pth    NAS-Bench-201's file of all cells; torch's restricted reader runs no code of it

The last is a pickle. torch's reader takes plain values and tensors out of it, and refuses all else by name.
"""

from __future__ import annotations

import csv
import io
import math
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kshot_ext.nas.files import check_regular, parse_json, read_text
from kshot_ext.nas.runs.truth import TruthError, accuracy_of
from kshot_ext.nas.spaces.space import SearchSpace

EVALUATED_ON = {"cifar10-valid": "x-valid", "cifar10": "ori-test", "cifar100": "x-test", "ImageNet16-120": "x-test"}
"""Data sets of NAS-Bench-201's file, and the images that each is scored on: test images but for the first one."""

_EPOCHS = 200
_MOST_ROWS_SHOWN = 8


def published_truth(
    path: Path, space: SearchSpace, column: str | None = None, dataset: str = "cifar10"
) -> dict[str, float]:
    """Read a published table: accuracies by the keys of a space, in the form that `read_truth` takes.

    Args:
        path: a file of one of the forms above.
        space: whose architectures the table has.
        column: name of the accuracies in rows, or in the objects of JSON; default: ``mean_acc`` in objects, and in rows
            the only column of numbers.
        dataset: which accuracies of a ``.pth`` file, one of :data:`EVALUATED_ON`.

    Raises:
        TruthError: if the file cannot be read, is none of these forms, or an entry is wrong.
    """
    readers: Mapping[str, Callable[[], Iterable[tuple[str, Any]]]] = {
        ".json": lambda: _of_json(parse_json(read_text(path)), space, column),
        ".csv": lambda: _of_rows(list(csv.DictReader(io.StringIO(read_text(path)))), space, column),
        ".pth": lambda: _of_nas_bench_201(path, dataset),
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise TruthError(f"{path}: expected a file that ends in {', '.join(readers)}, got {path.suffix or 'no ending'}")
    try:
        table: dict[str, float] = {}
        for key, value in readers[suffix]():
            space.from_key(key)
            if key in table:
                raise ValueError(f"key {key!r}: expected one row for each architecture, got another before")
            table[key] = accuracy_of(key, value)
    except OSError as error:
        raise TruthError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise TruthError(f"{path}: {error}") from error
    if not table:
        raise TruthError(f"{path}: expected accuracies by architecture, got none")
    return table


def _of_json(content: Any, space: SearchSpace, column: str | None) -> Iterable[tuple[str, Any]]:
    """Entries of an object by key, or of a list of rows."""
    if isinstance(content, list):
        if not all(isinstance(row, dict) for row in content):
            raise ValueError("expected a list of objects, got other values in it")
        return _of_rows(content, space, column)
    if not isinstance(content, dict):
        raise ValueError(f"expected an object by architecture or a list of rows, got {type(content).__name__}")
    if column is None:
        return content.items()
    return ((key, _named(value, column, key)) for key, value in content.items())


def _named(value: Any, column: str, key: str) -> Any:
    if not isinstance(value, dict) or column not in value:
        names = ", ".join(value) if isinstance(value, dict) else f"{value!r:.80}"
        raise ValueError(f"key {key!r}: expected an object with {column}, got {names}")
    return value[column]


def _of_rows(rows: list[dict[str, Any]], space: SearchSpace, column: str | None) -> Iterable[tuple[str, Any]]:
    """Entries of rows: the column of keys is found by what is in it, the accuracies by name or as the only numbers."""
    if not rows:
        raise ValueError("expected rows, got none")
    names = list(rows[0])
    keys = [name for name in names if _is_key(space, rows[0][name])]
    if len(keys) != 1:
        raise ValueError(f"expected one column with keys of space {space.name}, got {len(keys)} among {_listed(names)}")
    numbers = [name for name in names if name not in keys and all(_number(row.get(name)) is not None for row in rows)]
    if column is None and len(numbers) != 1:
        raise ValueError(f"column: expected the name of the accuracies, as these are numbers: {_listed(numbers)}")
    chosen = column or numbers[0]
    if chosen not in names:
        raise ValueError(f"column: expected one of {_listed(names)}, got {chosen!r}")
    return ((str(row[keys[0]]), _number(row.get(chosen))) for row in rows)


def _is_key(space: SearchSpace, value: Any) -> bool:
    try:
        space.from_key(value)
    except (ValueError, TypeError, AttributeError):
        return False
    return True


def _number(value: Any) -> float | None:
    """A cell as a finite number, or None."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_ROWS_SHOWN} more" if len(names) > _MOST_ROWS_SHOWN else ""
    return (", ".join(map(str, names[:_MOST_ROWS_SHOWN])) or "none") + more


def _of_nas_bench_201(path: Path, dataset: str) -> Iterable[tuple[str, Any]]:
    """Mean accuracies over all trainings of 200 epochs, by the cell's string."""
    if dataset not in EVALUATED_ON:
        raise ValueError(f"dataset: expected one of {', '.join(EVALUATED_ON)}, got {dataset!r}")
    content = _plain_values(path)
    try:
        for index in sorted(content["arch2infos"]):
            trained = content["arch2infos"][index]["full"]
            scored = f"{EVALUATED_ON[dataset]}@{_EPOCHS - 1}"
            runs = [run["eval_acc1es"][scored] for (name, _), run in trained["all_results"].items() if name == dataset]
            if runs:
                yield trained["arch_str"], float(np.mean(runs))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"expected the contents of NAS-Bench-201-v1_1-096897.pth (arch2infos, full, all_results, eval_acc1es), "
            f"got something else ({type(error).__name__}: {error})"
        ) from error


def _plain_values(path: Path) -> Any:
    """What a file of torch holds, read by torch's restricted reader: no code of the file runs.

    numpy's scalars are allowed besides what torch allows: they are numbers, and such files were written with them.
    """
    check_regular(path)
    scalar = np.float64(0).__reduce__()[0]  # numpy.core.multiarray.scalar, which moved between versions of numpy
    numbers = [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, type(np.dtype("f8")), type(np.dtype("i8"))]
    try:
        with torch.serialization.safe_globals(numbers):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"expected plain values, as files of others are read without running code in them; torch refused it: "
            f"{_reason(error)}. Export the table as .csv or .json where you trust the file"
        ) from error
    except (RuntimeError, EOFError, IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a file of torch.save, got a damaged one or another ({error})") from error


def _reason(error: Exception) -> str:
    """The line of torch's message that names what it does not allow."""
    lines = [line.strip() for line in str(error).splitlines() if "nsupported" in line or "not an allowed" in line]
    return (lines[0] if lines else str(error).splitlines()[0]).split(". Please use")[0]
