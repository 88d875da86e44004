"""The one way a setting out of range is refused, and what a class gives that its contract does not allow."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from numbers import Real
from typing import Any

LARGEST = 1e12
"""Most that a setting may be: float32, in which networks are trained, holds its square and a share of it as well."""


class BrokenContractError(TypeError):
    """What a class gives is not what its contract says. Of a class of the user's own that is told without traceback."""


def check_given(name: str, value: Any, kind: type) -> None:
    """Refuses what a class gives if it is of another kind than its contract says.

    Raises:
        BrokenContractError: naming what is given, and what it is.

    Example:
        >>> check_given("curves", 3, Collection)
        Traceback (most recent call last):
        kshot_ext.nas.checks.BrokenContractError: curves: expected Collection, got 3
    """
    if not isinstance(value, kind):
        raise BrokenContractError(f"{name}: expected {kind.__name__}, got {value!r:.200}")


def check_numbers(name: str, values: Any) -> None:
    """Refuses what a class gives if it is no mapping of numbers.

    Raises:
        BrokenContractError: naming what is given, and what it is.
    """
    check_given(name, values, Mapping)
    for key, value in values.items():
        check_given(f"{name}[{key!r}]", value, Real)


def check_at_least(name: str, value: float, minimum: float, maximum: float = LARGEST) -> None:
    """Refuses a value below ``minimum`` or above ``maximum``, infinite or not a number.

    Raises:
        ValueError: naming the setting, what it may be and what it is.

    Example:
        >>> check_at_least("epochs", 0, 1)
        Traceback (most recent call last):
        ValueError: epochs: expected at least 1, got 0
    """
    if not (minimum <= value < math.inf):
        raise ValueError(f"{name}: expected at least {minimum}, got {value}")
    if value > maximum:
        raise ValueError(f"{name}: expected at most {maximum:g}, got {value}")


def check_between(name: str, value: float, minimum: float, maximum: float) -> None:
    """Refuses a value outside ``minimum <= value < maximum`` or not a number.

    Raises:
        ValueError: naming the setting, what it may be and what it is.
    """
    if not (minimum <= value < maximum):
        raise ValueError(f"{name}: expected {minimum} or more and below {maximum}, got {value}")


def check_one_of(name: str, value: str, legal: Collection[str]) -> None:
    """Refuses a name that is none of the legal ones.

    Raises:
        ValueError: naming the setting, what it may be and what it is.

    Example:
        >>> check_one_of("precision", "int8", ["float32", "bfloat16"])
        Traceback (most recent call last):
        ValueError: precision: expected one of float32, bfloat16, got 'int8'
    """
    if value not in legal:
        raise ValueError(f"{name}: expected one of {', '.join(legal)}, got {value!r}")
