from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import pytest

from kshot_ext.nas.findings import Findings
from kshot_ext.nas.runs.results import RunResult

HOSTILE = "<script>alert('x')</script>\"&--><!-- ]]></template></style>"
FOUND = Findings(heading="What is learnt", facts={"kind": "good"}, headline=("kind",), sentence="this went well")
Make = Callable[..., str]


@pytest.fixture
def page(make_page: Make) -> str:
    return make_page(HOSTILE)


class _Tags(HTMLParser):
    """Keeps the tags, and checks that each is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.count: Counter[str] = Counter()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_else(page: str) -> None:
    tags = _Tags(page)
    assert tags.open == []
    assert tags.links == []
    assert "url(" not in page
    assert "@import" not in page


def test_text_from_outside_is_escaped_everywhere(page: str) -> None:
    assert HOSTILE not in page
    tags = _Tags(page)
    assert tags.count["script"] == 2  # the page's own: data and program
    assert (tags.count["style"], tags.count["template"]) == (1, 1)
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;&amp;") > 20


def test_the_policy_allows_the_pages_own_program_and_style_only(page: str) -> None:
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])
    style, program = re.search(r"<style>(.*)</style>", page, re.DOTALL)[1], page.rpartition("<script>")[2]
    for kind, text in {"style": style, "script": program.partition("</script>")[0]}.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert " style=" not in page  # the policy would not let them be
    assert not re.search(r"<[^>]* on\w+=", page)


def test_the_data_for_the_program_are_all_architectures(page: str, found: RunResult) -> None:
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert [one["key"] for one in data] == ["02111111", "12111111", "00000000", "22222222"]
    assert data[0]["command"] == f"kshot-ext retrain {HOSTILE} --architecture 02111111"
    assert data[0]["facts"]["mean of 3 trainings"] == "94.59%"
    assert data[2]["facts"] == {
        "validation loss (nats)": "1.8765",
        "validation accuracy": "43.21%",
        "multiply-accumulates": f"{found.considered[2].macs:,}",
        "parameters": f"{found.considered[2].parameters:,}",
    }
    assert [one["title"] for one in data] == ["winner", "random", "on the Pareto front", ""]


def test_the_numbers_are_there(page: str, found: RunResult) -> None:
    text = re.sub(r"<[^>]*>", " ", page)
    result = (
        "98.76%",
        "80.00%",
        f"{found.winner.macs:,}",
        f"{found.winner.parameters:,}",
        "2,000,000",
        "61.2",
        "training.epochs",
        "1.2345",
        "ranked by their loss",
        "0123456789abcdef" * 4,
    )
    front, correlation = (
        ("00000000", "43.21%", "1.8765", f"{found.considered[2].macs:,}"),
        ("0.123", "undefined", "4.567", "0.234", "-0.345", "88.654", "92.321", "90.987"),
    )
    for number in (*result, *front, *correlation):
        assert number in text, number


def test_the_page_tells_what_the_method_found(page: str, make_page: Make) -> None:
    assert "<h2>What is learnt</h2>" in page
    assert "<b>good</b><span>kind</span>" in page
    assert "This went well" in page
    assert 'class="warning"' not in page
    assert "What is learnt" not in make_page(findings=None)
    assert "This went well" not in make_page(findings=replace(FOUND, sentence=""))


def test_a_warning_of_the_method_is_a_banner_above_all_numbers(make_page: Make) -> None:
    page = make_page(findings=replace(FOUND, sentence="this went wrong.", warnings=("it is not what it was to be",)))
    banner = page.index('<p class="warning" role="alert">This went wrong.</p>')
    assert banner < page.index('class="tiles"')


@pytest.mark.parametrize(("share", "words"), [(1.04, "of its cost"), (2.0, "of 200% of its cost, as the space")])
def test_rivals_of_other_cost_are_not_called_of_equal_cost(
    make_page: Make, found: RunResult, share: float, words: str
) -> None:
    rival = replace(found.rivals[0], macs=round(share * found.winner.macs))
    page = make_page(rivals=(rival,))
    assert f"1 random network {words}" in " ".join(page.split())
    assert "cost about as much" not in page


def test_several_networks_and_their_ensemble_are_told_of(make_page: Make, found: RunResult) -> None:
    second = replace(found.winner, title="winner-2", test_accuracy=0.8222, test_accuracies=(0.8222,))
    page = make_page(networks=(found.winner, second), ensemble_accuracy=0.9912)
    rows = re.findall(r"<tr data-key[^>]*><td>(winner|winner-2|random)</td><td[^>]*>([\d.]+%)", page)
    assert rows == [("winner", "98.76%"), ("winner-2", "82.22%"), ("random", "80.00%")]
    assert "<b>99.12%</b><span>test accuracy of the ensemble</span>" in page
    assert "ensemble" not in make_page()


def test_a_search_that_considered_nothing_has_a_page(make_page: Make) -> None:
    page = make_page(considered=(), front=())
    assert "<h2>Search</h2>" not in page
    assert "<h2>Pareto front</h2>" not in page
    assert "Architecture <code>02111111</code>" in page
