"""A wrong form cannot win: it never reaches the clock."""

import pytest
import torch

from benchmarks.forms import Contest, Form
from benchmarks.measuring.check import WrongValuesError, available, check_values


def form(name, *values, **options):
    return Form(name, lambda: tuple(torch.tensor(value) for value in values), **options)


def test_equal_values_pass():
    contest = available(Contest([form("ours", [1.0, 2.0])], {"peer": [form("peer", [1.0, 2.001])]}), False)
    assert [kept.name for kept in contest.forms()] == ["ours", "peer"]


@pytest.mark.parametrize("wrong", [[1.0, 2.1], [float("nan"), 2.0], [1.0, 2.0, 3.0]])
def test_wrong_values_of_ours_stop_the_run(wrong):
    with pytest.raises(WrongValuesError, match="ours"):
        available(Contest([form("ours", wrong)], {"peer": [form("peer", [1.0, 2.0])]}), False)


def test_wrong_values_of_a_rival_stop_the_run():
    rivals = {"peer": [form("right", [1.0]), form("wrong", [2.0])]}
    with pytest.raises(WrongValuesError, match="wrong"):
        available(Contest([form("ours", [1.0])], rivals), False)


def test_a_wrong_gradient_is_seen_beside_a_right_output():
    with pytest.raises(WrongValuesError, match="tensor 1"):
        check_values("ours", torch.tensor([[1.0], [5.0]]), torch.tensor([[1.0], [4.0]]), 1e-3)


def test_no_values_are_no_agreement():
    with pytest.raises(WrongValuesError, match="expected 1 to 1 tensors, got 0"):
        check_values("ours", [], [torch.ones(1)], 1e-3)


def test_form_without_a_kernel_is_left_out():
    def refuse():
        raise ValueError("algorithm='fused' has no kernel for this")

    contest = Contest([form("ours", [1.0])], {"algorithm": [Form("fused", refuse, optional=True)]})
    contest.rivals["algorithm"].insert(0, form("mix", [1.0]))
    assert [kept.name for kept in available(contest, False).rivals["algorithm"]] == ["mix"]


def test_other_errors_of_an_optional_form_are_errors():
    def fail():
        raise ValueError("code must be [8]")

    contest = Contest([Form("fused", fail, optional=True)], {"peer": [form("peer", [1.0])]})
    with pytest.raises(ValueError, match="code must be"):
        available(contest, False)
