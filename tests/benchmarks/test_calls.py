"""The benchmark of calls runs every form of a layer, and checks what it computes."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from benchmarks import calls
from benchmarks.layers import ConvLayer
from benchmarks.measuring.check import WrongValuesError

LAYER = ConvLayer("pointwise", 4, 4, 1, 2)
CONVOLUTION = calls.Call("pointwise", "4->4", partial(calls.functions, LAYER))
OTHERS = {
    "norm": partial(calls.norm_functions, 4, 2),
    "linear": partial(calls.linear_functions, 4, 3),
    "link": partial(calls.link_functions, 4, 2),
}


def test_every_form_is_timed_in_every_pass() -> None:
    found = calls.row(CONVOLUTION, pairs=1)
    assert list(found) == ["inference", "forward", "forward + backward"]
    for times in found.values():
        assert tuple(times) == calls.FORMS
        assert all(time > 0 for time in times.values())


@pytest.mark.parametrize("functions", OTHERS.values(), ids=OTHERS)
def test_other_operators_are_timed_against_plain_weights(functions: partial) -> None:
    for times in calls.row(calls.Call("any", "any", functions), pairs=1).values():
        assert tuple(times) == calls.FORMS[:3]


def test_wrong_values_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = calls.product_then_conv
    monkeypatch.setattr(calls, "product_then_conv", lambda *operands, layer: 1.01 * right(*operands, layer))
    with pytest.raises(WrongValuesError, match="product: tensor 0 is off"):
        calls.row(CONVOLUTION, pairs=1)


def test_the_passes_keep_what_they_say() -> None:
    runs = calls.passes(lambda x, w: x * w, (torch.ones(2), torch.full((2,), 3.0)))
    assert [len(run()) for run in runs.values()] == [1, 1, 3]
    _, of_input, of_weight = runs["forward + backward"]()
    assert (of_input.tolist(), of_weight.tolist()) == ([3.0, 3.0], [1.0, 1.0])
