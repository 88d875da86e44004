"""Narrower models that share the layers of a K-shot model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import kshot_ext

CODE = torch.tensor([0.5, 0.3, 0.2])
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


class Block(nn.Module):
    """Pointwise, depthwise, grouped and squeezing convolutions, batch norms, a linear layer, and a PReLU."""

    def __init__(self, inner: int, groups: int, outer: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(4, inner, 1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.squeeze = nn.Conv2d(inner, max(1, inner // 4), 1)
        self.excite = nn.Conv2d(max(1, inner // 4), inner, 1)
        self.even = nn.Conv2d(inner, 4 * groups, 1)
        self.grouped = nn.Conv2d(4 * groups, 2 * groups, 3, stride=2, padding=1, groups=groups)
        self.norm_out = nn.BatchNorm2d(2 * groups)
        self.act = nn.PReLU()
        self.classify = nn.Linear(2 * groups, outer)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.norm(self.expand(x)).relu())
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.classify(self.act(self.norm_out(self.grouped(self.even(x)))).mean((2, 3)))


WIDE = (16, 4, 6)
WIDTHS = [(16, 4, 6), (9, 3, 5), (5, 2, 6), (1, 2, 1)]


@pytest.fixture
def wide() -> nn.Module:
    torch.manual_seed(0)
    model = kshot_ext.convert(Block(*WIDE), num_shots=3)
    kshot_ext.set_code(model, CODE)
    for _ in range(3):
        model(images())
    return model


def images() -> Tensor:
    return torch.randn(5, 4, 7, 7, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)


def sliced_by_hand(wide: nn.Module, plain: nn.Module) -> nn.Module:
    """The plain model with the leading part of the wide one's mixed weights: an independent way to the same."""
    mixed = {name: torch.tensordot(CODE, p, dims=1) for name, p in wide.named_parameters() if name != "act.weight"}
    everything = {**dict(wide.named_buffers()), "act.weight": wide.act.weight, **mixed}
    state = {name: everything[name][tuple(map(slice, tensor.shape))] for name, tensor in plain.state_dict().items()}
    plain.load_state_dict(state)
    return plain.train(wide.training)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("training", [False, True])
def test_equals_leading_slices_and_merges_into_a_narrow_model(wide, widths, training) -> None:
    wide.train(training)
    expected = sliced_by_hand(copy.deepcopy(wide), Block(*widths))
    view = kshot_ext.narrow(wide, Block(*widths).to("meta"))
    merged = kshot_ext.merge(view, CODE)
    kshot_ext.set_code(view, CODE)
    assert [tuple(p.shape) for p in merged.parameters()] == [tuple(p.shape) for p in Block(*widths).parameters()]
    assert type(merged.grouped) is nn.Conv2d
    wanted = expected(images())
    torch.testing.assert_close(merged(images()), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(view(images()), wanted, rtol=1e-5, atol=1e-5)


def test_trains_the_leading_part_of_the_wide_model_and_nothing_else(wide) -> None:
    widths = (9, 3, 5)
    plain = sliced_by_hand(copy.deepcopy(wide), Block(*widths))
    plain(images()).square().sum().backward()
    view = kshot_ext.narrow(wide, Block(*widths).to("meta"))
    kshot_ext.set_code(view, CODE)
    view(images()).square().sum().backward()
    for name, parameter in plain.named_parameters():
        gradient = wide.get_parameter(name).grad
        if name != "act.weight":
            inside = (slice(None), *map(slice, parameter.shape))
            outside = gradient.clone()
            outside[inside] = 0
            assert not outside.any(), name
            gradient = gradient[inside][0] / CODE[0]
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-4, msg=name)
    before = copy.deepcopy(plain.norm.running_mean)
    torch.testing.assert_close(wide.norm.running_mean[:9], before, rtol=1e-5, atol=1e-6)


