"""timm's own layers and networks, converted: equal under the first code, in float64, and back. Needs timm."""

from __future__ import annotations

import importlib

import pytest
import torch
from conversion import check_conversion
from torch import Tensor, nn

import kshot_ext

timm = pytest.importorskip("timm", reason="timm is not installed")
layers = timm.layers
norms, norm_acts, same = (importlib.import_module(f"timm.layers.{n}") for n in ("norm", "norm_act", "conv2d_same"))
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")
IMAGES = (4, 6, 7, 9)
KINDS = {
    "Linear": (lambda: layers.Linear(9, 5), True),
    "Conv2dSame": (
        lambda: same.Conv2dSame(6, 4, (3, 2), stride=2, groups=2),
        True,
    ),
    "StdConv2d": (lambda: layers.StdConv2d(6, 4, 3, bias=True), True),
    "StdConv2dSame": (lambda: layers.StdConv2dSame(6, 4, 3, stride=2), True),
    "ScaledStdConv2d": (lambda: layers.ScaledStdConv2d(6, 4, 3, groups=2), True),
    "ScaledStdConv2dSame": (lambda: layers.ScaledStdConv2dSame(6, 4, 3, stride=2), True),
    "BatchNormAct2d": (lambda: layers.BatchNormAct2d(6), True),
    "BatchNormAct2d with SiLU": (lambda: layers.BatchNormAct2d(6, act_layer=nn.SiLU), True),
    "BatchNormAct2d with dropout": (lambda: layers.BatchNormAct2d(6, act_layer=nn.GELU, drop_layer=nn.Dropout), True),
    "BatchNormAct2d without act": (lambda: layers.BatchNormAct2d(6, apply_act=False, affine=False), False),
    "GroupNorm": (lambda: layers.GroupNorm(6, 2), True),
    "GroupNorm1": (lambda: layers.GroupNorm1(6), True),
    "LayerNorm": (lambda: layers.LayerNorm(9), True),
    "LayerNormFp32": (lambda: norms.LayerNormFp32(9), True),
    "LayerNorm2d": (lambda: layers.LayerNorm2d(6), True),
    "RmsNorm": (lambda: layers.RmsNorm(9), True),
    "RmsNorm2d": (lambda: norms.RmsNorm2d(6), True),
    "SimpleNorm": (lambda: norms.SimpleNorm(9), True),
    "GroupNormAct": (lambda: layers.GroupNormAct(6, 2), True),
    "GroupNorm1Act": (lambda: norm_acts.GroupNorm1Act(6), True),
    "LayerNormAct": (lambda: layers.LayerNormAct(9), True),
    "LayerNormAct2d": (lambda: layers.LayerNormAct2d(6), True),
    "LayerScale": (lambda: layers.LayerScale(9, init_values=0.5), True),
    "LayerScale2d": (lambda: layers.LayerScale2d(6, init_values=0.5), True),
}


def layer_of(name: str) -> nn.Module:
    layer = KINDS[name][0]()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer.double()


def images() -> Tensor:
    return torch.randn(IMAGES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.filterwarnings("error:convert left")
@pytest.mark.parametrize("name", KINDS)
def test_a_layer_is_equal_under_the_first_code_and_comes_back(name: str) -> None:
    layer = layer_of(name)
    if name.endswith("without act"):  # nothing to convert but its companion
        layer = nn.Sequential(layer, nn.Linear(9, 2)).double()
    report = check_conversion(layer, images())
    assert not report.left
    assert repr(kshot_ext.merge(kshot_ext.convert(layer, 2), torch.tensor([0.5, 0.5]))) == repr(layer)


@pytest.mark.parametrize("name", KINDS)
def test_a_layer_under_a_code_is_what_it_merges_to(name: str) -> None:
    layer = layer_of(name).eval()
    kshot = kshot_ext.convert(layer, 3, perturbation=0.5)
    codes = torch.rand(IMAGES[0], 3, dtype=torch.float64)
    if not list(layer.parameters()):
        return
    wanted = torch.cat([kshot_ext.merge(kshot, code)(x[None]) for code, x in zip(codes, images())])
    torch.testing.assert_close(kshot(images()[:1], code=codes[0]), wanted[:1], rtol=1e-11, atol=1e-11)
    if KINDS[name][1]:
        torch.testing.assert_close(kshot(images(), code=codes), wanted, rtol=1e-11, atol=1e-11)
    else:
        with pytest.raises(ValueError, match=r"code: expected \[3\], one for all samples"):
            kshot(images(), code=codes)


@pytest.mark.parametrize("name", ["LayerNorm", "RmsNorm", "LayerScale"])
def test_samples_on_any_axis_but_the_last(name: str) -> None:
    kshot = kshot_ext.convert(layer_of(name).eval(), 3, perturbation=0.5)
    codes, x = torch.rand(5, 3, dtype=torch.float64), torch.randn(7, 5, 9, dtype=torch.float64)
    kshot_ext.find_batch_axes(kshot, x, batch_axis=1)
    kshot_ext.set_code(kshot, codes)
    wanted = torch.stack([kshot_ext.merge(kshot, code)(x[:, n]) for n, code in enumerate(codes)], 1)
    torch.testing.assert_close(kshot(x), wanted, rtol=1e-11, atol=1e-11)
    kshot.sample_rows = None
    kshot_ext.set_code(kshot, codes)
    with pytest.raises(ValueError, match="which axis of input counts samples"):
        kshot(x[:5])


def test_norm_and_activation_are_one_operation() -> None:
    """And with a hook between them two."""
    kshot = kshot_ext.convert(layer_of("BatchNormAct2d with SiLU"), 2)
    kshot_ext.set_code(kshot, torch.tensor([1.0, 0.0], dtype=torch.float64))
    seen = []
    handle = kshot.act.register_forward_hook(lambda _layer, inputs, output: seen.append(output))
    watched = kshot(images())
    handle.remove()
    torch.testing.assert_close(kshot(images()), watched)
    assert len(seen) == 1


NETWORKS = {"efficientnet_b0": 0, "vit_tiny_patch16_224": 1, "mobilenetv3_small_050": 0, "resnetv2_50": 0}


@pytest.mark.filterwarnings("ignore:convert left some layers:UserWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_all_kshot(name: str) -> None:
    """But for parameters that a network keeps itself, as the tokens of transformers."""
    size = {"img_size": 64} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=10, **size).eval()
    kshot = kshot_ext.convert(model, 2)
    kshot_ext.set_code(kshot, torch.tensor([1.0, 0.0]))
    assert len(kshot_ext.conversion_report(kshot).left) == NETWORKS[name]
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = model(x)
        torch.testing.assert_close(kshot(x), wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())
        torch.testing.assert_close(kshot_ext.merge(kshot)(x), wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())
    kshot.load_state_dict(model.state_dict())
