"""Codes per sample in networks that move their batch: each sample is computed by its own mixed weights."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn

import kshot_ext
from kshot_ext.nn.sample_rows import MixedRows, SampleRows, SharedRows, rows_that_changed

SAMPLES = 4
CODES = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5], [0.0, 0.6, 0.4], [0.1, 0.8, 0.1]], dtype=torch.float64)


class Windows(nn.Module):
    """Runs its layers on the four quarters of each image, as rows of a batch."""

    def __init__(self, *layers: nn.Module, quarters_first: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.quarters_first = quarters_first

    def forward(self, images: Tensor) -> Tensor:
        samples, channels, side, _ = images.shape
        half = side // 2
        order = (2, 4, 0, 1, 3, 5) if self.quarters_first else (0, 2, 4, 1, 3, 5)
        rows = images.view(samples, channels, 2, half, 2, half).permute(order).reshape(-1, channels, half, half)
        rows = self.layers(rows)
        first, second = (4, samples) if self.quarters_first else (samples, 4)
        rows = rows.reshape(first, second, *rows.shape[1:])
        return (rows.transpose(0, 1) if self.quarters_first else rows).reshape(samples, -1)


class ChannelsLast(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.movedim(1, -1)


class OverTheBatch(nn.Module):
    """Adds what all samples have in common."""

    def forward(self, input: Tensor) -> Tensor:
        return input + input.mean(dim=0)


def windows(*, quarters_first: bool) -> nn.Module:
    layers = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), ChannelsLast(), nn.Linear(6, 5)
    return nn.Sequential(nn.Conv2d(3, 2, 1), Windows(*layers, quarters_first=quarters_first)).double().eval()


def positions_first() -> nn.Module:
    return nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0).double().eval()


def images(side: int = 8, samples: int = SAMPLES) -> Tensor:
    return torch.randn(samples, 3, side, side, dtype=torch.float64)


def one_by_one(model: nn.Module, input: Tensor, axis: int = 0, codes: Tensor = CODES) -> Tensor:
    """What plain networks compute, each with the weights of one sample's code, sample by sample."""
    outputs = [kshot_ext.merge(model, code)(input.narrow(axis, n, 1)) for n, code in enumerate(codes)]
    return torch.cat(outputs, dim=axis)


@pytest.mark.parametrize("quarters_first", [False, True])
@pytest.mark.parametrize("side", [8, 12])
def test_each_window_is_computed_by_the_code_of_its_sample(quarters_first: bool, side: int) -> None:
    model = kshot_ext.convert(windows(quarters_first=quarters_first), num_shots=3, perturbation=1.0)
    found = kshot_ext.find_batch_axes(model, images(samples=3))
    assert found["0"] == SampleRows(0)
    assert found["1.layers.4"] == SampleRows(0, together=not quarters_first)
    kshot_ext.set_code(model, CODES)
    input = images(side)
    torch.testing.assert_close(model(input), one_by_one(model, input))


@pytest.mark.parametrize("positions", [SAMPLES, 6])
def test_each_sample_behind_its_positions_is_computed_by_its_code(positions: int) -> None:
    model = kshot_ext.convert(positions_first(), num_shots=3, perturbation=1.0)
    input = torch.randn(positions, SAMPLES, 6, dtype=torch.float64)
    found = kshot_ext.find_batch_axes(model, torch.randn(5, 3, 6, dtype=torch.float64), batch_axis=1)
    assert found["linear1"] == found["linear2"] == SampleRows(1)
    kshot_ext.set_code(model, CODES)
    torch.testing.assert_close(model(input), one_by_one(model, input, axis=1))


