"""K-shot neural architecture search on top of the operators.

`search`, `rank` and `load_run` are what ``kshot-ext`` is made of, for programs; they are imported when they are asked
for, so that the parts below stay cheap to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kshot_ext.nas.api.finished import load_run
    from kshot_ext.nas.api.rank import rank
    from kshot_ext.nas.api.runs import RankRun, RetrainedRun
    from kshot_ext.nas.api.search import search
    from kshot_ext.nas.api.search_run import SearchRun

_PLACES = {
    "search": "search",
    "rank": "rank",
    "load_run": "finished",
    "SearchRun": "search_run",
    **dict.fromkeys(("RankRun", "RetrainedRun"), "runs"),
}

__all__ = ["RankRun", "RetrainedRun", "SearchRun", "load_run", "rank", "search"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.api.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
