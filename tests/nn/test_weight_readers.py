"""Layers whose tensors or class a parent's code reads stay as they are; the parent's other layers become K-shot."""

from __future__ import annotations

import functools

import pytest
import torch
from conversion import check_conversion
from torch import Tensor, nn
from torch.nn import functional as F

import kshot_ext
from kshot_ext.nn.weight_readers import uses_its_module

pytestmark = [
    pytest.mark.usefixtures("native_backend", "one_thread"),
    pytest.mark.filterwarnings("ignore:convert left:UserWarning"),
]


class Inner(nn.Module):
    """Its forward reads nothing; another method does."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.called = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.called(self.read(x))

    def tied(self, x: Tensor) -> Tensor:
        return x @ self.read.weight.mT


class Parent(nn.Module):
    """`read` is what subclasses read; `called` is in a module of its own, out of reach of vague expressions."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(4, 4)
        self.safe = nn.ModuleDict({"box": Box()})

    def forward(self, x: Tensor) -> Tensor:
        return self.safe["box"](self.use(x))


class Box(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.called = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.called(x).to(self.called.weight.dtype)  # a dtype tells nothing of the weight's shape


class Attribute(Parent):
    def use(self, x: Tensor) -> Tensor:
        return F.linear(x, self.read.weight, self.read.bias)


class Inherited(Attribute):
    def use(self, x: Tensor) -> Tensor:
        return super().use(x)


class Variable(Parent):
    def use(self, x: Tensor) -> Tensor:
        layer = self.read
        return F.linear(x, layer.weight)


class ByName(Parent):
    def use(self, x: Tensor) -> Tensor:
        return x * getattr(self.read, "bias")  # noqa: B009


class ByProperty(Parent):
    @property
    def matrix(self) -> Tensor:
        return self.read.weight

    def use(self, x: Tensor) -> Tensor:
        return x @ self.matrix


class ByLoop(Parent):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.ModuleList([nn.Linear(4, 4)])

    def use(self, x: Tensor) -> Tensor:
        for layer in self.read:
            x = F.linear(x, layer.weight)
        return x


class ByIndex(ByLoop):
    def use(self, x: Tensor) -> Tensor:
        return F.linear(x, self.read[0].weight)


def apply(layer: nn.Module, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight)


class ByFunction(Parent):
    def use(self, x: Tensor) -> Tensor:
        return apply(self.read, x)


class ByStaticMethod(Parent):
    @staticmethod
    def run(layer: nn.Module, x: Tensor) -> Tensor:
        return F.linear(x, layer.weight)

    def use(self, x: Tensor) -> Tensor:
        return self.run(self.read, x)


class Decorated(Parent):
    @torch.autocast("cpu", enabled=False)
    def use(self, x: Tensor) -> Tensor:
        return F.linear(x, self.read.weight)


class ByParameters(Parent):
    def use(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.read.parameters())


class ByClass(Parent):
    def use(self, x: Tensor) -> Tensor:
        return self.read(x) if isinstance(self.read, nn.Linear) else x


class ByExactClass(Parent):
    def use(self, x: Tensor) -> Tensor:
        return self.read(x) if type(self.read) is nn.Linear else x


class ByTupleOfClasses(Parent):
    layers = (nn.Linear, nn.Conv2d)

    def use(self, x: Tensor) -> Tensor:
        return self.read(x) if isinstance(self.read, self.layers) else x


class ByTheWholeTable(Parent):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Sequential(nn.Linear(4, 4)))

    def use(self, x: Tensor) -> Tensor:
        return self.read(x) + self.read.state_dict()["0.0.bias"]


class BySelfAsAContainer(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self[0].weight)


class InAContainerThatReads(Parent):
    def __init__(self) -> None:
        super().__init__()
        self.read = BySelfAsAContainer(nn.Linear(4, 4))

    def use(self, x: Tensor) -> Tensor:
        return self.read(x)


