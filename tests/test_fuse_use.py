"""What may be done with fused models: copied, saved, changed, trained, compiled, converted, and unfused."""

from __future__ import annotations

import copy
import io
import re
import runpy
from pathlib import Path

import pytest
import torch
from fused_models import LINKS, NETS, assert_alike, fused_copy, images, operators, outcome, seeded
from mobile_blocks import (
    Conv2dNormActivation,
    TimmNet,
    VisionInvertedResidual,
    VisionNet,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import kshot_ext
from kshot_ext.optim import KShotSGD

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


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


@pytest.mark.parametrize("net", NETS)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_traces(net: str) -> None:
    plain = seeded(NETS[net]).eval()
    fused = fused_copy(plain)
    torch.testing.assert_close(torch.jit.trace(fused, images())(images() + 1), plain(images() + 1))


@pytest.mark.parametrize("net", NETS)
def test_is_mapped(net: str) -> None:
    plain = seeded(NETS[net]).eval()
    fused = fused_copy(plain)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = images(memory_format=memory_format)
        mapped = [torch.vmap(lambda one, model=model: model(one[None])[0])(x) for model in (fused, plain)]
        torch.testing.assert_close(*mapped, rtol=1e-4, atol=1e-5)
