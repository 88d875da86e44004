"""A board of the best paths that a training has met, and a searcher that asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.searcher import Searcher
from kshot_ext.nas.spaces.architecture import Architecture


@dataclass(frozen=True, eq=False)
class BoardEntry:
    """A path on the board, as it was when it was put there.

    Args:
        path: which.
        accuracy: of the batch that it was trained on.
        macs: its multiply-accumulates for one image.
        images: a few, float32 ``[n, C, H, W]``.
        probabilities: of classes, that it gave them, ``[n, num_classes]``.
    """

    path: Architecture
    accuracy: float
    macs: int
    images: Tensor
    probabilities: Tensor

    @property
    def rank(self) -> tuple[float, int]:
        """Sorts entries, the best first: by accuracy; of equals, the cheaper one is better."""
        return -self.accuracy, self.macs


class PathBoard:
    """At most so many different paths, the most accurate ones.

    A full board lets a path in instead of its last one if the path is more accurate by a gap, or at least as accurate
    and cheaper. Without the second the board would stay as it is once all are good; without the gap it would fill with
    the largest paths. A path that is on it already is measured anew: a lucky batch should not keep it there for ever.

    Args:
        size: how many, at least 1.
        gap: by how much a path of any cost must be more accurate than the last one, as a share of images.

    Attributes:
        entries: the best first.

    Example:
        >>> board = PathBoard(1, 0.05)
        >>> cheap, costly = Architecture((0,)), Architecture((1,))
        >>> board.put(BoardEntry(costly, 0.5, 9, torch.zeros(0), torch.zeros(0)))
        >>> board.admits(cheap, 0.5, 3), board.admits(cheap, 0.52, 12), board.admits(cheap, 0.56, 12)
        (True, False, True)
    """

    def __init__(self, size: int, gap: float) -> None:
        self.size = size
        self.gap = gap
        self.entries: list[BoardEntry] = []

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, path: Architecture) -> bool:
        return any(entry.path == path for entry in self.entries)

    def others(self, path: Architecture) -> list[BoardEntry]:
        """All entries but that of a path."""
        return [entry for entry in self.entries if entry.path != path]

    def admits(self, path: Architecture, accuracy: float, macs: int) -> bool:
        """Whether the board takes a path that was so accurate on a batch."""
        if len(self) < self.size or path in self:
            return True
        last = self.entries[-1]
        return accuracy > last.accuracy + self.gap or (accuracy >= last.accuracy and macs < last.macs)

    def put(self, entry: BoardEntry) -> None:
        """Takes an entry in; of too many, the last one goes."""
        self._fill([*self.others(entry.path), entry])

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs: tensors and plain values."""
        return {"entries": [[e.path.to_json(), e.accuracy, e.macs, e.images, e.probabilities] for e in self.entries]}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Goes back to where :meth:`state_dict` was taken, with the tensors on a device."""
        self._fill(
            BoardEntry(Architecture.from_json(path), accuracy, macs, images.to(device), probabilities.to(device))
            for path, accuracy, macs, images, probabilities in state["entries"]
        )

    def _fill(self, entries: Iterable[BoardEntry]) -> None:
        self.entries = sorted(entries, key=lambda entry: entry.rank)[: self.size]


class BoardSearcher(Searcher):
    """Asks for the paths of a board, the best first, each once; then for nothing more.

    A path beyond the limits is brought within them by random changes, so a board of costly paths is of use, too.

    Args:
        board: is looked at when the searcher is asked.
    """

    def __init__(self, board: PathBoard) -> None:
        self.board = board
        self._asked: set[Architecture] = set()

    def ask(self, archive: Archive, count: int) -> list[Architecture]:
        found: dict[Architecture, None] = {}
        for entry in self.board.entries:
            if len(found) == count:
                break
            if entry.path not in self._asked:
                self._asked.add(entry.path)
                found |= {path: None for path in [archive.repair(entry.path)] if path not in archive}
        return list(found)

    def state_dict(self) -> dict[str, Any]:
        return {"asked": sorted(path.to_json() for path in self._asked)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._asked = {Architecture.from_json(text) for text in state["asked"]}
