"""The convolution that learns its groups, and its export."""

from __future__ import annotations

import copy
import io
import itertools
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kshot_ext
from kshot_ext.nn import ChannelPermutation, DynamicGroupConv2d, KShotConv2d, export_dynamic_groups

CODE = torch.tensor([0.2, 0.5, 0.3])


def layer_with(gates: tuple[int, ...], in_channels: int = 16, out_channels: int = 16, **options) -> DynamicGroupConv2d:
    layer = DynamicGroupConv2d(in_channels, out_channels, 3, num_shots=3, num_gates=len(gates), **options)
    layer.group_gates.data.copy_(torch.tensor(gates) - 0.5)
    return layer


@pytest.mark.parametrize("gates", tuple(itertools.product((0, 1), repeat=4)), ids=str)
@pytest.mark.parametrize(("in_channels", "out_channels"), [(16, 16), (48, 16), (16, 32)])
def test_export_equals_the_masked_layer(gates: tuple[int, ...], in_channels: int, out_channels: int) -> None:
    layer = layer_with(gates, in_channels, out_channels, padding=1, stride=2)
    exported, images = layer.export(CODE), torch.randn(2, in_channels, 7, 6)
    convolutions = [part for part in exported.modules() if isinstance(part, nn.Conv2d)]
    assert [convolution.groups for convolution in convolutions] == [2 ** (4 - sum(gates))] == [layer.groups]
    assert sum(p.numel() for p in exported.parameters()) == layer.weight[0].numel() // layer.groups + out_channels
    torch.testing.assert_close(exported(images), layer(images, CODE), rtol=1e-5, atol=1e-5)
    side_by_side = list(gates) == sorted(gates)  # zeros first
    assert isinstance(exported, nn.Conv2d if side_by_side or sum(gates) == 4 else nn.Sequential)


@pytest.mark.parametrize(
    "options", [{"bias": False}, {"padding": "same"}, {"padding": 2, "padding_mode": "reflect"}, {"dilation": 2}]
)
def test_export_keeps_the_window(options: dict) -> None:
    layer, images = layer_with((1, 0), 4, 8, **options), torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(layer.export(CODE)(images), layer(images, CODE), rtol=1e-5, atol=1e-5)


def test_export_shares_nothing_and_stands_in_the_layers_mode() -> None:
    layer = layer_with((0, 1)).eval()
    exported = layer.export(CODE)
    assert not exported.training
    before = [parameter.clone() for parameter in layer.parameters()]
    for parameter in exported.parameters():
        assert parameter.requires_grad
        parameter.data.zero_()
    assert all(torch.equal(one, other) for one, other in zip(before, layer.parameters()))


def test_the_gate_is_straight_through() -> None:
    """Forward the hard gate; backward the derivative of the masked convolution by the relation's factors."""
    layer, images = layer_with((0, 1, 1, 0)), torch.randn(2, 16, 5, 5)
    layer(images, CODE).square().sum().backward()
    gates = torch.tensor([0.0, 1.0, 1.0, 0.0], requires_grad=True)
    factors = [gate * torch.ones(2, 2) + (1 - gate) * torch.eye(2) for gate in gates]
    relation = torch.kron(torch.kron(torch.kron(factors[0], factors[1]), factors[2]), factors[3])
    weight = relation[..., None, None] * torch.einsum("k,koiyx->oiyx", CODE, layer.weight.detach())
    F.conv2d(images, weight, CODE @ layer.bias.detach()).square().sum().backward()
    torch.testing.assert_close(layer.group_gates.grad, gates.grad, rtol=1e-4, atol=1e-3)


def test_log2_groups_counts_and_pushes_every_gate_alike() -> None:
    layer = layer_with((0, 1, 0))
    count = layer.log2_groups()
    assert (count.item(), layer.groups) == (2, 4)
    count.backward()
    assert layer.group_gates.grad.tolist() == [-1, -1, -1]


def test_a_gate_of_exactly_zero_is_closed() -> None:
    layer = layer_with((1, 1))
    layer.group_gates.data.zero_()
    assert layer.groups == 4
    assert layer.hard_gates().tolist() == [0, 0]


@pytest.mark.parametrize("channels", [(16, 16), (12, 32), (7, 7), (3, 16)])
def test_starts_as_a_grouped_convolution_of_torch_would(channels: tuple[int, int]) -> None:
    """As spread out as torch's with so many groups, and every number of groups can come."""
    found = set()
    for seed in range(20):
        torch.manual_seed(seed)
        layer = DynamicGroupConv2d(*channels, 3, num_shots=2)
        plain = nn.Conv2d(*channels, 3, groups=layer.groups)
        bound = plain.weight[0].numel() ** -0.5
        for parameter in (layer.weight, layer.bias):
            assert 0.7 * bound < parameter.abs().max() <= bound * 1.0001
        assert layer.group_gates.abs().le(1e-8).all()
        found.add(layer.groups)
    assert len(found) > 1 or layer.num_gates < 2


