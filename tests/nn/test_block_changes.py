"""Blocks that change after they were fused, in ways that their forward notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import pytest
import torch
from fused_models import fused_copy, seeded
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import kshot_ext

CHANNELS = 4
ACTIVATION = F.relu


def images() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, CHANNELS, 5, 4, generator=generator).contiguous(memory_format=torch.channels_last)


def pair() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.others, act = pair(), pair(), nn.ReLU()
        self.inner = nn.Sequential(*pair(), act)
        self.act = self.same = act
        self.gain = nn.Parameter(torch.full((1, CHANNELS, 1, 1), 0.5))
        self.gain_too = self.gain
        self.mode: object = 1

    def helper(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _Helped(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.helper(x) + x


class _ByExactValue(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        if self.mode is True:
            y = y + x
        return y


class _DividedByMode(_Block):
    def __init__(self) -> None:
        super().__init__()
        self.mode = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.layers(x)) / self.mode


class _Private(_Block):
    def __init__(self) -> None:
        super().__init__()
        self.__skips = True

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        if self.__skips:
            y = y + x
        return y


class _ByAPart(_Block):
    def forward(self, x: Tensor) -> Tensor:
        norm = self.others[1]
        y = self.layers(x)
        return y + x if norm.training else y


class _ByAnotherName(_Block):
    def forward(self, x: Tensor) -> Tensor:
        layers = self.layers
        return layers.forward(x) + x


class _OnePartTwice(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.layers(x)) + self.same(self.others(x))


class _OnePartInside(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.layers(self.inner(x)))


class _OneTensorTwice(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * self.gain + x * self.gain_too


class _CallsByAGlobalName(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATION(self.layers(x))


def set_attribute(name: str, make: Callable[[], object]) -> Callable[[nn.Module], None]:
    return lambda block: setattr(block, name, make())


def replace_helper(block: nn.Module) -> None:
    block.helper = MethodType(lambda self, x: 3 * self.layers(x), block)


def name_everything_run(block: nn.Module) -> None:
    for module in block.modules():
        module.run = module.plain_kind = "the seventh"


def replace_activation(block: nn.Module) -> None:
    global ACTIVATION
    ACTIVATION = F.silu


CHANGES = {
    "a method of one block": (_Helped, replace_helper),
    "names of the fused form": (_Helped, name_everything_run),
    "a value that equals the one before": (_ByExactValue, set_attribute("mode", lambda: True)),
    "the sign of a zero": (_DividedByMode, set_attribute("mode", lambda: -0.0)),
    "a private attribute": (_Private, set_attribute("_Private__skips", lambda: False)),
    "the mode of a part": (_ByAPart, lambda block: block.others.eval()),
    "what is in a part": (_ByAnotherName, lambda block: block.layers.append(nn.Tanh())),
    "one name of a part": (_OnePartTwice, set_attribute("same", nn.Tanh)),
    "a part inside a part": (_OnePartInside, lambda block: block.inner.__setitem__(2, nn.Tanh())),
    "one name of a tensor": (_OneTensorTwice, set_attribute("gain_too", lambda: nn.Parameter(torch.tensor(3.0)))),
    "a name out of the module": (_CallsByAGlobalName, replace_activation),
}


@pytest.fixture(autouse=True)
def _activation_as_it_was() -> Iterator[None]:
    global ACTIVATION
    before = ACTIVATION
    yield
    ACTIVATION = before


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("what", CHANGES)
@torch.no_grad()
def test_the_next_call_sees(what: str, training: bool) -> None:
    kind, change = CHANGES[what]
    plain = seeded(lambda: nn.Sequential(kind(), *pair())).train(training)
    fused = fused_copy(plain)
    for _ in range(2):
        for ours, expected in ((fused, plain), (fused[0], plain[0])):
            torch.testing.assert_close(ours(images()), expected(images()), rtol=1e-4, atol=1e-4, equal_nan=True)
        change(plain[0])
        change(fused[0])


class _PatchedLater(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.helper(x)


@pytest.mark.parametrize("name", ["forward", "helper"])
@torch.no_grad()
def test_methods_of_the_class_may_be_replaced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = seeded(_PatchedLater).eval()
    fused = fused_copy(plain)
    assert type(fused) is not _PatchedLater
    before = fused(images())
    monkeypatch.setattr(_PatchedLater, name, lambda self, x: self.others(x) - x)
    assert not torch.allclose(plain(images()), before)
    torch.testing.assert_close(fused(images()), plain(images()), rtol=1e-4, atol=1e-4)


class _Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@torch.no_grad()
def test_parametrized_blocks_go_back() -> None:
    plain = seeded(_OneTensorTwice).eval()
    fused = fused_copy(plain)
    for block in (plain, fused):
        parametrize.register_parametrization(block, "gain", _Twice())
    torch.testing.assert_close(fused(images()), plain(images()))
    kshot_ext.unfuse(fused)
    torch.testing.assert_close(fused(images()), plain(images()))
    parametrize.remove_parametrizations(fused, "gain")
    assert type(fused) is _OneTensorTwice


def test_a_compiled_block_runs_compiled() -> None:
    model = nn.Sequential(seeded(_Helped), *pair())
    kshot_ext.fuse(model)
    called = []
    model[0]._compiled_call_impl = lambda x: called.append(x) or x  # as `model[0].compile()` leaves it
    model(images())
    assert called


def doubled(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda self, *inputs: 2 * forward(self, *inputs)


class _OwnSequence(nn.Sequential):
    pass


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, _OwnSequence])
@torch.no_grad()
def test_forwards_of_all_layers_of_a_class_may_be_replaced(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = seeded(lambda: nn.Sequential(*pair(), nn.ReLU(), _OwnSequence(*pair()))).eval()
    fused = fused_copy(plain)
    before = fused(images())
    monkeypatch.setattr(kind, "forward", doubled(kind.forward))
    assert not torch.allclose(plain(images()), before)
    torch.testing.assert_close(fused(images()), plain(images()), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_convolution_of_one_layer_may_be_replaced() -> None:
    """As programs do that make images which join at their borders."""
    plain = seeded(lambda: nn.Sequential(*pair(), *pair())).eval()
    fused = fused_copy(plain)
    for model in (plain, fused):
        model[2]._conv_forward = MethodType(doubled(nn.Conv2d._conv_forward), model[2])
    torch.testing.assert_close(fused(images()), plain(images()), rtol=1e-4, atol=1e-4)
