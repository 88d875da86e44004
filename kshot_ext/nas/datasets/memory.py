"""Refusing data that this machine cannot hold."""

from __future__ import annotations

import os

from kshot_ext.nas.datasets.source import DataError


def check_memory(name: str, needed: int) -> None:
    """Raise `DataError` if ``needed`` bytes are more than half of this machine's memory."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > available / 2:
        sizes = f"{needed / 2**30:.1f} GiB of images, this machine has {available / 2**30:.1f} GiB"
        raise DataError(f"{name}: too large for memory ({sizes}); use fewer or smaller images")
