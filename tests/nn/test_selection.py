"""Which layers a user chooses by name or function."""

from __future__ import annotations

import pytest
from torch import nn

import kshot_ext

pytestmark = pytest.mark.filterwarnings("error")


def model() -> nn.Module:
    block = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    return nn.ModuleDict({"stem": nn.Linear(4, 4), "blocks": nn.ModuleList([block, nn.Linear(4, 4)])})


@pytest.mark.parametrize(
    ("chosen", "swapped"),
    [
        ({"include": "stem"}, ["stem"]),
        ({"include": "blocks"}, ["blocks.0.0", "blocks.0.1", "blocks.1"]),
        ({"include": "blocks.?.*"}, ["blocks.0.0", "blocks.0.1"]),
        ({"include": ["stem", "*.1"]}, ["stem", "blocks.0.1", "blocks.1"]),
        ({"exclude": "blocks.0"}, ["stem", "blocks.1"]),
        ({"include": "blocks", "exclude": ("blocks.1",)}, ["blocks.0.0", "blocks.0.1"]),
        ({"include": lambda name, module: isinstance(module, nn.LayerNorm)}, ["blocks.0.1"]),
        ({"exclude": lambda name, module: name.endswith("1")}, ["stem", "blocks.0.0"]),
    ],
)
def test_only_chosen_layers_are_swapped(chosen: dict, swapped: list[str]) -> None:
    """And nobody is warned of the others."""
    plain = model()
    report = kshot_ext.conversion_report(kshot_ext.convert(plain, 2, **chosen))
    assert list(report.swapped) == swapped
    before = kshot_ext.conversion_report(plain, **chosen)
    would = [name for name, why in before.left.items() if why == "it is plain, and convert would swap it"]
    assert would == swapped
    by_choice = {why for name, why in before.left.items() if name not in swapped}
    assert by_choice <= {"include does not name it", "exclude names it"}


@pytest.mark.parametrize("exclude", ["0", lambda name, module: isinstance(module, nn.MultiheadAttention)])
def test_an_attention_is_left_whole(exclude) -> None:
    """Its forward reads the weight of `out_proj` itself; nobody is warned of what was named."""
    plain = nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 4))
    report = kshot_ext.conversion_report(kshot_ext.convert(plain, 2, exclude=exclude))
    assert list(report.swapped) == ["1"]
    left = kshot_ext.conversion_report(plain, exclude=exclude).left
    reason = "exclude names it" if exclude == "0" else "exclude names the MultiheadAttention that reads its weight"
    assert left == {"0": "exclude names it", "0.out_proj": reason, "1": "it is plain, and convert would swap it"}


def test_a_layer_tied_to_one_that_is_left_stays() -> None:
    tied = model()
    tied["stem"].weight = tied["blocks"][1].weight
    with pytest.warns(UserWarning, match=r"stem: its weight is also blocks\.1\.weight, which stays as it is"):
        kshot = kshot_ext.convert(tied, 2, exclude="blocks.1")
    assert kshot["stem"].weight is kshot["blocks"][1].weight


def test_a_layer_of_two_names_goes_by_both() -> None:
    shared = model()
    shared["again"] = shared["stem"]
    assert "stem" not in kshot_ext.conversion_report(kshot_ext.convert(shared, 2, exclude="again")).swapped


def test_choices_are_checked() -> None:
    with pytest.raises(ValueError, match="exclude: no module of ModuleDict has a name like 'block'"):
        kshot_ext.convert(model(), 2, exclude=["stem", "block"])
    with pytest.raises(ValueError, match="include: no module of ModuleDict has a name like 'head"):
        kshot_ext.conversion_report(model(), include="head.*")
    with pytest.raises(TypeError, match="include must be a pattern, patterns or a function of name and module, got 3"):
        kshot_ext.convert(model(), 2, include=3)
    with pytest.raises(TypeError, match="exclude must be a pattern"):
        kshot_ext.convert(model(), 2, exclude=[nn.Linear])
    with pytest.raises(ValueError, match=r"no layer to convert.*\n  stem: exclude names it"):
        kshot_ext.convert(model(), 2, exclude="*")