class OfAGrandchild(Parent):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        del self.read

    def use(self, x: Tensor) -> Tensor:
        return self.inner.called(x @ self.inner.read.weight)


class ByAnotherMethodOfAChild(OfAGrandchild):
    def use(self, x: Tensor) -> Tensor:
        return self.inner.called(self.inner.tied(x))


class WindowAttention(nn.Module):
    """As in torchvision's Swin: a function gets the layers' tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(4, 12), nn.Linear(4, 4)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(windowed(x, self.qkv.weight, self.proj.weight, qkv_bias=self.qkv.bias, out=self.proj.bias))


def windowed(x: Tensor, qkv: Tensor, proj: Tensor, qkv_bias: Tensor, out: Tensor) -> Tensor:
    q, k, v = F.linear(x, qkv, qkv_bias).chunk(3, dim=-1)
    return F.linear((q @ k.mT).softmax(-1) @ v, proj, out)


PARENTS = [Attribute, Inherited, Variable, ByName, ByProperty, ByLoop, ByIndex, ByFunction, ByStaticMethod, Decorated]
PARENTS += [ByParameters, ByClass, ByExactClass, ByTupleOfClasses, ByTheWholeTable, InAContainerThatReads]
PARENTS += [OfAGrandchild, ByAnotherMethodOfAChild]


@pytest.mark.parametrize("parent", PARENTS)
def test_a_layer_that_is_read_stays_and_one_that_is_called_does_not(parent: type[nn.Module]) -> None:
    report = check_conversion(parent(), torch.randn(3, 4))
    assert [name.split(".") for name in report.left if "read" not in name.split(".")] == []
    assert any("called" in name for name in report.swapped)
    assert not any("read" in name.split(".") for name in report.swapped)
    assert all("reads its weight or asks for its type" in reason for reason in report.left.values())


class Penalised(nn.Module):
    """Its forward adds something over all parameters, whatever they belong to."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Box()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) + sum(p.square().sum() for p in self.parameters())


class PenalisedByWalk(Penalised):
    def forward(self, x: Tensor) -> Tensor:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                x = x + module.weight.abs().mean()
        return self.block(x)


class AsksForADtype(Penalised):
    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.to(next(self.parameters()).dtype)) if isinstance(x, (Tensor, list)) else x


def test_code_that_walks_over_all_layers() -> None:
    for kind in (Penalised, PenalisedByWalk):
        model = nn.Sequential(kind(), nn.Linear(4, 4))
        assert check_conversion(model, torch.randn(3, 4)).swapped == {"1": "Linear"}
    assert check_conversion(AsksForADtype(), torch.randn(3, 4)).swapped == {"block.called": "Linear"}


def test_window_attention() -> None:
    report = check_conversion(nn.Sequential(WindowAttention()), torch.randn(3, 5, 4))
    assert report.swapped == {"0.mlp.0": "Linear", "0.mlp.2": "Linear"}
    assert set(report.left.values()) == {"WindowAttention.forward reads its weight or asks for its type"}
    assert list(report.left) == ["0.qkv", "0.proj"]


def test_code_without_source() -> None:
    space = {"nn": nn, "F": F, "Box": Box}
    exec(
        "class Typed(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.read, self.box = nn.Linear(4, 4), Box()\n"
        "    def forward(self, x):\n"
        "        return self.box(F.linear(x, self.read.weight))\n",
        space,
    )
    report = check_conversion(space["Typed"](), torch.randn(3, 4))
    assert (list(report.swapped), list(report.left)) == (["box.called"], ["read"])


