from __future__ import annotations

import numpy as np
import pytest
import torch

from kshot_ext.nas.methods.parts.code_findings import (
    CODE_NUMBERS,
    code_facts,
    code_findings,
    plot_codes,
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
    assert figure.name in method.figure_names
    shown = torch.tensor(figure.figure.axes[0].images[0].get_array())
    assert torch.equal(shown, method.simplex_net(paths).detach())


@pytest.mark.parametrize("codes", [[[0.25, 0.25, 0.25, 0.25], [0.26, 0.24, 0.25, 0.25]], [[1.0, 0.0], [0.0, 1.0]]])
def test_the_colour_of_a_coefficient_is_the_same_in_every_run(codes: list[list[float]]) -> None:
    axes = plot_codes(torch.tensor(codes), ["a", "b"]).axes[0]
    assert axes.images[0].get_clim() == (0, 1)
    assert torch.equal(torch.tensor(axes.images[0].get_array()), torch.tensor(codes))
    assert axes.get_xlabel() == "shot"


def test_codes_that_hardly_differ_look_alike() -> None:
    def colours(codes: list[float]) -> np.ndarray:
        return plot_codes(torch.tensor([codes]), ["a"]).axes[0].images[0].make_image(None, unsampled=True)[0]

    alike, apart = colours([0.24, 0.26]).astype(int)[0], colours([0.0, 1.0]).astype(int)[0]
    assert np.abs(alike[0] - alike[1]).max() <= 6
    assert np.abs(apart[0] - apart[1]).max() > 100


def test_codes_of_layers_are_drawn_as_their_mean() -> None:
    codes = torch.rand(3, 5, 4).softmax(dim=2)
    axes = plot_codes(codes, ["a", "b", "c"]).axes[0]
    torch.testing.assert_close(torch.tensor(axes.images[0].get_array()), codes.mean(dim=1))
    assert axes.get_xlabel() == "shot (mean over the layers)"


def test_the_codes_of_thousands_of_shots_can_be_drawn() -> None:
    figure = plot_codes(torch.rand(2, 4096).softmax(dim=1), ["a", "b"])
    assert figure.get_size_inches()[0] < 30
    assert len(figure.axes[0].get_xticks()) <= 40
