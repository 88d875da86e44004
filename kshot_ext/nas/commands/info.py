"""What ``kshot-ext info`` tells: versions, what serves tensors and why, and which extras are installed."""

from __future__ import annotations

import platform

import torch

from kshot_ext import __version__, backend
from kshot_ext._native.cache import default_folder
from kshot_ext.nas.extras import lacking_by_extra

_MOST_NAMED = 4


def info_rows() -> list[tuple[str, str]]:
    """Names and values; the first call finds or builds the native kernels.

    Raises:
        BackendError: if ``KSHOT_EXT_BACKEND`` is no legal value, or there is no home folder to keep the library in.
    """
    rows = [("kshot_ext", __version__), ("python", platform.python_version()), *backend.rows()]
    if backend.info().cache is None:
        rows.append(("cache", str(default_folder())))
    if not torch.cuda.is_available():
        built = f"with CUDA {torch.version.cuda}, but sees no GPU" if torch.version.cuda else "without CUDA"
        rows.append(("CUDA", f"not in use: torch is built {built}"))
    return [*rows, *((f"extra {name}", _told(lacking)) for name, lacking in lacking_by_extra().items())]


def _told(lacking: list[str]) -> str:
    if not lacking:
        return "installed"
    more = f" and {len(lacking) - _MOST_NAMED} more" if len(lacking) > _MOST_NAMED else ""
    return f"not installed: lacks {', '.join(lacking[:_MOST_NAMED])}{more}"
