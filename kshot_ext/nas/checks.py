"""The one way a setting out of range is refused."""

from __future__ import annotations

import math
from collections.abc import Collection

LARGEST = 1e12
"""Most that a setting may be: float32, in which networks are trained, holds its square and a share of it as well."""


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
