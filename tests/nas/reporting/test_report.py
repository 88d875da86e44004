from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from kshot_ext.nas.networks.code_analysis import Spectrum
from kshot_ext.nas.networks.code_report import CodeReport
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.ranking.rank_correlation import RankCorrelation
from kshot_ext.nas.reporting.page import Picture
from kshot_ext.nas.reporting.report import render_report
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult
from kshot_ext.nas.search.pareto import Evaluated
from kshot_ext.nas.spaces.architecture import Architecture

HOSTILE = "<script>alert('x')</script>\"&"


def _page(distance: float = 0.3) -> str:
    architecture = Architecture((0, 2))
    winner = RetrainedNetwork("winner", architecture, ("identity", "mb6_k5"), 1_234_567, 89_012, 0.5, 1.2345, 0.9876)
    random = RetrainedNetwork("random", architecture, ("identity", "mb6_k5"), 1_234_000, 88_000, 0.4, 2.5, 0.9)
    codes = CodeReport(distance, (0.4321, 0.5679), Spectrum((2.0, 1.0), 2, 1.89))
    result = RunResult(
        winner, random, max_macs=2_000_000, score="loss", codes=codes, seconds={"supernet": 61.25, "search": 1.0}
    )
    picture = Picture(b"picture", HOSTILE, HOSTILE)
    front = [Evaluated(Architecture((1, 2)), Scores(0.4321, 0.8765), 765_432, 54_321)]
    settings = {"training.epochs": 3, "data": HOSTILE}
    correlation = RankCorrelation(0.123, None, 4.567, 0.234, -0.345, 88.654, 92.321, 90.987)
    return render_report(HOSTILE, {"data": HOSTILE}, result, front, [picture], settings, correlation)


@pytest.fixture
def page() -> str:
    return _page()


class _Tags(HTMLParser):
    """Keeps the tags, and checks that each is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_else(page: str) -> None:
    tags = _Tags(page)
    assert tags.open == []
    assert tags.links == ["data:image/png;base64,cGljdHVyZQ=="]
    assert "url(" not in page
    assert "@import" not in page


def test_text_from_outside_is_escaped_everywhere(page: str) -> None:
    assert "script" not in _Tags(page).names
    assert page.count("&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&quot;&amp;") == 8


def test_the_numbers_are_there(page: str) -> None:
    text = re.sub(r"<[^>]*>", " ", page)
    result = ("98.76%", "90.00%", "1,234,567", "89,012", "2,000,000", "61.2", "training.epochs", "1.2345", "best loss")
    front, correlation = (
        ("12", "43.21%", "0.8765", "765,432", "54,321"),
        ("0.123", "undefined", "4.567", "0.234", "-0.345", "88.654", "92.321", "90.987"),
    )
    for number in (*result, *front, *correlation):
        assert number in text, number


def test_the_page_tells_of_the_weight_copies(page: str) -> None:
    text = re.sub(r"<[^>]*>", " ", page)
    for number in ("K-shot", "0.300", "0.4321", "1.89 of 2", "this is a K-shot run"):
        assert number in text, number
    assert 'class="warning"' not in page


def test_a_one_shot_run_is_a_banner_above_all_numbers() -> None:
    page = _page(distance=0.02)
    banner = page.index(
        '<p class="warning" role="alert">This is a one-shot run: its 2 copies act as one. Codes are alike'
    )
    assert banner < page.index('class="tiles"')
    assert "<b>one-shot</b>" in page
