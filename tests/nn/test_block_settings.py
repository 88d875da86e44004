"""Forwards that branch by, or compute with, what changes between two calls or two blocks of a class."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fused_models import fused_copy, seeded
from torch import Tensor, nn

import kshot_ext

CHANNELS = 4


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        conv, norm = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS)
        self.layers, self.others = nn.Sequential(conv, norm), nn.Sequential(nn.BatchNorm2d(CHANNELS))
        self.register_buffer("scale", torch.rand(CHANNELS))
        self.register_buffer("adds", torch.tensor(False))
        self.kept = torch.tensor(0.5)


class _ByABuffer(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return y + x if self.adds else y


class _ByATensor(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return y + x if self.kept > 1 else y


class _ByWhetherThereAreLayers(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        if self.others:
            return y + self.others(x)
        return y


class _Scaled(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) * self.scale.view(1, -1, 1, 1)


def set_buffer(block: nn.Module) -> None:
    block.adds.fill_(True)


def replace_tensor(block: nn.Module) -> None:
    block.kept = torch.tensor(2.0)


def empty(block: nn.Module) -> None:
    del block.others[0]


def rescale(block: nn.Module) -> None:
    block.scale.mul_(3)


CHANGES = {_ByABuffer: set_buffer, _ByATensor: replace_tensor, _ByWhetherThereAreLayers: empty, _Scaled: rescale}


@pytest.mark.parametrize("kind", CHANGES)
@torch.no_grad()
def test_each_call_looks_at_the_block_as_it_is(kind: type[nn.Module]) -> None:
    change: Callable[[nn.Module], None] = CHANGES[kind]
    plain = seeded(kind).eval()
    fused = fused_copy(plain)
    x = torch.randn(2, CHANNELS, 5, 5)
    before = plain(x)
    torch.testing.assert_close(fused(x), before)
    for model in (plain, fused):
        change(model)
    assert not torch.equal(plain(x), before)
    torch.testing.assert_close(fused(x), plain(x))


class _WithAnOption(_Block):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, flag: bool = False) -> Tensor:
        if mask is None and not flag:
            return self.layers(x)
        return self.others(x)


@torch.no_grad()
def test_options_that_are_not_given_have_their_defaults() -> None:
    plain = seeded(_WithAnOption).eval()
    fused = fused_copy(plain)
    assert type(fused) is not _WithAnOption
    x = torch.randn(2, CHANNELS, 5, 5)
    torch.testing.assert_close(fused(x), plain(x))
    torch.testing.assert_close(fused(x, x), plain(x, x))
    torch.testing.assert_close(fused(x, flag=True), plain(x, flag=True))


class _TakesItsInputForAnOption(_Block):
    share = 0.0

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        y = self.layers(x)
        if shortcut is None:
            shortcut = x
        if self.share:
            y = y * float(self.share)
        return y + shortcut


@torch.no_grad()
def test_options_may_be_replaced_once_they_were_asked_for() -> None:
    plain = seeded(_TakesItsInputForAnOption).eval()
    fused = fused_copy(plain)
    assert type(fused) is not _TakesItsInputForAnOption
    x = torch.randn(2, CHANNELS, 5, 5)
    for share in (0.0, 0.5):
        plain.share = fused.share = share
        torch.testing.assert_close(fused(x), plain(x))
        torch.testing.assert_close(fused(x, 2 * x), plain(x, 2 * x))


class _AsksAgain(_Block):
    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        shortcut = self.others(x)
        return self.layers(x) if shortcut is None else x


def test_options_are_not_asked_for_behind() -> None:
    block = _AsksAgain()
    block.conv = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
    assert "has 'shortcut is None'" in kshot_ext.fuse(block).left["conv"]


class _PartOfOurName(_Block):
    def __init__(self) -> None:
        super().__init__()
        self.run = self.layers

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.run(x))


class _MethodOfOurName(_Block):
    def run(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.run(x))


@pytest.mark.parametrize("kind", [_PartOfOurName, _MethodOfOurName])
@torch.no_grad()
def test_names_of_the_fused_form_may_be_taken(kind: type[nn.Module]) -> None:
    plain = seeded(kind).eval()
    fused = fused_copy(plain)
    x = torch.randn(2, CHANNELS, 5, 5)
    torch.testing.assert_close(fused(x), plain(x))
    assert isinstance(fused.run(x), Tensor)
    block = nn.Sequential(kind())
    block[0].layers = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
    block[0].norm = nn.BatchNorm2d(CHANNELS)
    report = kshot_ext.fuse(block)
    assert "has a 'run' of its own" in report.left["0.layers"]
