"""The table of converted networks: what a row says, on networks that need no library."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks import conversions


class Halved(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


def network(last: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.PReLU(), last)


def test_a_row_tells_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversions, "network", lambda name, size: (network(Halved(36, 5)), 5))
    with pytest.warns(UserWarning, match="convert left some layers"):
        row = conversions.row("mine", 64)
    held, total = 112 + 8, 112 + 8 + 1 + 185
    stays = f"1 `PReLU`: has no K-shot form; 1 `Halved`: {Halved.__module__}.Halved is a subclass of Linear"
    assert row == f"| mine | 2 | {held / total:.1%} | {stays} |"


class Noisy(nn.Linear):
    """No two calls are alike."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + torch.rand(1)


@pytest.mark.filterwarnings("ignore:convert left some layers:UserWarning")
def test_a_row_tells_what_differs_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversions, "network", lambda name, size: (network(Noisy(36, 5)), 5))
    assert "AssertionError: the converted network differs by" in conversions.row("mine", 64)
    monkeypatch.setattr(conversions, "network", lambda name, size: (nn.ReLU(), size))
    assert conversions.row("mine", 64).startswith("| mine | | | ValueError: ReLU has no layer to convert")


def test_networks_are_listed_once() -> None:
    assert len(set(conversions.NETWORKS)) == len(conversions.NETWORKS) > 45
    assert torch.is_grad_enabled()
