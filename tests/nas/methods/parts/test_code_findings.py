from __future__ import annotations

import pytest
import torch

from kshot_ext.nas.methods.parts.code_findings import (
    CODE_NUMBERS,
    code_facts,
    code_findings,
    codes_map,
    verdict_sentence,
)
from kshot_ext.nas.networks.code_analysis import Spectrum
from kshot_ext.nas.networks.code_report import VERDICTS, CodeReport
from kshot_ext.nas.tables import flatten
from kshot_ext.nas.training.settings import TrainingSettings

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
    assert code_findings(APART).warnings == code_findings(SINGLE).warnings == ()
    assert verdict_sentence(APART) == "this is a K-shot run: codes differ, and all 2 copies are in use"
    assert verdict_sentence(SINGLE) == "this is a one-shot run, as one copy was asked for"
    sentence = verdict_sentence(ALIKE)
    assert sentence.startswith("this is a one-shot run: its 2 copies act as one. Codes are alike: 0.075 apart")
    assert "choose another codes.start, raise codes.free_share" in sentence
    findings = code_findings(ALIKE)
    assert findings.sentence == sentence
    (warning,) = findings.warnings
    assert warning.startswith("this is a one-shot run, as codes are alike: 0.075 apart")
    assert [findings.facts[name] for name in findings.headline] == ["one-shot"]


def test_files_of_results_have_the_numbers_that_comparisons_look_for() -> None:
    findings = code_findings(APART)
    assert findings.results["codes"]["entry_shares"] == (0.2, 0.8)
    found = flatten(findings.results) | dict(findings.ranking)
    values = {number.name: found[number.name] for number in CODE_NUMBERS}
    expected = ("K-shot", 0.345, 0.2, 1.89)
    assert tuple(values.values()) == (*expected, *expected)
    assert all(number.words == VERDICTS for number in CODE_NUMBERS if number.name.endswith("verdict"))


def test_a_method_draws_codes_where_there_are_architectures(make_loop, tiny_space) -> None:
    method = make_loop(TrainingSettings(epochs=1, batch_size=8, warmup_epochs=0), shots=3).method
    assert list(method.figures([], [])) == []
    paths = [tiny_space.cheapest(), tiny_space.largest()]
    (figure,) = method.figures(paths, [])
    torch.testing.assert_close(torch.tensor(figure.content.values), method.simplex_net(paths).detach())


@pytest.mark.parametrize("codes", [[[0.25, 0.25, 0.25, 0.25], [0.26, 0.24, 0.25, 0.25]], [[1.0, 0.0], [0.0, 1.0]]])
def test_the_shades_of_coefficients_are_the_coefficients(codes: list[list[float]]) -> None:
    """So codes that hardly differ look alike, in every run."""
    shades = codes_map(torch.tensor(codes), ["a", "b"])
    torch.testing.assert_close(torch.tensor(shades.values), torch.tensor(codes))
    assert (shades.rows, shades.column_label) == (["a", "b"], "shot")
    assert shades.columns == [str(shot) for shot in range(1, len(codes[0]) + 1)]
    assert shades.mark == (1 / len(codes[0]), f"the equal share 1/{len(codes[0])}")


def test_codes_of_layers_are_shown_as_their_mean() -> None:
    codes = torch.rand(3, 5, 4).softmax(dim=2)
    shades = codes_map(codes, ["a", "b", "c"])
    torch.testing.assert_close(torch.tensor(shades.values), codes.mean(dim=1))
    assert shades.column_label == "shot (mean over the layers)"


def test_of_thousands_of_shots_neighbours_share_a_column() -> None:
    codes = torch.rand(2, 4100).softmax(dim=1)
    shades = codes_map(codes, ["a", "b"])
    assert len(shades.columns) == len(shades.values[0]) <= 64
    assert (shades.columns[0], shades.columns[-1]) == ("1 to 65", "4096 to 4100")
    assert shades.values[1][0] == codes[1, :65].max()
    assert shades.values[1][-1] == codes[1, 4095:].max()