def add_weight(module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
    return output + module.read.weight.sum()


def test_a_parents_hook_is_read_too() -> None:
    model = Inner()
    model.register_forward_hook(add_weight)
    report = check_conversion(model, torch.randn(3, 4))
    assert (list(report.swapped), list(report.left)) == (["called"], ["read"])


LAYER = nn.Linear(2, 2)


class Recorder:
    def __init__(self) -> None:
        self.calls = 0

    def count(self, *_arguments: object) -> None:
        self.calls += 1

    def weigh(self, module: nn.Module, *_arguments: object) -> None:
        self.calls += float(module.weight.sum())


class Call(Recorder):
    def __call__(self, module: nn.Module, *arguments: object) -> None:
        self.weigh(module, *arguments)


def weigh_by_a_helper(module: nn.Module, inputs: tuple) -> Tensor:
    return apply(module, inputs[0])


@pytest.mark.parametrize(
    ("hook", "uses"),
    [
        (Recorder().count, False),
        (Recorder().weigh, True),
        (functools.partial(Recorder.weigh, Recorder()), True),
        (lambda module, inputs: (inputs[0] * 2,), False),
        (lambda module, inputs: inputs[0] * module.weight.mean(), True),
        (lambda module, inputs: setattr(module, "weight", None), True),
        (weigh_by_a_helper, True),
        (lambda *arguments: None, False),
        (lambda *arguments: arguments[0], True),
        (lambda module, inputs: [module for _ in inputs], True),
        (lambda module, inputs: LAYER.weight, True),
        (lambda *_, **__: getattr(LAYER, "weight"), True),  # noqa: B009
        (lambda: None, True),  # takes no module: PyTorch would raise
        (Call(), True),
        (print, True),
    ],
)
def test_hooks_that_use_their_module(hook, uses: bool) -> None:
    assert uses_its_module(hook) is uses


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_transformer_layers_in_eval_mode(batch_first: bool, padded: bool) -> None:
    """PyTorch's fused kernel takes the layers' weights there."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first).eval()
    x, mask = torch.randn(3, 3, 8), torch.tensor([[0, 0, 1], [0, 0, 0], [0, 1, 1]], dtype=torch.bool)
    kshot = kshot_ext.convert(layer, 2)
    kshot_ext.set_code(kshot, torch.tensor([1.0, 0.0]))
    merged = kshot_ext.merge(kshot)
    assert list(kshot_ext.conversion_report(kshot).swapped) == [
        "self_attn",
        "self_attn.out_proj",
        "linear1",
        "linear2",
        "norm1",
        "norm2",
    ]
    assert vars(merged).keys() == vars(layer).keys()
    assert merged.activation_relu_or_gelu == layer.activation_relu_or_gelu == 1
    with torch.no_grad():
        wanted = layer(x, src_key_padding_mask=mask if padded else None)
        for other in (kshot, merged):
            torch.testing.assert_close(other(x, src_key_padding_mask=mask if padded else None), wanted)


@pytest.mark.parametrize("part", ["self_attn", "linear2", "norm1"])
def test_one_part_keeps_a_transformer_layer_from_its_fused_kernel(part: str) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    kshot = kshot_ext.convert(layer, 2, include=part)
    kshot_ext.set_code(kshot, torch.tensor([1.0, 0.0]))
    x = torch.randn(3, 3, 8)
    with torch.no_grad():
        torch.testing.assert_close(kshot(x), layer(x))


def test_layers_of_an_encoder_whose_fast_path_leaves_zeros_stay() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    mask = torch.tensor([[0, 0, 1], [0, 0, 0], [0, 1, 1]], dtype=torch.bool)
    for nested in (True, False):
        encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
        model = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(8, 2)}).eval()
        kshot = kshot_ext.convert(model, 2)
        kshot_ext.set_code(kshot, torch.tensor([1.0, 0.0]))
        assert len(kshot_ext.conversion_report(kshot).swapped) == (1 if nested else 13)
        x = torch.randn(3, 3, 8)
        with torch.no_grad():
            wanted = encoder(x, src_key_padding_mask=mask)
            torch.testing.assert_close(kshot["encoder"](x, src_key_padding_mask=mask), wanted)
        assert bool((wanted[mask] == 0).all()) == nested