def test_an_optimiser_step_on_a_narrow_model_equals_the_one_on_dense_gradients(wide) -> None:
    dense = copy.deepcopy(wide)
    steps = [
        (wide, kshot_ext.optim.KShotSGD(wide.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)),
        (dense, torch.optim.SGD(dense.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)),
    ]
    for model, optimizer in steps:
        for widths in ((9, 3, 5), (16, 4, 6)):
            view = kshot_ext.narrow(model, Block(*widths).to("meta"))
            kshot_ext.set_code(view, CODE)
            view(images()).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for (name, parameter), expected in zip(wide.named_parameters(), dense.parameters()):
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6, msg=name)


def test_shares_its_tensors_also_when_the_wide_model_moves_on(wide) -> None:
    view = kshot_ext.narrow(wide, Block(9, 3, 5).to("meta"))
    wide.double()
    assert view.expand.weight is wide.expand.weight
    assert view.norm.running_mean is wide.norm.running_mean
    assert view.norm.running_mean.dtype == torch.float64
    assert view.act is wide.act


def test_follows_the_mode_of_the_wide_model(wide) -> None:
    assert kshot_ext.narrow(wide, Block(9, 3, 5)).training
    assert not kshot_ext.narrow(wide.eval(), Block(9, 3, 5)).norm.training


class Scaled(nn.Module):
    """A parent with a parameter of its own, around layers that can be narrow."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.expand, self.project = nn.Conv2d(4, inner, 1), nn.Conv2d(inner, 4, 1)
        self.scale = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.project(self.expand(x))


def test_parts_of_a_module_with_parameters_of_its_own_are_narrow() -> None:
    wide = kshot_ext.convert(Scaled(8), num_shots=3)
    view = kshot_ext.narrow(wide, Scaled(3))
    kshot_ext.set_code(view, CODE)
    assert view.scale is wide.scale
    assert [p.shape[0] for p in kshot_ext.merge(view, CODE).expand.parameters()] == [3, 3]
    view(images()).sum().backward()
    assert view.expand.weight is wide.expand.weight
    assert not wide.expand.weight.grad[:, 3:].any()


@pytest.mark.filterwarnings("ignore:convert left some layers:UserWarning")
def test_transformer_layers_in_eval_mode() -> None:
    """PyTorch's fused kernel would take the wide layers' dictionaries there."""
    wide = kshot_ext.convert(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), num_shots=3)
    view = kshot_ext.narrow(wide, nn.TransformerEncoderLayer(8, 2, 6, batch_first=True))
    kshot_ext.set_code(view, CODE)
    merged, x = kshot_ext.merge(view), torch.randn(2, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(merged(x), view(x))
    assert merged.linear1.weight.shape == (6, 8)
    assert merged.activation_relu_or_gelu == 1


def with_a_hook() -> nn.Module:
    block = Block(8, 2, 5)
    block.expand.register_forward_hook(lambda *_: None)
    return block


def changed(name: str, layer: nn.Module) -> nn.Module:
    block = Block(8, 2, 5)
    setattr(block, name, layer)
    return block


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (Block(17, 4, 6), r"layer 'expand': KShotConv2d keeps .*16, 4.*17, 4"),
        (changed("depthwise", nn.Conv2d(8, 8, 1, groups=8)), "layer 'depthwise': kernel_size"),
        (changed("depthwise", nn.Conv2d(8, 8, 3, padding=1, groups=8, stride=2)), "layer 'depthwise': stride"),
        (changed("grouped", nn.Conv2d(8, 4, 3, stride=2, padding=1, groups=4)), r"'grouped'.*\(4, 2\).*got \(2, 1\)"),
        (changed("squeeze", nn.Conv2d(8, 2, 1, bias=False)), "layer 'squeeze'.*bias"),
        (changed("extra", nn.Linear(2, 2)), "layer 'extra': expected .*, got none"),
        (changed("act", nn.PReLU(2)), "layer 'act'.*PReLU"),
        (changed("norm", nn.Linear(8, 8)), "layer 'norm'"),
        (with_a_hook(), "layer 'expand' of the plain model has hooks"),
    ],
)
def test_refuses_what_is_no_narrower_form(wide, plain, message) -> None:
    with pytest.raises(ValueError, match=message):
        kshot_ext.narrow(wide, plain)
