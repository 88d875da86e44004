"""Fused models against the models that they were: values, gradients, statistics, and what is left and why."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from fused_models import LINKS, NETS, assert_alike, fused_copy, images, operators, outcome, seeded
from mobile_blocks import (
    Bottleneck,
    TimmInvertedResidual,
    VisionNet,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import kshot_ext
from kshot_ext import backend

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("net", NETS)
def test_is_the_plain_model_in_double(net: str, training: bool) -> None:
    plain = seeded(NETS[net]).double().train(training)
    fused = fused_copy(plain)
    with backend.use_reference():
        assert_alike(
            outcome(fused, images(torch.float64)), outcome(plain, images(torch.float64)), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("net", NETS)
def test_errs_no_more_than_torch(net: str, training: bool, memory_format: torch.memory_format) -> None:
    plain = seeded(NETS[net]).train(training)
    exact = outcome(copy.deepcopy(plain).double(), images(torch.float64))
    fused = fused_copy(plain)
    ours, torchs = (outcome(model, images(memory_format=memory_format)) for model in (fused, plain))
    for kind in ("output", "input", "gradient", "running"):  # of each, all tensors together: single ones err by chance
        named = [name for name in exact if kind in name]
        error, bound = (
            torch.cat([(made[name].double() - exact[name]).flatten() for name in named]).norm()
            for made in (ours, torchs)
        )
        one_rounding = torch.finfo(torch.float32).eps * torch.cat([exact[name].flatten() for name in named]).norm()
        assert error <= 2 * bound + one_rounding, f"{kind}: {error} against {bound}"


@pytest.mark.parametrize("net", NETS)
def test_links_are_links(net: str) -> None:
    model = seeded(NETS[net])
    report = kshot_ext.fuse(model)
    assert len(report.fused) == LINKS[net]
    names = operators(lambda: model(images()))
    assert names.count("kshot_ext::chained_conv2d") == LINKS[net]
    assert not {"aten::batch_norm", "aten::relu_", "aten::hardtanh_"} & {*names}


def test_sums_and_activations_need_no_pass_of_their_own() -> None:
    model = seeded(lambda: nn.Sequential(Bottleneck(3, 8, 3)))
    kshot_ext.fuse(model)
    assert not {"aten::add", "aten::add_", "aten::relu_"} & {*operators(lambda: model.eval()(images()))}


def test_products_of_squeeze_excite_are_made_by_their_reader() -> None:
    """The product is not kept."""
    model = seeded(lambda: nn.Sequential(TimmInvertedResidual(3, 4, 2)))
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr() if tensor.numel() == 3 * 6 * 13 * 12 else 0)
        return tensor

    counts = []
    for fused in (False, True):
        kept.clear()
        if fused:
            kshot_ext.fuse(model)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model(images())
        counts.append(len(set(kept) - {0}))
        del output
    # Beside both raw outputs two of norms, two of activations and the product; squeeze-excite reads one of them.
    assert counts == [7, 3]


@pytest.mark.parametrize("kind", ["forward", "pre", "backward"])
@pytest.mark.parametrize(
    "name", ["features.2.conv.0.0", "features.2.conv.0.1", "features.2.conv.0.2", "features.2.conv"]
)
def test_hooks_see_what_they_saw(name: str, kind: str) -> None:
    plain = seeded(VisionNet)
    for module in plain.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = False  # what a backward hook looks at must not be written to
    fused = fused_copy(plain)
    seen: dict[str, list[Tensor]] = {"plain": [], "fused": []}
    made = {}
    for which, model in (("plain", plain), ("fused", fused)):
        layer = model.get_submodule(name)
        register = {
            "forward": layer.register_forward_hook,
            "pre": layer.register_forward_pre_hook,
            "backward": layer.register_full_backward_hook,
        }[kind]

        def note(module: nn.Module, *values: object, which: str = which) -> None:
            value = values[-1]
            seen[which].append((value if isinstance(value, Tensor) else value[0]).detach().clone())

        register(note)
        made[which] = outcome(model, images())
    assert len(seen["plain"]) == len(seen["fused"]) == 1
    torch.testing.assert_close(seen["fused"][0], seen["plain"][0], rtol=1e-4, atol=1e-4)
    assert_alike(made["fused"], made["plain"], rtol=1e-3, atol=1e-4)


class _Draws(nn.Module):
    """A forward that a trace would get wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if random.random() < 0.5 else x


class _Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def pair(conv: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))


def replaced_forward() -> nn.Module:
    model = pair(nn.Conv2d(3, 4, 1, bias=False))
    model.forward = lambda x: model[1](model[0](x)) + 1
    return model


def hooked() -> nn.Module:
    model = pair(nn.Conv2d(3, 4, 1, bias=False))
    model[1].register_forward_hook(lambda module, inputs, output: None)
    return model