class Sentences(nn.Module):
    """Positions first: `[L, N]` tokens become `[L, N, 6]`."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 6)
        self.norm = nn.LayerNorm(6)
        self.score = nn.Linear(6, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.score(self.norm(self.table(tokens)).relu())


def test_layers_that_torch_computes_know_their_samples_too() -> None:
    model = kshot_ext.convert(Sentences().double(), num_shots=3, perturbation=1.0)
    found = kshot_ext.find_batch_axes(model, torch.randint(9, (5, 3)), batch_axis=1)
    assert found == dict.fromkeys(("table", "norm", "score"), SampleRows(1))
    tokens = torch.randint(9, (SAMPLES, SAMPLES))
    kshot_ext.set_code(model, CODES)
    torch.testing.assert_close(model(tokens), one_by_one(model, tokens, axis=1))
    assert model.norm(input=torch.ones(4, 4, 6, dtype=torch.float64)).shape == (4, 4, 6)


@pytest.mark.parametrize("kind", [nn.GroupNorm(2, 6), nn.ConvTranspose2d(6, 4, 2), nn.BatchNorm2d(6)])
def test_windows_of_other_kinds_of_layers(kind: nn.Module) -> None:
    model = kshot_ext.convert(nn.Sequential(Windows(nn.Conv2d(3, 6, 1), kind)).double().eval(), 3, perturbation=1.0)
    kshot_ext.find_batch_axes(model, images())
    kshot_ext.set_code(model, CODES)
    input = images()
    torch.testing.assert_close(model(input), one_by_one(model, input))


def test_gradients_are_those_of_the_networks_one_by_one() -> None:
    model = kshot_ext.convert(windows(quarters_first=True), num_shots=3, perturbation=1.0)
    kshot_ext.find_batch_axes(model, images())
    input, weights = images(), torch.randn(SAMPLES, 4 * 16 * 5, dtype=torch.float64)
    kshot_ext.set_code(model, CODES)
    (model(input) * weights).sum().backward()
    together = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for n, code in enumerate(CODES):
        kshot_ext.set_code(model, code)
        (model(input[n : n + 1]) * weights[n]).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad, msg=name)


def test_chains_keep_to_the_samples_too() -> None:
    depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
    layers = nn.Conv2d(2, 64, 1), depthwise, nn.BatchNorm2d(64), nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 2, 1), Windows(*layers)).eval().to(memory_format=torch.channels_last)
    model = kshot_ext.convert(model, num_shots=3, perturbation=1.0)
    input = images(16).float().to(memory_format=torch.channels_last)
    kshot_ext.find_batch_axes(model, input)
    kshot_ext.set_code(model, CODES.float())
    torch.testing.assert_close(model(input), one_by_one(model, input, codes=CODES.float()))


def test_rows_that_no_sample_reaches_are_padding() -> None:
    before = torch.zeros(8, 5)
    after = before.clone()
    after[2] = 1.0  # of the second of four samples, whose other row is padding
    assert rows_that_changed(before, after, 1, 4, range(1)) == SampleRows(0)
    after[5] = 1.0
    assert rows_that_changed(before, after, 1, 4, range(1)) == MixedRows()


def test_rows_that_two_axes_explain_belong_to_neither() -> None:
    before = torch.zeros(3, 3, 5)
    after = before.clone()
    after[1, 1] = 1.0
    assert rows_that_changed(before, after, 1, 3, range(2)) == MixedRows()


def test_a_gate_per_sample_goes_along() -> None:
    layer = kshot_ext.nn.KShotLinear(6, 5, num_shots=3).double()
    layer.sample_rows = SampleRows(0, together=False)
    kshot_ext.set_code(layer, CODES)
    gate, input = torch.rand(SAMPLES, 5, dtype=torch.float64), torch.randn(2 * SAMPLES, 6, dtype=torch.float64)
    expected = torch.cat([layer(half, CODES, gate=gate) for half in input.chunk(2)])
    torch.testing.assert_close(layer(input, gate=gate), expected)


def test_what_could_be_read_in_two_ways_is_refused() -> None:
    model = kshot_ext.convert(positions_first(), num_shots=3)
    kshot_ext.set_code(model, CODES)
    message = "needs to know which axis of input counts samples, as axes [0, 1] of [4, 4, 6] are of the code's size"
    with pytest.raises(ValueError, match=re.escape(message)):
        model(torch.randn(SAMPLES, SAMPLES, 6, dtype=torch.float64))
    with pytest.raises(
        ValueError, match=re.escape("must have N = 7 rows like input, got 4; where samples have several")
    ):
        model(torch.randn(7, SAMPLES, 6, dtype=torch.float64))


def test_what_can_be_read_in_one_way_needs_no_words() -> None:
    layer = kshot_ext.nn.KShotLinear(4, 2, num_shots=3).double()
    kshot_ext.set_code(layer, CODES)
    for shape in ((4,), (4, 5, 4), (4, 3, 3, 4)):  # the last axis holds features
        input = torch.randn(*shape[:1], *shape[1:-1], 4, dtype=torch.float64)
        torch.testing.assert_close(layer(input), layer(input, CODES))
    kshot_ext.set_code(layer, CODES[:1])
    assert layer(torch.randn(1, 1, 4, dtype=torch.float64)).shape == (1, 1, 2)


def test_rows_that_no_code_divides_are_refused() -> None:
    model = kshot_ext.convert(windows(quarters_first=False), num_shots=3)
    kshot_ext.find_batch_axes(model, images())
    kshot_ext.set_code(model, CODES)
    with pytest.raises(ValueError, match="must have N = 3 rows like axis 0 of input, or a divisor of that"):
        model(images(samples=3))


def test_a_layer_that_sees_all_samples_at_once_is_named_and_refuses() -> None:
    model = nn.Sequential(nn.Linear(6, 6), OverTheBatch(), nn.Linear(6, 6)).double()
    model = kshot_ext.convert(model, num_shots=3)
    found = kshot_ext.find_batch_axes(model, torch.randn(3, 6, dtype=torch.float64))
    assert found == {"0": SampleRows(0), "2": MixedRows()}
    kshot_ext.set_code(model, CODES)
    with pytest.raises(ValueError, match="its input mixes samples, as"):
        model(torch.randn(SAMPLES, 6, dtype=torch.float64))
    kshot_ext.set_code(model, CODES[0])
    assert model(torch.randn(SAMPLES, 6, dtype=torch.float64)).shape == (SAMPLES, 6)


class Offset(nn.Module):
    """Adds what a layer makes of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 6))
        self.project = nn.Linear(6, 6)

    def forward(self, input: Tensor) -> Tensor:
        return input + self.project(self.table)


