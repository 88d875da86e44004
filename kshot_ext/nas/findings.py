"""What a method tells of what it has trained: words, numbers and figures of its own, which any page can show."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from kshot_ext.nas.charts import Chart, HeatMap


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What there is to tell when training has ended.

    Args:
        heading: of a section of pages.
        facts: for people, by name.
        headline: names of the facts that pages show large.
        sentence: what the facts amount to.
        warnings: what keeps the training from being what it was to be, a sentence each; the sentence above is then
            shown so that nobody overlooks it.
        results: what ``results.json`` is to hold besides what it has of any run, by key.
        ranking: the same for files of rankings.
    """

    heading: str
    facts: Mapping[str, str]
    headline: tuple[str, ...] = ()
    sentence: str = ""
    warnings: tuple[str, ...] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    ranking: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Number:
    """A number or word of a method in files of results, for tables that compare runs.

    Args:
        name: where it is in ``results.json`` or ``ranking.json``, dotted.
        title: what it is called.
        words: what it may be, if it is a word.
    """

    name: str
    title: str
    words: Collection[str] = ()


@dataclass(frozen=True)
class Curve:
    """A number of a method in ``metrics.jsonl``, for figures that compare runs.

    Args:
        stage, name: which of the numbers.
        heading: of the figure.
        label: of its axis.
        least: a value that is drawn as a line, with what it is; None for no such line.
    """

    stage: str
    name: str
    heading: str
    label: str
    least: tuple[float, str] | None = None


@dataclass(frozen=True)
class Figure:
    """What pages draw.

    Args:
        heading, caption: what they say above and below.
        content: what is drawn.
    """

    heading: str
    caption: str
    content: Chart | HeatMap