LEFT = {
    "it has a bias": lambda: pair(nn.Conv2d(3, 4, 1)),
    "is not exactly a Conv2d": lambda: pair(_Doubled(3, 4, 1, bias=False)),
    "Conv2d is not exactly": lambda: pair(parametrizations.weight_norm(nn.Conv2d(3, 4, 1, bias=False))),
    "pads by 'reflect'": lambda: pair(nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False, padding_mode="reflect")),
    "neither depthwise nor a dense 1x1": lambda: pair(nn.Conv2d(3, 4, 3, bias=False)),
    "no batch norm alone reads its output": lambda: nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.GroupNorm(1, 4)),
    "its forward calls 'random.random'": _Draws,
    "was replaced": replaced_forward,
    "a hook": hooked,
    "does not tell in which order": lambda: _Listed(),
}


class _Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(pair(nn.Conv2d(3, 3, 1, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("reason", LEFT)
def test_tells_what_is_left(reason: str) -> None:
    model = seeded(LEFT[reason])
    plain = copy.deepcopy(model).eval() if "replaced" not in reason else model.eval()
    random.seed(0)
    expected = plain(images())
    report = kshot_ext.fuse(model.eval())
    assert not report.fused
    assert next(iter(report.left.values())).count(reason) == 1
    assert reason in str(report)
    random.seed(0)
    torch.testing.assert_close(model(images()), expected)


class _Overwrites(nn.Module):
    """Writes to its input, and to what a sum has read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)) + x
        x = self.act(x)
        x += self.norm(self.conv(y))
        return x


def test_writes_in_place_where_the_forward_does() -> None:
    plain = seeded(_Overwrites).eval()
    fused = fused_copy(plain)
    mine, other = images(), images()
    with torch.no_grad():
        torch.testing.assert_close(fused(mine), plain(other))
    torch.testing.assert_close(mine, other)


class _AddsInPlace(nn.Module):
    """Adds a norm, which may wait, to what may not be written to later: the shortcut of a GhostNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shortcut = nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y += self.shortcut(x)
        return y.add_(self.shortcut(x.square()))


class _ReadsTwice(nn.Module):
    """One operation reads a norm, which may wait, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.other = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.norm(self.conv(x)), self.other(self.conv(x.square()))
        return torch.cat([y * y, z + z], dim=1)


@pytest.mark.parametrize("kind", [_AddsInPlace, _ReadsTwice])
@pytest.mark.parametrize(
    "make", [fused_copy, lambda model: kshot_ext.convert(model, num_shots=1)], ids=["fuse", "convert"]
)
def test_a_norm_counts_its_batch_once(make: Any, kind: type[nn.Module]) -> None:
    plain = seeded(kind).train()
    ours = make(plain)
    assert type(ours) is not kind
    if ours.state_dict()["conv.weight"].dim() == 5:
        kshot_ext.set_code(ours, torch.ones(1))
    torch.testing.assert_close(ours(images()), plain(images()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(plain.named_buffers()))


class _Sums(nn.Module):
    """Sums that no norm can take: of another shape or dtype, a second one, one behind an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), nn.SiLU()
        self.offset = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]).reshape(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        one = self.norm(self.conv(x)) + self.offset
        two = self.act(self.norm(self.conv(x))) + x
        three = self.act(self.norm(self.conv(x)) + x + one)
        return self.act(self.norm(self.conv(x)).add(two.double())) + three


def test_sums_that_a_norm_does_not_take() -> None:
    plain = seeded(_Sums)
    fused = fused_copy(plain)
    assert type(fused) is not _Sums
    ours, expected = outcome(fused, images()), outcome(plain, images())
    assert ours["output"].dtype == torch.float64
    assert_alike(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"momentum": None}, {"track_running_stats": False}, {"affine": False}], ids=str)
def test_kinds_of_norms(options: dict) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.BatchNorm2d(5, **options), nn.ReLU())
    fused = fused_copy(plain)
    for training in (True, True, False):
        x = images()
        torch.testing.assert_close(fused.train(training)(x), plain.train(training)(x))
    for one, other in zip(fused.buffers(), plain.buffers()):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("missing", ["weight", "bias"])
def test_norms_of_one_parameter(missing: str) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU())
    nn.init.normal_(plain[1].weight)
    nn.init.normal_(plain[1].bias)
    setattr(plain[1], missing, None)
    fused = fused_copy(plain)
    for training in (True, False):
        ours, expected = outcome(fused.train(training), images()), outcome(plain.train(training), images())
        assert_alike(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 4, 5, 5), (2, 2, 5, 5), (3, 5, 5), (1, 3, 1, 1)], ids=str)
def test_refuses_what_the_layers_refuse(shape: tuple[int, ...]) -> None:
    fused = fused_copy(nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.BatchNorm2d(5)))
    with pytest.raises((RuntimeError, ValueError)):
        fused(torch.randn(shape))
