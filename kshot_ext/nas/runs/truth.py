"""A published table of stand-alone accuracies, the truth that a supernet's ranking is compared with."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from kshot_ext.nas.files import read_json
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace

_MEAN = "mean_acc"


class TruthError(ValueError):
    """A table of results cannot be used; the message names the file and the entry."""


def read_truth(path: Path, space: SearchSpace) -> dict[Architecture, float]:
    """Read a table: a JSON object from keys of the space to accuracies, in any unit.

    A value is a number, or an object whose ``mean_acc`` is one, as in NAS-Bench-Macro's table. See
    :meth:`SearchSpace.from_key` for the keys.

    Raises:
        TruthError: if the file cannot be read, is something else, a key does not fit the space, or two mean the same.
    """
    try:
        table = read_json(path)
    except OSError as error:
        raise TruthError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise TruthError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(table, dict) or not table:
        raise TruthError(f"{path}: expected a JSON object of accuracies by architecture, got {_shown(table)}")
    truth: dict[Architecture, float] = {}
    for key, value in table.items():
        try:
            architecture, accuracy = space.from_key(key), accuracy_of(key, value)
            if architecture in truth:
                raise ValueError(f"key {key!r}: expected one for each architecture, got another of the same before")
            truth[architecture] = accuracy
        except ValueError as error:
            raise TruthError(f"{path}: {error}; the table must be one of space {space.name}") from error
    return truth


def accuracy_of(key: str, value: Any) -> float:
    """The accuracy in an entry: a number, or an object whose ``mean_acc`` is one.

    Raises:
        ValueError: if it is neither, naming the key.
    """
    number: Any = value.get(_MEAN) if isinstance(value, dict) else value
    try:
        if type(number) in (int, float) and math.isfinite(number):
            return float(number)
    except OverflowError:  # JSON's integers have no bounds
        pass
    raise ValueError(f"key {key!r}: expected an accuracy, or an object with {_MEAN}, got {_shown(value)}")


def _shown(value: Any) -> str:
    return json.dumps(value)[:80]
