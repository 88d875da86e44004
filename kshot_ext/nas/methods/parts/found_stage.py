"""Selection by methods whose training itself ends in architectures: nothing is searched, what was found is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.stage import Stage


class Found:
    """Scores what a training has found, within the limits of the run.

    Args:
        archive: evaluates, and has the limits.
        find: gives the architectures that were found, when training has ended.

    Attributes:
        results: of those within the limits, best first. If none is, one of them is changed at random until it is.
    """

    def __init__(self, archive: Archive, find: Callable[[], Sequence[Architecture]]) -> None:
        self.archive = archive
        self.results: list[Evaluated] = []
        self._find = find

    def score(self) -> None:
        """Evaluates them."""
        archive, found = self.archive, self._find()
        within = [architecture for architecture in found if archive.limits.admit(archive.space, architecture)]
        if not within:
            cheapest = min(found, key=archive.space.count_macs)
            within = [archive.repair(cheapest)]
        archive.evaluate(within)
        self.results = archive.best_first()

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs."""
        return {"archive": self.archive.state_dict(), "scored": bool(self.results)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to where :meth:`state_dict` was taken."""
        self.archive.load_state_dict(state["archive"])
        self.results = self.archive.best_first() if state["scored"] else []


class FoundStage(Stage):
    """The one step of :class:`Found`, whose arguments it takes."""

    unit = "step"

    def __init__(self, archive: Archive, find: Callable[[], Sequence[Architecture]]) -> None:
        super().__init__("search", "selection", Found(archive, find), 1)
        self.headline = (f"best_{archive.score}", "evaluated")

    @property
    def done(self) -> int:
        return int(bool(self.work.results))

    def step(self, on_move: Callable[[float], None]) -> dict[str, float]:
        self.work.score()
        on_move(1.0)
        best = self.work.results[0]
        return {
            "best_loss": best.scores.loss,
            "best_accuracy": best.scores.accuracy,
            "best_macs": best.macs,
            "evaluated": len(self.work.results),
        }