def test_a_layer_that_sees_no_sample_is_named_and_refuses() -> None:
    model = kshot_ext.convert(nn.Sequential(nn.Linear(6, 6), Offset()).double(), num_shots=3)
    found = kshot_ext.find_batch_axes(model, torch.randn(3, 6, dtype=torch.float64))
    assert found == {"0": SampleRows(0), "1.project": SharedRows()}
    kshot_ext.set_code(model, CODES)
    with pytest.raises(ValueError, match="its input is the same whatever the samples are"):
        model(torch.randn(SAMPLES, 6, dtype=torch.float64))


def test_a_layer_whose_calls_differ_refuses() -> None:
    shared = nn.Linear(4, 4)
    model = kshot_ext.convert(nn.Sequential(shared, OverTheBatch(), shared).double(), num_shots=3)
    assert kshot_ext.find_batch_axes(model, torch.randn(3, 4, dtype=torch.float64)) == {"0": MixedRows()}


def test_looking_changes_nothing_else_and_lasts() -> None:
    model = kshot_ext.convert(windows(quarters_first=False), num_shots=3).train()
    model[0].eval()
    kshot_ext.set_code(model, CODES)
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    kshot_ext.find_batch_axes(model, images())
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model[0]._code is CODES
    assert all(not module._forward_pre_hooks for module in model.modules())
    copied = copy.deepcopy(model)
    assert copied[0].sample_rows == SampleRows(0)
    with pytest.raises(ValueError, match="needs a code of 3 entries"):
        copied(images())
    plain = kshot_ext.merge(model, CODES[0])
    assert not hasattr(plain[0], "sample_rows")


def test_layers_that_are_not_reached_keep_what_they_knew() -> None:
    model = kshot_ext.convert(nn.ModuleDict({"used": nn.Linear(3, 3), "not": nn.Linear(3, 3)}), num_shots=2)
    model["not"].sample_rows = SampleRows(1)
    model.forward = model["used"].forward
    assert kshot_ext.find_batch_axes(model, torch.randn(3, 3)) == {}  # its forward was called, and no layer as such
    assert model["not"].sample_rows == SampleRows(1)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((), "expected tensors with samples on axis 0, got none"),
        ((torch.randn(2, 6),), "expected 3 samples or more on axis 0, got 2"),
        ((torch.ones(3, 6),), "expected samples that differ, got equal ones on axis 0"),
    ],
)
def test_examples_that_cannot_tell_are_refused(example: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kshot_ext.find_batch_axes(kshot_ext.convert(nn.Sequential(nn.Linear(6, 2))), *example)
    with pytest.raises(ValueError, match="holds no K-shot layer"):
        kshot_ext.find_batch_axes(nn.Linear(6, 2), *example)


def test_a_chain_of_mixed_samples_refuses_as_its_layers_do() -> None:
    """There are as many rows as codes, so the number alone says nothing against it."""
    depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
    model = nn.Sequential(OverTheBatch(), depthwise, nn.BatchNorm2d(64), nn.ReLU()).eval()
    model = kshot_ext.convert(model.to(memory_format=torch.channels_last), num_shots=3)
    input = torch.randn(SAMPLES, 64, 8, 8).to(memory_format=torch.channels_last)
    assert kshot_ext.find_batch_axes(model, input)["1"] == MixedRows()
    kshot_ext.set_code(model, CODES.float())
    with pytest.raises(ValueError, match="its input mixes samples, as"):
        model(input)
