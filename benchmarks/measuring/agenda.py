"""What a report has still to measure, and in which order: rows that tell most come first.

A row tells the more, the more of its network's time it stands for; and the second row of a kind tells less than the
first. So rows come in rounds: the r-th round has the r-th heaviest row of every group, a work, layer set, kind of row
and precision. The weight of a row is its floor times how often the network has it. Within a round, rows that stand for
a whole step go first, then the works in the order of `benchmarks.works`. After the first round every comparison of the
report has a figure; after all rounds it has every row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.floors import Rates, least_seconds
from benchmarks.networks import layer_sets
from benchmarks.works import WORKS
from benchmarks.works.row import Row

Key = tuple[str, str, str]  # work, layer set, precision


@dataclass(frozen=True)
class Item:
    """One row to measure, and the part of the report that it belongs to."""

    key: Key
    row: Row


def agenda(asked: Iterable[Key], rates: Mapping[str, Rates]) -> list[Item]:
    """The rows of all parts asked for, in the order above.

    Args:
        asked: the parts; of equal rows, those of earlier ones come first.
        rates: of the machine, by precision.
    """
    groups: dict[tuple[str, ...], list[Item]] = {}
    for key in asked:
        work, set_name, _ = key
        for row in WORKS[work].rows(layer_sets()[set_name]):
            groups.setdefault((*key, row.kind), []).append(Item(key, row))
    ranked = []
    for items in groups.values():
        # Where nothing is known of a row's cost, as of a whole step, the order of the work stays.
        items.sort(key=lambda item: -_weight(item.row, rates[item.key[2]]))
        ranked += [(turn, item.row.traffic is not None, item) for turn, item in enumerate(items)]
    works = list(WORKS)
    ranked.sort(key=lambda entry: (entry[0], entry[1], works.index(entry[2].key[0])))
    return [item for _, _, item in ranked]


def _weight(row: Row, rates: Rates) -> float:
    return float("inf") if row.traffic is None else row.count * least_seconds(row, rates)[0]
