"""The stage of a run that searches an archive's space."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import Generations, SearchSettings
from kshot_ext.nas.searchers.searcher import Searcher
from kshot_ext.nas.stage import Stage


class SearchStage(Stage):
    """A search; a step is a generation.

    Args:
        archive: evaluates, and keeps what is found.
        settings: of the search.
        searcher: see :class:`kshot_ext.nas.searchers.generations.Generations`.
    """

    unit = "generation"

    def __init__(self, archive: Archive, settings: SearchSettings, searcher: Searcher | None = None) -> None:
        super().__init__("search", "search", Generations(archive, settings, searcher), settings.generations)
        self.headline = (f"best_{archive.score}", f"mean_{archive.score}")

    @property
    def done(self) -> int:
        return self.work.generation

    def step(self, on_move: Callable[[float], None]) -> dict[str, float]:
        evaluated = count(1)
        size = self.work.settings.population
        with self.work.archive.listening(lambda _: on_move(self.done + min(next(evaluated) / size, 1))):
            report = self.work.step()
        values = {
            "best_loss": report.best.scores.loss,
            "best_accuracy": report.best.scores.accuracy,
            "best_macs": report.best.macs,
            "mean_loss": report.mean.loss,
            "mean_accuracy": report.mean.accuracy,
            "evaluated": len(report.evaluated),
        }
        return values | {f"share_{name}": share for name, share in report.operation_shares.items()}
