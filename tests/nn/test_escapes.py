"""Layers that a parent hands to code that cannot be read stay; those that it only calls, loops over or joins do not."""

from __future__ import annotations

import functools
import operator
from typing import Any

import pytest
import torch
from conversion import check_conversion
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

pytestmark = [
    pytest.mark.usefixtures("native_backend", "one_thread"),
    pytest.mark.filterwarnings("ignore:convert left:UserWarning"),
]


def size_of(layer: nn.Module) -> Tensor:
    return layer.weight.norm()


class Penalty:
    def __call__(self, layer: nn.Module) -> Tensor:
        return layer.weight.norm()

    def of(self, layer: nn.Module) -> Tensor:
        return layer.weight.norm()


class Keeper:
    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def norm(self) -> Tensor:
        return self.layer.weight.norm()

    def scale(self, module: nn.Module, inputs: tuple) -> tuple:
        return (inputs[0] * self.norm(),)


class TimesNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module) -> Tensor:
        ctx.norm = layer.weight.norm()
        return x * ctx.norm

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        return gradient * ctx.norm, None


class Given(nn.Module):
    def forward(self, x: Tensor, layer: nn.Module) -> Tensor:
        return x * layer.weight.norm()


class Box(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.called = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.called(x)


class Parent(nn.Module):
    """`read` is what subclasses let escape; `box.called` is out of its reach."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.box = nn.Linear(4, 4), Box()
        self.penalty, self.penalties, self.part = Penalty(), {"norm": size_of}, functools.partial(size_of)
        self.name, self.given, self.get = "weight", Given(), operator.attrgetter("weight")

    def forward(self, x: Tensor) -> Tensor:
        return self.box(self.use(self.read(x)))

    def use(self, x: Tensor) -> Tensor:
        return x * self.norm()


class ByNameInAnAttribute(Parent):
    def norm(self) -> Tensor:
        return getattr(self.read, self.name).norm()


class ByDictionary(Parent):
    def norm(self) -> Tensor:
        return self.read.__dict__["_parameters"]["weight"].norm()


class ByVars(Parent):
    def norm(self) -> Tensor:
        return vars(self.read)["_parameters"]["weight"].norm()


class ByGetParameter(Parent):
    def norm(self) -> Tensor:
        return self.read.get_parameter(self.name).norm()


class ByObject(Parent):
    def norm(self) -> Tensor:
        return self.penalty(self.read)


class ByMethodOfAnObject(Parent):
    def norm(self) -> Tensor:
        return self.penalty.of(layer=self.read)


class ByTableOfFunctions(Parent):
    def norm(self) -> Tensor:
        return self.penalties["norm"](self.read)


class ByPartial(Parent):
    def norm(self) -> Tensor:
        return self.part(self.read)


class ByAutogradFunction(Parent):
    def use(self, x: Tensor) -> Tensor:
        return TimesNorm.apply(x, self.read)


class ByAttributeGetter(Parent):
    def norm(self) -> Tensor:
        return self.get(self.read).norm()


class ByAnotherModule(Parent):
    def use(self, x: Tensor) -> Tensor:
        return self.given(x, self.read)


class ByGetattrOfTheClass(Parent):
    def __getattr__(self, name: str) -> Any:
        return self.read.weight if name == "matrix" else super().__getattr__(name)

    def norm(self) -> Tensor:
        return self.matrix.norm()


class ThroughAVariable(Parent):
    def norm(self) -> Tensor:
        layers = [self.read]
        for _, layer in enumerate(layers):
            total = self.penalty(layer)
        return total


class ThroughAFunction(Parent):
    def norm(self) -> Tensor:
        return hand_on(1.0, layer=self.read, penalty=self.penalty)


def hand_on(scale: float, layer: nn.Module, penalty: Penalty) -> Tensor:
    return scale * penalty(layer)


class ThroughAMethod(Parent):
    def norm(self) -> Tensor:
        return self.hand_on(self.read)

    def hand_on(self, layer: nn.Module) -> Tensor:
        return self.penalty(layer)


class ThroughALambda(Parent):
    def norm(self) -> Tensor:
        return functools.reduce(lambda total, layer: total + self.penalty(layer), [self.read], 0.0)


class ByAReturn(Parent):
    def layer(self) -> nn.Module:
        return self.read

    def norm(self) -> Tensor:
        return self.penalty(self.layer())


class ByAnObjectThatHoldsIt(Parent):
    def __init__(self) -> None:
        super().__init__()
        self.keeper = Keeper(self.read)

    def norm(self) -> Tensor:
        return self.keeper.norm()


class ByHookOfAPart(Parent):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()
        self.head.register_forward_pre_hook(self.scale)

    def scale(self, module: nn.Module, inputs: tuple) -> tuple:
        return (inputs[0] * self.read.weight.norm(),)

    def use(self, x: Tensor) -> Tensor:
        return self.head(x)


ESCAPES = [ByNameInAnAttribute, ByDictionary, ByVars, ByGetParameter, ByObject, ByMethodOfAnObject, ByTableOfFunctions]
ESCAPES += [ByPartial, ByAutogradFunction, ByAttributeGetter, ByAnotherModule, ByGetattrOfTheClass, ThroughAVariable]
ESCAPES += [ThroughAFunction, ThroughAMethod, ThroughALambda, ByAReturn, ByAnObjectThatHoldsIt, ByHookOfAPart]


@pytest.mark.parametrize("parent", ESCAPES)
def test_a_layer_that_may_be_read_stays(parent: type[nn.Module]) -> None:
    report = check_conversion(parent(), torch.randn(3, 4))
    assert (list(report.swapped), list(report.left)) == (["box.called"], ["read"])


class OfAllByName(Parent):
    def norm(self) -> Tensor:
        return self.get_parameter("read.weight").norm()


class OfAllByFunction(Parent):
    def use(self, x: Tensor) -> Tensor:
        return x * sum(p.norm() for p in nn.Module.parameters(self))


@pytest.mark.parametrize("parent", [OfAllByName, OfAllByFunction])
def test_all_layers_of_a_parent_that_asks_itself_stay(parent: type[nn.Module]) -> None:
    assert check_conversion(nn.Sequential(parent(), nn.Linear(4, 4)), torch.randn(3, 4)).swapped == {"1": "Linear"}


class Called(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.list = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.table = nn.ModuleDict({"one": nn.Linear(4, 4)})
        self.chain = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.scale = 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x)) * self.scale
        x = checkpoint(self.list[0], x, use_reentrant=False)
        x = checkpoint_sequential(self.chain, 2, x, use_reentrant=False)
        x = nn.Sequential(self.first, self.last)(x)
        for i, (layer, factor) in enumerate(zip(self.list, [0.5, 2.0])):
            x = torch.mul(layer(x), factor) + torch.tensor(i)
        for name, layer in self.table.items():
            x = layer(x) * torch.tensor(len(name))
        x = functools.reduce(lambda x, layer: layer(x), reversed(self.list), x)
        layers = [self.first]
        layers.append(getattr(self, "last"))  # noqa: B009
        x = call_all(layers, x, flag=torch.tensor(True))
        return torch.stack([layer(x) for layer in self.chain[:1]]).sum(0)


def call_all(layers: list[nn.Module], x: Tensor, **_options: Tensor) -> Tensor:
    for layer in layers:
        x = F.gelu(layer(x))
    return x


def test_layers_that_are_only_called_become_kshot() -> None:
    report = check_conversion(Called(), torch.randn(3, 4))
    assert (len(report.swapped), report.left) == (6, {})


def scale_by(layer: nn.Module, module: nn.Module, inputs: tuple) -> tuple:
    return (inputs[0] * layer.weight.norm(),)


@pytest.mark.parametrize("kind", [lambda read: Keeper(read).scale, lambda read: functools.partial(scale_by, read)])
def test_a_layer_that_a_hook_of_another_holds_and_reads_stays(kind: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU())
    model[2].register_forward_pre_hook(kind(model[0]))
    report = check_conversion(model, torch.randn(3, 4))
    assert (list(report.swapped), list(report.left)) == (["1"], ["0"])
