from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from kshot_ext.nas.findings import Findings
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.ranking.rank_correlation import RankCorrelation
from kshot_ext.nas.reporting.page import Picture
from kshot_ext.nas.reporting.report import render_report
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.spaces.architecture import Architecture

HOSTILE = "<script>alert('x')</script>\"&"
FOUND = Findings(
    heading="What is learnt",
    facts={"kind": "good", HOSTILE: HOSTILE},
    headline=("kind",),
    sentence="this went well",
)


def _page(findings: Findings | None = FOUND, networks: tuple[RetrainedNetwork, ...] | None = None) -> str:
    architecture = Architecture((0, 2))
    winner = RetrainedNetwork("winner", architecture, ("identity", "mb6_k5"), 1_234_567, 89_012, 0.5, 1.2345, 0.9876)
    random = RetrainedNetwork("random", architecture, ("identity", "mb6_k5"), 1_234_000, 88_000, 0.4, 2.5, 0.9)
    front = (Evaluated(Architecture((1, 2)), Scores(0.4321, 0.8765), 765_432, 54_321),)
    result = RunResult(
        networks=networks or (winner,),
        rivals=(random,),
        ensemble_accuracy=None if networks is None else 0.9912,
        considered=front,
        max_macs=2_000_000,
        score="loss",
        findings=findings,
        seconds={"supernet": 61.25, "search": 1.0},
    )
    picture = Picture(b"picture", HOSTILE, HOSTILE)
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
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;&amp;") == 10


def test_the_numbers_are_there(page: str) -> None:
    text = re.sub(r"<[^>]*>", " ", page)
    result = (
        "98.76%",
        "90.00%",
        "1,234,567",
        "89,012",
        "2,000,000",
        "61.2",
        "training.epochs",
        "1.2345",
        "ranked by their loss",
    )
    front, correlation = (
        ("12", "43.21%", "0.8765", "765,432", "54,321"),
        ("0.123", "undefined", "4.567", "0.234", "-0.345", "88.654", "92.321", "90.987"),
    )
    for number in (*result, *front, *correlation):
        assert number in text, number


def test_the_page_tells_what_the_method_found(page: str) -> None:
    assert "<h2>What is learnt</h2>" in page
    assert "<b>good</b><span>kind</span>" in page
    assert "this went well" in page
    assert 'class="warning"' not in page
    assert "What is learnt" not in _page(findings=None)
    assert "this went well" not in _page(replace(FOUND, sentence=""))


def test_a_warning_of_the_method_is_a_banner_above_all_numbers() -> None:
    page = _page(replace(FOUND, sentence="this went wrong.", warnings=("it is not what it was to be",)))
    banner = page.index('<p class="warning" role="alert">This went wrong.</p>')
    assert banner < page.index('class="tiles"')


def test_several_networks_and_their_ensemble_are_told_of() -> None:
    architectures = [Architecture((0, 2)), Architecture((1, 2))]
    networks = tuple(
        RetrainedNetwork(title, architecture, ("a", "b"), 10, 20, 0.5, 1.0, accuracy)
        for title, architecture, accuracy in zip(("winner", "winner-2"), architectures, (0.8111, 0.8222))
    )
    page = _page(networks=networks)
    rows = [row for row in page.split("<tr>") if row.startswith(("<td>winner", "<td>random"))]
    assert [re.findall(r"[\d.]+%", row)[0] for row in rows] == ["81.11%", "82.22%", "90.00%"]
    assert "<b>99.12%</b><span>test accuracy of the ensemble</span>" in page
    assert "ensemble" not in _page()
