"""Random search, the plainest that others are compared with."""

from __future__ import annotations

from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.searcher import Searcher
from kshot_ext.nas.spaces.architecture import Architecture


class RandomSearch(Searcher):
    """New random architectures."""

    def ask(self, archive: Archive, count: int) -> list[Architecture]:
        return archive.random(count)