def test_code_from_set_code_and_without_copies() -> None:
    images = torch.randn(1, 8, 5, 5)
    layer = layer_with((0, 1, 0), 8, 8)
    model = nn.Sequential(layer)
    kshot_ext.set_code(model, CODE)
    torch.testing.assert_close(model(images), layer(images, CODE))
    single = DynamicGroupConv2d(8, 8, 3, num_shots=1)
    torch.testing.assert_close(single(images), single(images, torch.ones(1)))
    torch.testing.assert_close(single.export()(images), single(images), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="DynamicGroupConv2d needs a code of 3 entries"):
        layer_with((0,))(torch.zeros(1, 16, 5, 5))


def test_a_code_per_sample_is_a_layer_per_sample() -> None:
    layer, images, codes = layer_with((0, 1)), torch.randn(2, 16, 5, 5), torch.rand(2, 3)
    each = torch.cat([layer(images[n : n + 1], codes[n]) for n in range(2)])
    torch.testing.assert_close(layer(images, codes), each, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"code must have shape \[K\]: a plain layer has one weight; got \[2, 3\]"):
        layer.export(codes)


def test_state_dicts_copies_and_pickles() -> None:
    layer, other, images = layer_with((0, 1, 1)), layer_with((1, 0, 0)), torch.randn(1, 16, 5, 5)
    expected = layer(images, CODE)
    stored = io.BytesIO()
    torch.save(layer.state_dict(), stored)
    stored.seek(0)
    other.load_state_dict(torch.load(stored, weights_only=True))
    for twin in (other, copy.deepcopy(layer)):
        assert torch.equal(twin(images, CODE), expected)
    exported, empty = layer_with((1, 0, 1)).export(CODE), layer_with((1, 0, 1)).export(CODE)
    empty.load_state_dict(exported.state_dict())
    assert torch.equal(empty(images), exported(images))


def test_compiles_without_breaks() -> None:
    torch.compiler.reset()
    layer, images = layer_with((0, 1)), torch.randn(2, 16, 5, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images, CODE), layer(images, CODE))
    compiled(images, CODE).sum().backward()
    assert layer.group_gates.grad is not None


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_training_finds_the_groups_of_a_teacher(groups: int) -> None:
    """The weights first; then gates, each asked a little for every step that it is open; at last the weights alone."""
    teacher, layer = nn.Conv2d(4, 4, 1, groups=groups, bias=False), DynamicGroupConv2d(4, 4, 1, bias=False, num_shots=1)
    layer.group_gates.data.fill_(0.1)
    weights, gates = torch.optim.Adam([layer.weight], lr=0.03), torch.optim.SGD([layer.group_gates], lr=0.05)
    opened = torch.zeros(2)  # how often each gate was open
    for step in range(300):
        images = torch.randn(32, 4, 1, 1)
        target = teacher(images)
        loss = F.mse_loss(layer(images), target) / target.var()
        weights.zero_grad()
        gates.zero_grad()
        (loss - 0.05 * layer.log2_groups()).backward()
        weights.step()
        if 100 <= step < 200:
            gates.step()
            opened += layer.hard_gates().detach()
        if step == 200:  # a gate that is needed is seldom closed, and opens at once
            layer.group_gates.data.copy_(opened / 100 - 0.5)
    assert (layer.groups, bool(loss < 1e-4)) == (groups, True)


def model_of_three() -> nn.Module:
    shared = layer_with((0, 1), 8, 8, padding=1)
    return nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, KShotConv2d(8, 4, 1, num_shots=3)), "c": nn.ReLU()})


def test_export_of_a_model_replaces_its_layers_wherever_they_are() -> None:
    model, images = model_of_three(), torch.randn(2, 8, 5, 5)
    exported = export_dynamic_groups(model, CODE)
    assert exported["a"] is exported["b"][0]
    assert isinstance(exported["a"], nn.Conv2d)
    assert isinstance(exported["b"][1], KShotConv2d)
    assert isinstance(model["a"], DynamicGroupConv2d)
    kshot_ext.set_code(model, CODE)
    expected = model["b"](images)
    kshot_ext.set_code(exported, CODE)
    merged = kshot_ext.merge(exported)
    torch.testing.assert_close(merged["b"](images), expected, rtol=1e-5, atol=1e-5)
    assert isinstance(export_dynamic_groups(layer_with((0, 0)), CODE), nn.Conv2d)


def test_export_of_a_model_names_what_it_cannot() -> None:
    with pytest.raises(ValueError, match="Sequential holds no DynamicGroupConv2d"):
        export_dynamic_groups(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="layer 'a': DynamicGroupConv2d needs a code of 3 entries"):
        export_dynamic_groups(model_of_three())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_gates": 3}, "num_gates must be 0 to 2, .* out_channels = 4 and in_channels = 12; got 3"),
        ({"num_gates": -1}, "num_gates must be 0 to 2"),
        ({"num_shots": 0}, "num_shots must be an int >= 1"),
        ({"padding_mode": "nowhere"}, "padding_mode"),
    ],
)
def test_rejects(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicGroupConv2d(12, 4, 3, **options)


@pytest.mark.parametrize("order", [torch.tensor([0, 0, 1]), torch.tensor([1, 2]), torch.tensor([[0, 1]])])
def test_an_order_must_be_a_permutation(order: Tensor) -> None:
    with pytest.raises(ValueError, match="order must be a permutation of 0 to"):
        ChannelPermutation(order)


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "dynamic_groups.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(example, {})
    groups, equal = capsys.readouterr().out.splitlines()
    assert equal == "True"
    assert len(groups.split(",")) == 2
