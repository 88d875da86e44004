"""The sliced convolutions against slices by hand: windows, groups, standardised filters, K copies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kshot_ext
from kshot_ext.nn import KShotConv2d, sliced

CODE = torch.tensor([0.7, 0.1, 0.2], dtype=torch.float64)
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def images(channels: int, size: int = 9) -> Tensor:
    return torch.randn(2, channels, size, size + 1, dtype=torch.float64)


def by_hand_standardised(weight: Tensor, eps: float) -> Tensor:
    return torch.stack([(filter - filter.mean()) / (filter.flatten().std() + eps) for filter in weight])


@pytest.mark.parametrize("ws_eps", [None, 1e-3])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "dilation", "padding"),
    [(1, 1, 1, 0), (3, 2, 1, 1), (5, 1, 2, 2), ((3, 5), 1, 1, (1, 2))],
)
def test_leading_channels(kernel_size, stride, dilation, padding, ws_eps: float | None) -> None:
    layer = sliced.DynamicConv2d(12, 10, kernel_size, stride, dilation, ws_eps=ws_eps).double()
    x = images(7)
    weight = layer.conv.weight.detach()[:6, :7].clone().requires_grad_()
    used = weight if ws_eps is None else by_hand_standardised(weight, ws_eps)
    wanted = F.conv2d(x, used, None, stride, padding, dilation)
    found = layer(x, out_channel=6)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    layer.active_out_channel = 6
    torch.testing.assert_close(layer(x), found, rtol=0, atol=0)
    found.square().sum().backward()
    wanted.square().sum().backward()
    gradient = layer.conv.weight.grad
    torch.testing.assert_close(gradient[:6, :7], weight.grad, rtol=1e-11, atol=1e-11)
    assert not gradient[6:].any()
    assert not gradient[:, 7:].any()
    torch.testing.assert_close(layer.get_active_filter(6, 7), used, rtol=1e-12, atol=1e-12)


def test_state_dicts_are_those_of_once_for_all() -> None:
    assert list(sliced.DynamicConv2d(4, 8).state_dict()) == ["conv.weight"]
    layer = sliced.DynamicSeparableConv2d(8, [3, 5, 7])
    assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == {
        "5to3_matrix": (9, 9), "7to5_matrix": (25, 25), "conv.weight": (8, 1, 7, 7),
    }  # fmt: skip
    assert torch.equal(layer.state_dict()["7to5_matrix"], torch.eye(25))
    assert list(sliced.DynamicLinear(4, 8).state_dict()) == ["linear.weight", "linear.bias"]
    norm = ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"]
    assert list(sliced.DynamicBatchNorm2d(8).state_dict()) == norm
    squeeze = [f"fc.{part}.{each}" for part in ("reduce", "expand") for each in ("weight", "bias")]
    assert list(sliced.DynamicSE(16).state_dict()) == squeeze
    assert list(sliced.DynamicGroupNorm(2, 8).state_dict()) == ["weight", "bias"]
    assert list(sliced.SwitchableBatchNorm2d([4, 8]).state_dict())[:2] == ["bn.0.weight", "bn.0.bias"]


@pytest.mark.parametrize("ws_eps", [None, 1e-3])
@pytest.mark.parametrize("mode", [1, None])
@pytest.mark.parametrize(("size", "stride"), [(7, 1), (5, 2), (3, 1)])
def test_windows_of_depthwise_kernels(
    size: int, stride: int, mode: int | None, ws_eps: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sliced.DynamicSeparableConv2d, "KERNEL_TRANSFORM_MODE", mode)
    layer = sliced.DynamicSeparableConv2d(8, [7, 3, 5], stride, ws_eps=ws_eps).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))
    tensors = {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters()}
    weight, x = tensors["conv.weight"][:6], images(6)
    for large, small in ((7, 5), (5, 3)):
        if size <= small:
            weight = weight[:, :, 1:-1, 1:-1]
            if mode is not None:
                weight = (weight.flatten(1) @ tensors[f"{large}to{small}_matrix"].T).view(6, 1, small, small)
    weight = weight if ws_eps is None else by_hand_standardised(weight, ws_eps)
    wanted = F.conv2d(x, weight, None, stride, size // 2, 1, 6)
    layer.active_kernel_size = size
    found = layer(x)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x, kernel_size=size), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.get_active_filter(6, size), weight, rtol=1e-12, atol=1e-12)
    found.square().sum().backward()
    wanted.square().sum().backward()
    for name, parameter in layer.named_parameters():
        gradient = tensors[name].grad
        assert (parameter.grad is None) == (gradient is None), name
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize(("size", "groups"), [(5, 2), (3, 2), (5, 8), (3, 4)])
def test_windows_and_groups(size: int, groups: int) -> None:
    layer = sliced.DynamicGroupConv2d(16, 24, [3, 5], [2, 4, 8], stride=2).double()
    x, weight = images(16), layer.conv.weight.detach()
    centre = weight[:, :, 1:-1, 1:-1] if size == 3 else weight
    # Once-for-all's own rule: chunks of outputs take the inputs of a chunk one after the other, and begin again.
    inputs = 16 // groups
    parts = [chunk[:, i * inputs % 8 : i * inputs % 8 + inputs] for i, chunk in enumerate(centre.chunk(groups, dim=0))]
    wanted = F.conv2d(x, torch.cat(parts), None, 2, size // 2, 1, groups)
    torch.testing.assert_close(layer(x, size, groups), wanted, rtol=1e-12, atol=1e-12)
    layer.active_kernel_size, layer.active_groups = size, groups
    torch.testing.assert_close(layer(x), wanted, rtol=1e-12, atol=1e-12)
    view = layer.narrowed(nn.Conv2d(16, 24, size, 2, size // 2, groups=groups, bias=False, device="meta"))
    torch.testing.assert_close(view.to_plain()(x), wanted, rtol=1e-12, atol=1e-12)


LAYERS = {
    "conv": lambda shots: sliced.DynamicConv2d(6, 8, 3, num_shots=shots),
    "standardised": lambda shots: sliced.DynamicConv2d(6, 8, 3, ws_eps=1e-3, num_shots=shots),
    "separable": lambda shots: sliced.DynamicSeparableConv2d(6, [3, 5], num_shots=shots),
    "groups": lambda shots: sliced.DynamicGroupConv2d(6, 12, [3, 5], [1, 2, 6], num_shots=shots),
    "linear": lambda shots: sliced.DynamicLinear(6, 8, num_shots=shots),
    "squeeze": lambda shots: sliced.DynamicSE(6, num_shots=shots),
    "switchable": lambda shots: sliced.SwitchableBatchNorm2d([4, 6], num_shots=shots),
    "norm": lambda shots: sliced.DynamicBatchNorm2d(6, num_shots=shots),
}
ACTIVE = {
    "conv": {"active_out_channel": 5},
    "standardised": {"active_out_channel": 5},
    "separable": {"active_kernel_size": 3},
    "groups": {"active_kernel_size": 3, "active_groups": 2},
    "linear": {"active_out_features": 5},
}


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_k_copies_are_mixed(name: str, per_sample: bool) -> None:
    torch.manual_seed(3)
    layer, plain = LAYERS[name](3).double().eval(), LAYERS[name](None).double().eval()
    for each in (layer, plain):
        for attribute, value in ACTIVE.get(name, {}).items():
            setattr(each, attribute, value)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = images(6) if name != "linear" else torch.randn(2, 6, dtype=torch.float64)
    codes = torch.rand(2, 3, dtype=torch.float64) if per_sample else CODE.expand(2, 3)
    dictionaries = {n for n, m in layer.named_modules() if isinstance(m, kshot_ext.nn.KShotModule)}
    wanted = []
    for sample, code in zip(x, codes):
        state = {
            n: torch.tensordot(code, t, 1) if n.rpartition(".")[0] in dictionaries and "running" not in n else t
            for n, t in layer.state_dict().items()
            if "tracked" not in n
        }
        plain.load_state_dict(state, strict=False)
        wanted.append(plain(sample[None]).detach())
    kshot_ext.set_code(layer, codes if per_sample else CODE)
    if per_sample and name == "standardised":
        with pytest.raises(ValueError, match=r"DynamicConv2d: .* one code for the batch, \[K\], got \[2, 3\]"):
            layer(x)
        return
    torch.testing.assert_close(layer(x), torch.cat(wanted), rtol=1e-11, atol=1e-11)


def test_convert_gives_k_copies_too() -> None:
    depthwise = sliced.DynamicSeparableConv2d(8, [3, 5])
    model = nn.Sequential(sliced.DynamicConv2d(4, 8, 3), sliced.DynamicBatchNorm2d(8), depthwise)
    model[2].active_kernel_size = 3
    kshot = kshot_ext.convert(model, num_shots=3)
    assert isinstance(kshot[0].conv, KShotConv2d)
    assert kshot[2].conv.weight.shape == (3, 8, 1, 5, 5)
    x = torch.randn(2, 4, 7, 7)
    kshot_ext.set_code(kshot, torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(kshot(x), model(x), rtol=1e-4, atol=1e-5)
    merged = kshot_ext.merge(kshot, torch.tensor([1.0, 0.0, 0.0]))
    assert list(merged.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(merged.eval()(x), kshot.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sliced.DynamicConv2d(4, 8)(torch.zeros(1, 5, 2, 2)), "input has 5 channels, expected 1 to 4"),
        (lambda: sliced.DynamicConv2d(4, 8)(torch.zeros(1, 4, 2, 2), 9), "out_channels must be 1 to 8.*got 9"),
        (lambda: sliced.DynamicConv2d(4, 8, 2), "kernel_size must be an odd int >= 1, or two of them, got 2"),
        (lambda: sliced.DynamicSeparableConv2d(4, [3, 4]), "got 4"),
        (lambda: sliced.DynamicSeparableConv2d(4, [3, 5])(torch.zeros(1, 4, 7, 7), 7), r"one of \[3, 5\], got 7"),
        (lambda: sliced.DynamicSeparableConv2d(4, [3])(torch.zeros(1, 5, 7, 7)), "input has 5 channels"),
        (lambda: sliced.DynamicSeparableConv2d(4, [3, 5])(torch.zeros(1, 5, 7, 7), 3), "input has 5 channels"),
        (lambda: sliced.DynamicGroupConv2d(4, 4, [3], [1, 2])(torch.zeros(1, 4, 3, 3), groups=4), r"\[1, 2\], got 4"),
        (lambda: sliced.DynamicGroupConv2d(4, 4, [3], [1, 2])(torch.zeros(1, 2, 3, 3)), "must have 4 channels"),
        (lambda: sliced.DynamicLinear(4, 8)(torch.zeros(1, 5)), r"1 to 4 features.*got input \[1, 5\]"),
        (lambda: sliced.DynamicLinear(4, 8)(torch.zeros(1, 4), 9), "out_features of 1 to 8, got .*=9"),
        (lambda: sliced.DynamicConv2d(4, 8, num_shots=2)(torch.zeros(1, 4, 2, 2)), "needs a code of 2 entries"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("layer", "plain", "message"),
    [
        (
            sliced.DynamicConv2d(4, 8, 3),
            nn.Conv2d(4, 9, 3, padding=1, bias=False),
            r"at most 4 .* and 8 out, got \(4, 9\)",
        ),
        (sliced.DynamicConv2d(4, 8, 3), nn.Conv2d(4, 8, 3, bias=False), r"padding: expected \(1, 1\), got \(0, 0\)"),
        (sliced.DynamicConv2d(4, 8), nn.Conv2d(4, 8, 1), "bias: expected none"),
        (sliced.DynamicConv2d(4, 8), nn.Linear(4, 8), "a part of a DynamicConv2d is a Conv2d, got Linear"),
        (
            sliced.DynamicSeparableConv2d(4, [3, 5]),
            nn.Conv2d(4, 4, 3, padding=1, bias=False),
            "groups: expected as many",
        ),
        (
            sliced.DynamicSeparableConv2d(4, [3, 5]),
            nn.Conv2d(4, 4, 1, groups=4, bias=False),
            r"kernel_size: expected one of \[3, 5\].*got \(1, 1\)",
        ),
        (sliced.DynamicLinear(4, 8), nn.Linear(4, 8, bias=False), "bias: expected True, got False"),
        (sliced.DynamicBatchNorm2d(4), nn.BatchNorm2d(4, eps=1e-3), "eps: expected 1e-05, got 0.001"),
        (sliced.DynamicGroupNorm(2, 8), nn.GroupNorm(2, 4), "groups of 4 channels, got 2 groups of 4 channels"),
        (sliced.DynamicLayerNorm(8), nn.LayerNorm((2, 4)), "one axis and bias=True"),
        (sliced.DynamicLayerNorm(8), nn.LayerNorm(4, bias=False), "one axis and bias=True"),
    ],
)
def test_what_is_no_part_is_refused(layer: nn.Module, plain: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kshot_ext.narrow(nn.ModuleList([layer]), nn.ModuleList([plain]))


def test_a_part_takes_its_own_input_only() -> None:
    for layer, plain, x in (
        (sliced.DynamicConv2d(4, 8), nn.Conv2d(3, 5, 1, bias=False), torch.zeros(1, 4, 2, 2)),
        (sliced.DynamicBatchNorm2d(4), nn.BatchNorm2d(3), torch.zeros(2, 4, 2, 2)),
        (sliced.DynamicLinear(4, 8), nn.Linear(3, 8), torch.zeros(1, 4)),
        (sliced.DynamicGroupNorm(4, 8), nn.GroupNorm(2, 4), torch.zeros(1, 6, 2, 2)),
        (sliced.DynamicLayerNorm(8), nn.LayerNorm(4), torch.zeros(1, 6)),
    ):
        part = layer.narrowed(plain)
        with pytest.raises(ValueError, match=f"{type(layer).__name__}: expected an input of"):
            part(x)
        assert layer.widths is None
