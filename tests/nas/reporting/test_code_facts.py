from __future__ import annotations

from kshot_ext.nas.networks.code_analysis import Spectrum
from kshot_ext.nas.networks.code_report import CodeReport
from kshot_ext.nas.reporting.code_facts import code_banner, code_facts, verdict_sentence

APART = CodeReport(0.345, (0.2, 0.8), Spectrum((2.0, 1.0), 2, 1.89))
ALIKE = CodeReport(0.075, (0.5, 0.5), Spectrum((2.0, 0.01), 2, 1.03))
SINGLE = CodeReport(0.0, (1.0,), Spectrum((2.0,), 1, 1.0))


def test_numbers_are_told_of_copies_that_could_differ() -> None:
    assert code_facts(APART) == {
        "K-shot or one-shot": "K-shot",
        "distance of codes": "0.345",
        "least share of a copy": "0.2000",
        "effective rank of the weights": "1.89 of 2",
    }
    assert code_facts(SINGLE) == {"K-shot or one-shot": "one copy"}


def test_only_a_one_shot_run_of_several_copies_is_warned_of() -> None:
    assert code_banner(APART) == code_banner(SINGLE) == []
    assert verdict_sentence(APART) == "this is a K-shot run: codes differ, and all 2 copies are in use"
    assert verdict_sentence(SINGLE) == "this is a one-shot run, as one copy was asked for"
    sentence = verdict_sentence(ALIKE)
    assert sentence.startswith("this is a one-shot run: its 2 copies act as one. Codes are alike: 0.075 apart")
    assert "choose another codes.start, raise codes.free_share" in sentence
    (banner,) = code_banner(ALIKE)
    assert banner.startswith('<p class="warning" role="alert">This is a one-shot run')
    (banner,) = code_banner(ALIKE, "After 3 of 50 epochs")
    assert "After 3 of 50 epochs this is a one-shot run" in banner
