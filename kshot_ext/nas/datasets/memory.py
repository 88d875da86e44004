"""Refusing data that this process cannot hold."""

from __future__ import annotations

from kshot_ext.nas.datasets.source import DataError
from kshot_ext.nas.memory import available_memory, lack_of_memory


class TooLargeError(DataError):
    """Images do not fit into memory."""


def check_memory(name: str, needed: int) -> None:
    """Refuse what needs more memory than is free for this process.

    Raises:
        TooLargeError: naming the data, and how many bytes are needed and available.
    """
    lack = lack_of_memory(needed, available_memory())
    if lack is not None:
        raise TooLargeError(f"{name}: {lack}; use fewer or smaller images")
