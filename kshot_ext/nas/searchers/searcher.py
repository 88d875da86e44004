"""What chooses the architectures that a search evaluates next: the contract of all searchers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.spaces.architecture import Architecture


class Searcher(Protocol):
    """Asked for architectures again and again; what becomes of them is in the archive.

    All random choices are drawn from the archive's generator.
    """

    @abstractmethod
    def ask(self, archive: Archive, count: int) -> list[Architecture]:
        """The architectures to evaluate next.

        Args:
            archive: what has been evaluated, one at the least.
            count: how many at most.

        Returns:
            Different ones within the archive's limits that are not in it; fewer where new ones are rare, and ``[]``
            when nothing new is left.
        """

    def survivors(self, archive: Archive, asked: Sequence[Architecture]) -> list[Architecture]:
        """What stands for the search once all that was asked for last is in the archive: its latest population."""
        return list(asked)

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs besides the archive: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where :meth:`state_dict` was taken."""
        del state  # there is nothing in it
