"""Every kind of work, on its smallest rows: the forms agree, and a whole row can be measured."""

import dataclasses

import pytest
from small_layers import SMALL

from benchmarks.layers import ConvLayer, LayerSet
from benchmarks.measuring.check import available
from benchmarks.measuring.machine import machine
from benchmarks.measuring.measure import Settings, measure
from benchmarks.place import Place
from benchmarks.works import WORKS
from kshot_ext import optim
from kshot_ext.ops.compact_gradient import CompactGradient

PLACES = [
    Place("cpu"),
    Place("cpu", "bfloat16"),
    Place("cpu", "float16"),
    Place("cuda"),
    Place("cuda", "tf32"),
    Place("cuda", "bfloat16"),
]
WHERE = [
    pytest.param(name, place, id=f"{name} {place}", marks=pytest.mark.gpu if place.device == "cuda" else ())
    for name, work in WORKS.items()
    for place in PLACES
    if place.precision in work.precisions
]


@pytest.mark.parametrize(("work", "place"), WHERE)
def test_forms_agree_and_are_measured(work, place):
    here = machine(place)
    for row in WORKS[work].rows(SMALL):
        contest = row.contest(place)
        once = dataclasses.replace(row, contest=lambda place, contest=contest: contest)  # building takes seconds
        with place.settings():
            result = measure(work, "small", once, Settings(pairs=2, compiled=False, memory=False), here)
        assert result.name == row.name
        assert result.ours.seconds > 0
        assert set(result.rivals) == set(contest.rivals)


@pytest.mark.parametrize("work", ["sgd", "training_step", "own_supernets"])
def test_gradients_of_dictionaries_are_compact(work, monkeypatch):
    """As a user's are: those of tensors that are no parameters would not be."""
    made = []
    of_use = CompactGradient.of_use
    monkeypatch.setattr(CompactGradient, "of_use", lambda *operands: made.append(1) or of_use(*operands))
    ours = WORKS[work].rows(SMALL)[0].contest().ours[0]
    ours.result()
    assert len(made) > 10


def test_per_sample_and_shared_codes_meet_pytorch_in_all_forms():
    for work, count in (("shared_code", 8), ("per_sample_code", 8)):
        contest = available(WORKS[work].rows(SMALL)[0].contest(), compiled=True)
        assert len(contest.rivals["pytorch"]) == count


def test_chains_agree_with_the_plain_layers():
    block = [
        ConvLayer("block expand", 6, 18, 1, 9),
        ConvLayer("block depthwise", 18, 18, 3, 9, stride=2, groups=18),
        ConvLayer("block project", 18, 6, 1, 5, activation=False),
        ConvLayer("head", 6, 18, 1, 5),
    ]
    (row,) = WORKS["chain"].rows(LayerSet("block", 4, 2, block))
    assert (row.name, row.count) == ("block", 1)
    # 3 passes over the input, 6 over hidden tensors, 8 over the output, with the chain's end.
    assert row.traffic == 4 * 4 * (3 * 6 * 81 + 6 * 18 * (81 + 25) + 8 * 6 * 25)
    for precision in ("float32", "bfloat16"):
        result = measure(
            "chain", "block", row, Settings(pairs=2, compiled=False, memory=False), machine(Place("cpu", precision))
        )
        assert set(result.rivals) == {"pytorch", "layer by layer"}


@pytest.mark.parametrize(
    ("work", "operator"), [("sgd", "sgd_update"), ("adamw", "adamw_update"), ("training_step", "sgd_update")]
)
def test_our_updates_take_compact_gradients(work, operator, monkeypatch):
    """Which they must be to be worth measuring: dictionaries are parameters, each with one use a step."""
    seen = []
    update = getattr(optim, operator)

    def recorded(weights, *lists, **settings):
        seen.append([len(uses) for weight, uses in zip(weights, lists[-1]) if weight.dim() > 1])
        update(weights, *lists, **settings)

    monkeypatch.setattr(optim, operator, recorded)
    contest = WORKS[work].rows(SMALL)[0].contest()
    form = contest.ours[0]
    form.run(*form.prepare())
    assert seen
    assert all(counts and set(counts) == {1} for counts in seen)
