"""Functions whose results are kept by their arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])


def memoised(most: int | None) -> Callable[[_Function], _Function]:
    """`functools.lru_cache` for `most` results, of the type of its function: type checkers see its arguments, and that
    classes of modules may be among them, which they take for unhashable otherwise."""

    def keep(function: _Function) -> _Function:
        return cast("_Function", functools.lru_cache(maxsize=most)(function))

    return keep
