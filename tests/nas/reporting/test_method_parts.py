from __future__ import annotations

from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.findings import Findings
from kshot_ext.nas.reporting.method_parts import banner, provenance, tiles
from kshot_ext.nas.runs.run_card import RunCard
from kshot_ext.nas.runs.settings import RunSettings

FOUND = Findings(heading="Found", facts={"one": "1", "two": "2"}, headline=("two",), sentence="all is well")


def test_only_warnings_make_a_banner() -> None:
    assert banner(None) == banner(FOUND) == ""
    warned = Findings(heading="Found", facts={}, sentence="this is bad", warnings=("why",))
    assert banner(warned) == "This is bad"
    assert banner(warned, "After 3 of 50 epochs") == "After 3 of 50 epochs this is bad"


def test_the_headline_becomes_tiles() -> None:
    assert tiles(None) == {}
    assert tiles(FOUND) == {"two": "2"}


def test_a_page_says_what_began_the_run_and_of_which_images(tiny_splits: DataSplits, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/kshot-ext", "search", "--out", "my run"])
    card = RunCard.new("search", RunSettings(), "digits", tiny_splits)
    facts = provenance(card)
    assert facts["command line"] == "kshot-ext search --out 'my run'"
    assert facts["begun"] == card.begun <= facts["reported"]
    assert facts["SHA-256 of data"] == tiny_splits.digest()
    assert {"torch", "Python", "CPU", "kshot_ext", "run"} <= facts.keys()
