"""The benchmark of once-for-all's supernet: what it compares before it times, on a small network of ours."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import typer
from elastic_blocks import ElasticNet
from torch import nn

from benchmarks import sliced_supernets
from benchmarks.measuring.check import WrongValuesError


class Supernet(ElasticNet):
    """With the methods of the library's."""

    def set_active_subnet(self, seed: int) -> None:
        self.choose(seed)


SETTINGS = [{"seed": 1}, {"seed": 2}]


def changed(net: nn.Module) -> nn.Module:
    net = copy.deepcopy(net)
    with torch.no_grad():
        net.blocks[0].point_linear.conv.conv.weight[0, 0] += 1e-6
    return net


def test_equal_networks_pass(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sliced_supernets, "SIDES", dict.fromkeys(sliced_supernets.SIDES, copy.deepcopy))
    sliced_supernets.compare(Supernet(), SETTINGS)
    exact, rounded = capsys.readouterr().out.splitlines()
    assert exact.startswith("largest differences of scores and gradients in torch.float64: theirs ")
    assert "e-1" in exact
    theirs, *ours = [each.split()[-1] for each in rounded.split(", ")]
    assert ours == [theirs, theirs]


@pytest.mark.parametrize("side", ["unfused", "adopted"])
def test_others_do_not(monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    sides = {name: changed if name == side else copy.deepcopy for name in sliced_supernets.SIDES}
    monkeypatch.setattr(sliced_supernets, "SIDES", sides)
    with pytest.raises(
        WrongValuesError, match=f"ours differ by more than 1.0e-09 in torch.float64: theirs .*{side} .*e-0"
    ):
        sliced_supernets.compare(Supernet(), SETTINGS)


def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="is no checkout of once-for-all: it has no ofa/imagenet_classif"):
        sliced_supernets.network(tmp_path)
