"""JSON that every reader takes: the standard knows no NaN and no infinity."""

from __future__ import annotations

import json
import math
from typing import Any


def finite_or_none(value: Any) -> Any:
    """The value, with None for every number in it that is not finite; dictionaries, lists and tuples are gone through.

    Example:
        >>> finite_or_none({"loss": float("nan"), "codes": (1.0, float("inf"))})
        {'loss': None, 'codes': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def strict_json(value: Any, **options: Any) -> str:
    """`json.dumps` with ``null`` for numbers that are not finite.

    Example:
        >>> strict_json({"loss": float("inf")})
        '{"loss": null}'
    """
    return json.dumps(finite_or_none(value), allow_nan=False, **options)
