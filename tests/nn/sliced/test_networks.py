"""Whole networks of sliced layers: random sub-networks of them equal slices by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from elastic_blocks import ByHand, ElasticNet, disturbed
from torch import Tensor, nn

import kshot_ext

CODE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")
FORMATS = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)


def images(memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, 3, 16, 16, generator=generator, dtype=torch.float64).to(memory_format=memory_format)


def tensors_of(net: nn.Module) -> dict[str, Tensor]:
    """Copies of parameters, which ask for gradients, and buffers."""
    parameters = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    return {**parameters, **{name: b.clone() for name, b in net.named_buffers()}}


@FORMATS
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("seed", range(4))
def test_random_sub_networks_equal_slices_by_hand(seed: int, training: bool, memory_format) -> None:
    net = disturbed(ElasticNet()).train(training)
    net.choose(seed)
    tensors = tensors_of(net)
    wanted = ByHand(net, tensors)(images())
    wanted.square().sum().backward()
    found = net(images(memory_format))
    found.square().sum().backward()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for name, parameter in net.named_parameters():
        assert (parameter.grad is None) == (tensors[name].grad is None), name
        if parameter.grad is not None:
            scale = tensors[name].grad.abs().max().clamp(min=1)
            torch.testing.assert_close(
                parameter.grad / scale, tensors[name].grad / scale, rtol=1e-12, atol=1e-12, msg=name
            )
    for name, buffer in net.named_buffers():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(buffer, tensors[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_a_fused_network_is_the_same(seed: int) -> None:
    torch.manual_seed(1)
    net = disturbed(ElasticNet()).float()
    net.choose(seed)
    tensors = tensors_of(net.double())
    ByHand(net, tensors)(images()).square().sum().backward()
    net.float()
    kshot_ext.fuse(net)
    x = images(torch.channels_last).float()
    net(x).square().sum().backward()
    for name, parameter in net.named_parameters():
        wanted = tensors[name].grad
        if wanted is not None:
            error = (parameter.grad.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-3)
            assert error < 2e-4, f"{name}: {error:.1e}"


@pytest.mark.parametrize("seed", range(2))
def test_k_copies_are_mixed_by_the_code(seed: int) -> None:
    """The network of K copies equals the plain one of the mixed weights; copies get their share of gradients."""
    torch.manual_seed(2)
    net = disturbed(ElasticNet(shots=3))
    kshot_ext.set_code(net, CODE)
    net.choose(seed)
    tensors = tensors_of(net)
    shared = dict(ElasticNet().named_parameters()).keys()
    layers = {name for name, module in net.named_modules() if isinstance(module, kshot_ext.nn.KShotModule)}
    mixed = {
        name: torch.tensordot(CODE, t, 1) if name.rpartition(".")[0] in layers and t.requires_grad else t
        for name, t in tensors.items()
    }
    assert {name for name, t in mixed.items() if t.requires_grad} == shared
    wanted = ByHand(net, mixed)(images())
    wanted.square().sum().backward()
    found = net(images())
    found.square().sum().backward()
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            scale = tensors[name].grad.abs().max().clamp(min=1)
            torch.testing.assert_close(
                parameter.grad / scale, tensors[name].grad / scale, rtol=1e-11, atol=1e-11, msg=name
            )


class PlainBlock(nn.Module):
    """What an `ElasticBlock` is with its active settings, of torch's layers, made apart from it."""

    def __init__(self, block: nn.Module, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        act, kernel, squeezes = type(block.depth_conv.act), block.active_kernel_size, hasattr(block.depth_conv, "se")
        self.inverted_bottleneck = nn.Sequential()
        self.depth_conv, self.point_linear = nn.Sequential(), nn.Sequential()
        depthwise = nn.Conv2d(inner, inner, kernel, block.stride, kernel // 2, groups=inner, bias=False)
        for part, conv, norm in (
            (self.inverted_bottleneck, nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)),
            (self.depth_conv, depthwise, nn.BatchNorm2d(inner)),
            (self.point_linear, nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        ):
            part.add_module("conv", conv)
            part.add_module("bn", norm)
            if part is not self.point_linear:
                part.add_module("act", act())
        if squeezes:
            self.depth_conv.add_module("se", PlainSqueeze(inner))
        self.shortcut = block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.point_linear(self.depth_conv(self.inverted_bottleneck(x)))
        return x + y if self.shortcut else y


class PlainSqueeze(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = max(8, (channels // 4 + 4) // 8 * 8)
        self.fc = nn.Sequential()
        self.fc.add_module("reduce", nn.Conv2d(channels, middle, 1))
        self.fc.add_module("relu", nn.ReLU())
        self.fc.add_module("expand", nn.Conv2d(middle, channels, 1))
        self.fc.add_module("h_sigmoid", nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3), keepdim=True))


class PlainNet(nn.Module):
    """The active sub-network of an `ElasticNet`, of torch's layers alone."""

    def __init__(self, net: ElasticNet) -> None:
        super().__init__()
        self.first_conv = copy.deepcopy(net.first_conv)
        channels, self.blocks = 8, nn.ModuleDict()
        for index in net.active():
            block = net.blocks[index]
            outputs = block.point_linear.bn.max_feature_dim
            inner = max(8, (channels * block.active_expand_ratio + 4) // 8 * 8)
            self.blocks[str(index)] = PlainBlock(block, channels, inner, outputs)
            channels = outputs
        self.classifier = nn.Linear(24, net.classifier.active_out_features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first_conv(x)
        for block in self.blocks.values():
            x = block(x)
        return self.classifier(x.mean((2, 3)))


@pytest.mark.parametrize("shots", [None, 3])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("seed", range(3))
def test_narrow_and_merge_give_plain_layers(seed: int, training: bool, shots: int | None) -> None:
    net = disturbed(ElasticNet(shots)).train(training)
    if shots is not None:
        kshot_ext.set_code(net, CODE)
    net.choose(seed)
    view = kshot_ext.narrow(net, PlainNet(net).double().to("meta"))
    if shots is not None:
        kshot_ext.set_code(view, CODE)
    merged = kshot_ext.merge(view)
    assert {type(m).__module__.split(".")[0] for m in merged.modules()} <= {"torch", __name__.split(".")[0]}
    assert [tuple(p.shape) for p in merged.parameters()] == [tuple(p.shape) for p in PlainNet(net).parameters()]
    before = {name: b.clone() for name, b in net.named_buffers()}
    wanted = net(images())
    torch.testing.assert_close(merged(images()), wanted, rtol=1e-11, atol=1e-11)
    for name, buffer in before.items():
        net.get_buffer(name).copy_(buffer)
    torch.testing.assert_close(view(images()), wanted, rtol=1e-11, atol=1e-11)
    view(images()).square().sum().backward()
    through_view = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    net(images()).square().sum().backward()
    own = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    assert own.keys() == through_view.keys()
    for name, gradient in own.items():
        torch.testing.assert_close(through_view[name], gradient, rtol=1e-9, atol=1e-9, msg=name)
