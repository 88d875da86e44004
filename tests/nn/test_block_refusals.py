"""Forwards that are not plain, though they look so, and classes that are more than they look like: left alone."""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fused_models import fused_copy, seeded
from torch import Tensor, nn
from torch.nn import functional as F

import kshot_ext

CHANNELS = 4


def images() -> Tensor:
    return torch.randn(3, CHANNELS, 5, 4, generator=torch.Generator().manual_seed(2))


def pair() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS))


class _Block(nn.Module):
    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.others, self.same = pair(), pair(), nn.Identity()
        self.maybe = _GivesNone()

    @property
    def counted(self) -> float:
        self.calls += 1
        return float(self.calls)

    @property
    def unavailable(self) -> float:
        raise RuntimeError("there is none")


class _GivesNone(nn.Module):
    def forward(self, _: Tensor) -> None:
        for _ in range(2):
            pass


class _ReadsAProperty(_Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * self.counted


class _MightReadAProperty(_Block):
    def forward(self, x: Tensor) -> Tensor:
        if self.calls == 0:
            return self.layers(x) + x
        return self.layers(x) * self.unavailable


class _FillsADefault(_Block):
    def forward(self, x: Tensor, seen: list[int] = []) -> Tensor:  # noqa: B006
        seen.append(1)
        return self.layers(x) * len(seen)


class _FillsADefaultQuietly(_Block):
    def forward(self, x: Tensor, *, seen: Any = []) -> Tensor:  # noqa: B006
        seen.sort()
        return self.layers(x)


class _AsksForNone(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y, extra = self.layers(x), self.maybe(x)
        if extra is not None:
            y = y + extra
        return y


class _AsksForNoneInside(_Block):
    def added(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        return x if extra is None else x + extra

    def forward(self, x: Tensor) -> Tensor:
        return self.added(self.layers(x), self.maybe(x))


class _AsksForTheSame(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.same(x)
        z = self.layers(x)
        return z + y if y is x else z


class _DrawsBeforeItAsks(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        if torch.rand(()) > 2 or self.training is not None:
            y = y + x
        return y


class _LeavesTheGraph(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        y.detach_()
        return y


class _IsAnother(_Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        if self.training:
            self = self.others
        return y + self.forward(x)


class _IsALambda(_Block):
    forward = lambda self, x: self.layers(x) + x  # noqa: E731


def _with_relu_of_its_own() -> nn.Module:
    def relu(x: Tensor) -> Tensor:
        return x * torch.rand(())

    class Block(_Block):
        def forward(self, x: Tensor) -> Tensor:
            return relu(self.layers(x))

    return Block()


relu = F.relu  # the name of the function above means this one here


class _IsCalledInItsOwnWay(_Block):
    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _FindsMore(_Block):
    def __getattr__(self, name: str) -> Any:
        return 2.0 if name == "factor" else super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * self.factor


class _HalfOfIt(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(*pair(), *pair())

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(list(self._modules.values())[:2])


registry: dict[str, type] = {}


class _Registered(_Block):
    def __init_subclass__(cls, *, tag: str) -> None:
        registry[tag] = cls


class _Registers(_Registered, tag="it"):
    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _Meta(type):
    def __init__(cls, name: str, bases: tuple[type, ...], members: dict[str, Any]) -> None:
        super().__init__(name, bases, members)
        registry[name] = cls


class _RegistersByMeta(_Block, metaclass=_Meta):
    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


REASONS: dict[Callable[[], nn.Module], str] = {
    _ReadsAProperty: "its forward reads 'self.counted'",
    _MightReadAProperty: "its forward reads 'self.unavailable'",
    _FillsADefault: "its forward takes 'self, x: Tensor, seen: list[int]=[]'",
    _FillsADefaultQuietly: "its forward takes 'self, x: Tensor, *, seen: Any=[]'",
    _AsksForNone: "its forward has 'extra is not None'",
    _AsksForNoneInside: "its added has 'extra is None'",
    _AsksForTheSame: "its forward has 'y is x'",
    _DrawsBeforeItAsks: "its forward calls 'torch.rand'",
    _LeavesTheGraph: "its forward calls 'y.detach_'",
    _IsAnother: "its forward writes to 'self'",
    _IsALambda: "the code of its forward cannot be read",
    _with_relu_of_its_own: "the code of its forward cannot be read",
    _IsCalledInItsOwnWay: "is called in a way of its own",
    _FindsMore: "finds its attributes in a way of its own",
    _HalfOfIt: "its forward has 'for module in self:'",
    _Registers: "does something where a class is made of it",
    _RegistersByMeta: "does something where a class is made of it",
}


@pytest.mark.parametrize("make", REASONS)
@torch.no_grad()
def test_is_left_and_told(make: Callable[[], nn.Module]) -> None:
    known = dict(registry)
    block = seeded(make).train()
    block.norm = nn.BatchNorm2d(CHANNELS)  # something to fuse, which nobody calls
    block.conv = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
    report = kshot_ext.fuse(block)
    assert REASONS[make] in report.left["conv"]
    assert registry == known
    plain = seeded(lambda: nn.Sequential(make(), *pair()))
    fused = fused_copy(plain)
    for _ in range(2):
        made = []
        for model in (fused, plain):
            torch.manual_seed(1)
            made.append(model(images()))
        torch.testing.assert_close(*made, rtol=1e-4, atol=1e-4)


SOURCE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))

    def forward(self, x):
        return self.layers(x) OPERATOR x
"""


@pytest.mark.parametrize(("first", "second"), [("+", "-"), ("* 2.0 +", "* 3.0 +"), ("+", "+")])
def test_code_is_read_only_if_it_is_what_runs(first: str, second: str, tmp_path: Path) -> None:
    """Notebooks and long sessions run code whose file has changed."""
    path, names = tmp_path / "block.py", {"__name__": "block"}
    path.write_text(SOURCE.replace("OPERATOR", first))
    exec(compile(path.read_text(), str(path), "exec"), names)
    path.write_text(SOURCE.replace("OPERATOR", second))
    linecache.clearcache()
    block: Any = names["Block"]
    model = block()
    report = kshot_ext.fuse(nn.Sequential(model, nn.BatchNorm2d(4)))
    assert (type(model) is block) == (first != second), report


class _IsTraced(_Block):
    mode = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + self.mode


@torch.no_grad()
def test_other_threads_do_not_notice_that_a_forward_is_traced() -> None:
    other, traced = pair().eval(), fused_copy(seeded(_IsTraced).eval())
    expected, ended = other(images()), threading.Event()
    errors = []

    def watch() -> None:
        while not ended.is_set():
            try:
                assert torch.equal(other(images()), expected)
            except Exception as error:
                errors.append(error)
                return

    interval, watcher = sys.getswitchinterval(), threading.Thread(target=watch)
    sys.setswitchinterval(1e-5)
    try:
        watcher.start()
        for traced.mode in range(40):  # each is traced anew
            traced(images())
    finally:
        ended.set()
        watcher.join()
        sys.setswitchinterval(interval)
    assert not errors
