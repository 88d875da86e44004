"""Fused models against the models that they were: values, gradients, statistics, and what may be done with them."""

from __future__ import annotations

import copy
import io
import random
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mobile_blocks import (
    Bottleneck,
    Conv2dNormActivation,
    TimmInvertedResidual,
    TimmNet,
    VisionInvertedResidual,
    VisionNet,
    residual_net,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import kshot_ext
from kshot_ext import backend
from kshot_ext.optim import KShotSGD

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")
NETS = {"torchvision": VisionNet, "timm": TimmNet, "residual": residual_net}
LINKS = {"torchvision": 9, "timm": 11, "residual": 5}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight, 1, 0.3)
            nn.init.normal_(norm.bias, 0, 0.3)
            nn.init.normal_(norm.running_mean, 0, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model


def fused_copy(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    kshot_ext.fuse(model)
    return model


def images(dtype: torch.dtype = torch.float32, memory_format: torch.memory_format = torch.channels_last) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 13, 12, generator=generator).to(dtype).contiguous(memory_format=memory_format)


def outcome(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, gradients and buffers after one pass."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    output = model(x)
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)).sum().backward()
    made = {"output": output.detach(), "input": x.grad}
    made |= {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    return made | {name: buffer.clone() for name, buffer in model.named_buffers()}


def operators(run: Callable[[], object]) -> list[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return [event.name for event in profile.events()]


def assert_alike(one: dict[str, Tensor], other: dict[str, Tensor], **tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


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


@pytest.mark.parametrize("net", NETS)
def test_goes_back(net: str) -> None:
    model = seeded(NETS[net]).eval()
    kinds, expected = [type(module) for module in model.modules()], model(images())
    attributes = [dict(vars(module)) for module in model.modules()]
    names, shown = list(model.state_dict()), repr(model)
    kshot_ext.fuse(model)
    assert [type(module) for module in model.modules()] != kinds
    assert list(model.state_dict()) == names
    assert repr(model) == shown
    model(images())
    kshot_ext.unfuse(model)
    assert [type(module) for module in model.modules()] == kinds
    assert [dict(vars(module)) for module in model.modules()] == attributes
    assert torch.equal(model(images()), expected)


def test_states_load_both_ways() -> None:
    one, other = seeded(VisionNet).eval(), VisionNet().eval()
    fused = fused_copy(other)
    fused.load_state_dict(one.state_dict())
    torch.testing.assert_close(fused(images()), one(images()), rtol=1e-4, atol=1e-5)
    other.load_state_dict(fused.state_dict())
    assert torch.equal(other(images()), one(images()))


def test_copies_and_pickles_are_fused_and_their_own() -> None:
    model = seeded(VisionNet)
    kshot_ext.fuse(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    expected = model.eval()(images())
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        other.eval()
        assert [type(module) for module in other.modules()] == [type(module) for module in model.modules()]
        assert torch.equal(other(images()), expected)
        with torch.no_grad():
            next(other.parameters()).zero_()
        assert torch.equal(model(images()), expected)


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


def test_layers_used_twice() -> None:
    relu, shared = nn.ReLU(inplace=True), Conv2dNormActivation(3, 3, 1)
    plain = seeded(lambda: nn.Sequential(shared, nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), relu, shared, relu))
    assert_alike(outcome(fused_copy(plain), images()), outcome(plain, images()), rtol=1e-4, atol=1e-5)


def test_follows_attributes_and_modes() -> None:
    plain = seeded(TimmNet)
    fused = fused_copy(plain)
    for model in (plain, fused):
        block = model.blocks[1][1]
        model.blocks[0][0].has_skip = False
        model.grad_checkpointing = True
        block.dw_mid.bn.eval()  # frozen statistics
        block.pw_exp.bn.act = nn.Tanh()
        block.layer_scale = nn.Dropout(0.0)
    assert_alike(outcome(fused, images()), outcome(plain, images()), rtol=1e-3, atol=1e-4)


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


@pytest.mark.parametrize("shape", [(2, 4, 5, 5), (2, 2, 5, 5), (3, 5, 5), (1, 3, 1, 1)], ids=str)
def test_refuses_what_the_layers_refuse(shape: tuple[int, ...]) -> None:
    fused = fused_copy(nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.BatchNorm2d(5)))
    with pytest.raises((RuntimeError, ValueError)):
        fused(torch.randn(shape))


def test_memory_format_is_that_of_the_input() -> None:
    fused = fused_copy(nn.Sequential(*VisionNet().features))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        output = fused(images().repeat(1, 1, 4, 4).contiguous(memory_format=memory_format))
        assert output.is_contiguous(memory_format=memory_format)


def test_checkpointing() -> None:
    plain = seeded(lambda: nn.Sequential(*VisionNet().features))
    fused = fused_copy(plain)

    class Recomputed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = copy.deepcopy(fused)

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.model, x, use_reentrant=False)

    one, other = outcome(Recomputed().eval(), images()), outcome(fused.eval(), images())
    for value, again in zip(other.values(), one.values()):
        torch.testing.assert_close(value, again)


def test_autocast() -> None:
    plain = seeded(VisionNet)
    exact, fused = copy.deepcopy(plain).double(), fused_copy(plain)
    with torch.autocast("cpu", torch.bfloat16):
        ours, torchs = fused(images()), plain(images())
    assert ours.dtype == torchs.dtype == torch.bfloat16
    expected = exact(images(torch.float64))
    error, bound = ((made.double() - expected).abs().max() for made in (ours, torchs))
    assert error <= 2 * bound


@pytest.mark.parametrize("net", NETS)
def test_compiles(net: str) -> None:
    model = seeded(NETS[net]).eval()
    expected = model(images())
    kshot_ext.fuse(model)
    torch.testing.assert_close(torch.compile(model, backend="eager")(images()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, KShotSGD])
def test_trains_as_before(optimizer: type[torch.optim.Optimizer]) -> None:
    plain = seeded(TimmNet).to(memory_format=torch.channels_last)
    fused = copy.deepcopy(plain)
    steps = {model: optimizer(model.parameters(), lr=0.01, momentum=0.9) for model in (plain, fused)}
    kshot_ext.fuse(fused)  # the optimiser was made before
    labels = torch.tensor([0, 3, 1])
    for model, step in steps.items():
        for _ in range(3):
            F.cross_entropy(model(images()), labels).backward()
            step.step()
            step.zero_grad()
    for (name, one), other in zip(fused.state_dict().items(), plain.state_dict().values()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_kshot_models() -> None:
    plain = seeded(VisionNet).eval()
    code = torch.tensor([0.25, 0.75])
    models = []
    for before in (plain, fused_copy(plain)):
        kshot = kshot_ext.convert(before, 2, generator=torch.Generator().manual_seed(0))
        kshot_ext.set_code(kshot, code)
        models.append(kshot)
    one, other = models
    assert len(kshot_ext.fuse(one).fused) == LINKS["torchvision"]  # as convert left it
    assert "kshot_ext::chained_conv2d" in operators(lambda: one(images()))
    assert torch.equal(one(images()), other(images()))
    assert str(kshot_ext.conversion_report(one)) == str(kshot_ext.conversion_report(other))
    merged = kshot_ext.merge(one)
    assert [type(module) for module in merged.modules()] == [type(module) for module in plain.modules()]
    torch.testing.assert_close(merged(images()), one(images()), rtol=1e-4, atol=1e-5)


def test_blocks_without_a_residual_hand_on_what_waits() -> None:
    model = nn.Sequential(VisionInvertedResidual(3, 4, 1, 2), VisionInvertedResidual(4, 6, 1, 2)).eval()
    kshot_ext.fuse(model)
    assert operators(lambda: model(images())).count("kshot_ext::chained_norm_act") == 1


def test_the_page_says_what_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "fuse.md").read_text()
    program, printed = re.findall(r"```(?:python)?\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "page.py").write_text(program)  # a forward is read from its file
    runpy.run_path(str(tmp_path / "page.py"))
    assert capsys.readouterr().out == printed
