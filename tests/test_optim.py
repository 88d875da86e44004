"""KShotSGD against torch.optim.SGD."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kshot_ext
from kshot_ext import functional as KF
from kshot_ext.nn import KShotBatchNorm2d, KShotConv2d, KShotLinear
from kshot_ext.ops.compact_gradient import CompactGradient
from kshot_ext.optim import KShotSGD

SHOTS, STEPS = 4, 20
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"lr": 0.05},
    "weight_decay": {"lr": 0.05, "weight_decay": 0.1},
    "momentum": {"lr": 0.02, "momentum": 0.9},
    "dampening": {"lr": 0.02, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.01},
    "nesterov": {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
}
ALL_SETTINGS = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


class Network(nn.Module):
    """Dictionaries with one use and with several, whole and narrow, gated; and plain parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = KShotConv2d(3, 6, 3, padding=1, num_shots=SHOTS)
        self.norm = KShotBatchNorm2d(6, num_shots=SHOTS)
        self.twice = KShotConv2d(6, 6, 3, padding=1, groups=2, num_shots=SHOTS)
        self.gate = nn.Parameter(torch.linspace(0.5, 1.5, 6))
        self.head = KShotLinear(6, 5, num_shots=SHOTS)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor, code: Tensor, width: int = 6) -> Tensor:
        x = self.norm(self.stem(images, code, gate=self.gate, out_channels=width), code).relu()
        x = x + self.twice(x, code)
        x = x + self.scale * self.twice(x, code.flip(0), gate=self.gate[:width])
        return self.head(x.mean((2, 3)), code)


def network() -> Network:
    """In float64, where twenty steps of training do not blow rounding errors up."""
    torch.manual_seed(0)
    return Network().double()


def loss_of(model: nn.Module, step: int, **options: Any) -> Tensor:
    """Loss of one step: its own images, code and width."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(2, 3, 5, 5, generator=generator, dtype=torch.float64)
    target = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    code = torch.rand(SHOTS, generator=generator, dtype=torch.float64).softmax(0)
    return (model(images, code, **{"width": (6, 3)[step % 2], **options}) - target).square().mean()


Prepare = Callable[[nn.Module, torch.optim.Optimizer, int], None]


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, prepare: Prepare | None = None, steps: range = range(STEPS)
) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        if prepare:
            prepare(model, optimizer, step)
        optimizer.step()


def assert_equal_models(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(
            one.state_dict()[name], tensor, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_trains_as_sgd(settings: dict[str, Any], prepare: Prepare | None = None) -> None:
    ours, theirs = network(), network()
    optimizer, expected = KShotSGD(ours.parameters(), **settings), torch.optim.SGD(theirs.parameters(), **settings)
    before = copy.deepcopy(ours)
    train(ours, optimizer, prepare)
    train(theirs, expected, prepare)
    assert isinstance(ours.head.weight.grad, CompactGradient)
    assert not any(isinstance(p.grad, CompactGradient) for p in theirs.parameters())
    assert_equal_models(ours, theirs)
    assert not torch.allclose(before.stem.weight, ours.stem.weight, atol=1e-3)
    for parameter, twin in zip(ours.parameters(), theirs.parameters()):
        buffer, other = optimizer.state[parameter].get("momentum_buffer"), expected.state[twin].get("momentum_buffer")
        assert (buffer is None) == (other is None)
        if buffer is not None:
            torch.testing.assert_close(buffer, other, rtol=1e-7, atol=1e-9)


@ALL_SETTINGS
def test_twenty_steps_equal_those_of_sgd(settings: dict[str, Any]) -> None:
    assert_trains_as_sgd(settings)


def clip(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    assert norm > 0.1, "the clipping must do something"


def clip_one_by_one(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.1, foreach=False)


def clip_values(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    nn.utils.clip_grad_value_(model.parameters(), 0.01)


def unscale(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(1.0 / (step + 2))


def accumulate(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    for extra in range(3):
        loss_of(model, 100 + step + extra).backward()


def schedule(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.05 / (step + 1)


def none_and_zeros(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Drop the gradients in every way there is, then compute them again."""
    ways: list[Callable[[], None]] = [
        lambda: optimizer.zero_grad(set_to_none=True),
        lambda: optimizer.zero_grad(set_to_none=False),
        lambda: model.zero_grad(),
        lambda: model.zero_grad(set_to_none=False),
    ]
    ways[step % 4]()
    loss_of(model, 200 + step).backward()


PREPARATIONS = (clip, clip_one_by_one, clip_values, unscale, accumulate, schedule, none_and_zeros)


@pytest.mark.parametrize("prepare", PREPARATIONS, ids=lambda prepare: prepare.__name__)
def test_twenty_steps_with_changed_gradients(prepare: Prepare) -> None:
    if prepare is clip_values:  # clamping is no linear change: such a gradient is dense from there on
        settings = SETTINGS["momentum"]
        ours, theirs = network(), network()
        train(ours, KShotSGD(ours.parameters(), **settings), prepare)
        train(theirs, torch.optim.SGD(theirs.parameters(), **settings), prepare)
        assert_equal_models(ours, theirs)
    else:
        assert_trains_as_sgd(SETTINGS["momentum"], prepare)


def test_learning_rate_scheduler() -> None:
    ours, theirs = network(), network()
    for model, kind in ((ours, KShotSGD), (theirs, torch.optim.SGD)):
        optimizer = kind(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for step in range(STEPS):
            train(model, optimizer, steps=range(step, step + 1))
            scheduler.step()
    assert_equal_models(ours, theirs)


def test_grad_scaler() -> None:
    """Unscaling, and the skipped step after an overflow."""
    ours, theirs = network(), network()
    for model, kind in ((ours, KShotSGD), (theirs, torch.optim.SGD)):
        optimizer = kind(model.parameters(), lr=0.05, momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        for step in range(6):
            optimizer.zero_grad()
            factor = torch.inf if step == 2 else 1.0
            scaler.scale(loss_of(model, step) * factor).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 128.0
    assert_equal_models(ours, theirs)
    assert all(parameter.isfinite().all() for parameter in ours.parameters())


def test_parameter_groups() -> None:
    ours, theirs = network(), network()
    for model, kind in ((ours, KShotSGD), (theirs, torch.optim.SGD)):
        groups = [{"params": [model.stem.weight, model.head.weight], "lr": 0.1, "weight_decay": 0.05}]
        optimizer = kind(groups, lr=0.02, momentum=0.5)
        optimizer.add_param_group({"params": [model.twice.weight], "momentum": 0.0})
        train(model, optimizer)
    assert_equal_models(ours, theirs)


def test_codes_per_sample() -> None:
    ours, theirs = network(), network()
    for model, kind in ((ours, KShotSGD), (theirs, torch.optim.SGD)):
        optimizer = kind(model.parameters(), lr=0.02, momentum=0.9)
        for step in range(3):
            optimizer.zero_grad()
            generator = torch.Generator().manual_seed(step)
            codes = torch.rand(2, SHOTS, generator=generator, dtype=torch.float64).softmax(1)
            x = torch.ones(2, 3, 5, 5, dtype=torch.float64)
            (model.stem(x, codes).square().mean() + model.stem(x, codes[0]).square().mean()).backward()
            optimizer.step()
    assert_equal_models(ours, theirs)


@pytest.mark.parametrize("mixed_by", ["effective_weight", "mix_weights"])
def test_a_code_and_a_gate_that_are_updated_before_the_dictionary(mixed_by: str) -> None:
    """The gradient is that of their values in the forward pass."""
    weights = []
    for kind in (KShotSGD, torch.optim.SGD):
        code, gate = nn.Parameter(torch.tensor([0.25, 0.75])), nn.Parameter(torch.tensor([1.0, 2.0]))
        weight = nn.Parameter(torch.ones(2, 2, 3))
        optimizer = kind([code, gate, weight], lr=1.0)
        if mixed_by == "effective_weight":
            mixed = KF.effective_weight(weight, code, gate=gate)
        else:
            (mixed,) = KF.mix_weights([weight], code)
        mixed.sum().backward()
        optimizer.step()
        weights.append(weight.detach())
    assert torch.equal(*weights)


@pytest.mark.parametrize("mixed_by", ["effective_weight", "mix_weights"])
@pytest.mark.parametrize("dictionary_first", [True, False])
def test_a_gradient_that_autograd_gives_to_another_parameter_too(dictionary_first: bool, mixed_by: str) -> None:
    """Scaling one of them in place leaves the other."""
    weight, offset = nn.Parameter(torch.ones(2, 2, 3)), nn.Parameter(torch.ones(2, 3))
    optimizer = KShotSGD([weight, offset], lr=1.0)
    code = torch.tensor([0.25, 0.75])
    shared = offset.unsqueeze(0).squeeze(0) if dictionary_first else offset  # the order of the backward pass
    mixed = KF.effective_weight(weight, code) if mixed_by == "effective_weight" else KF.mix_weights([weight], code)[0]
    ((mixed + shared) * torch.ones(2, 3)).sum().backward()
    assert isinstance(weight.grad, CompactGradient)
    offset.grad.mul_(3)
    optimizer.step()
    assert torch.equal(weight.detach(), (1 - code).reshape(2, 1, 1).expand(2, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    weights = []
    for kind in (KShotSGD, torch.optim.SGD):
        torch.manual_seed(0)
        layer = KShotLinear(6, 5, dtype=dtype, num_shots=SHOTS)
        optimizer = kind(layer.parameters(), lr=0.1, momentum=0.5)
        for step in range(3):
            optimizer.zero_grad()
            x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step)).to(dtype)
            layer(x, torch.tensor([0.1, 0.2, 0.3, 0.4])).square().mean().backward()
            optimizer.step()
        weights.append(layer.weight.detach())
    assert weights[0].dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(*weights, rtol=tolerance, atol=tolerance)


@ALL_SETTINGS
@pytest.mark.parametrize("ours_first", [True, False], ids=["to_torch", "from_torch"])
def test_state_dicts_are_those_of_sgd(settings: dict[str, Any], ours_first: bool) -> None:
    """Half of the steps with one, the rest with the other: as all of them with SGD."""
    kinds = (KShotSGD, torch.optim.SGD) if ours_first else (torch.optim.SGD, KShotSGD)
    mixed, theirs = network(), network()
    first = kinds[0](mixed.parameters(), **settings)
    train(mixed, first, steps=range(STEPS // 2))
    second = kinds[1](mixed.parameters(), lr=123.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    del first
    mixed.zero_grad()
    train(mixed, second, steps=range(STEPS // 2, STEPS))
    train(theirs, torch.optim.SGD(theirs.parameters(), **settings))
    assert_equal_models(mixed, theirs)


def test_closure() -> None:
    ours, theirs = network(), network()
    losses = []
    for model, kind in ((ours, KShotSGD), (theirs, torch.optim.SGD)):
        optimizer = kind(model.parameters(), lr=0.05)

        def closure(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, 0)
            loss.backward()
            return loss

        losses.append([optimizer.step(closure).item() for _ in range(3)])
    torch.testing.assert_close(*map(torch.tensor, losses))
    assert_equal_models(ours, theirs)


def test_deep_copy_of_the_model_while_gradients_are_compact() -> None:
    model = network()
    optimizer = KShotSGD(model.parameters(), lr=0.05)
    loss_of(model, 0).backward()
    twin = copy.deepcopy(model)
    optimizer.step()
    untouched = network()
    assert all(torch.equal(p, q) for p, q in zip(twin.parameters(), untouched.parameters()))
    train(twin, torch.optim.SGD(twin.parameters(), lr=0.05), steps=range(1))
    for parameter, trained in zip(twin.parameters(), model.parameters()):
        torch.testing.assert_close(parameter, trained)


OTHERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "adamw_foreach": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, foreach=True),
    "adam_fused": lambda parameters: torch.optim.Adam(parameters, lr=0.01, fused=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "sgd_foreach": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, foreach=True),
    "sgd_fused": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, fused=True),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("alive", [True, False], ids=["compact_gradients_present", "dropped"])
def test_other_optimizers_work_on_the_same_model(other: Callable[[Any], torch.optim.Optimizer], alive: bool) -> None:
    ours, theirs = network(), network()
    keep = [KShotSGD(ours.parameters(), lr=0.05)]
    if not alive:
        keep.clear()
    optimizer = other(list(ours.parameters()))
    train(ours, optimizer, steps=range(3))
    assert isinstance(ours.head.weight.grad, CompactGradient) == alive
    train(theirs, other(list(theirs.parameters())), steps=range(3))
    assert_equal_models(ours, theirs)


def bytes_held(tensor: Tensor) -> int:
    """Bytes of a gradient as it is stored."""
    if not isinstance(tensor, CompactGradient):
        return tensor.nbytes
    return sum(part.nbytes for use in tensor.uses for part in use if part is not None)


def test_no_gradient_of_the_size_of_the_dictionary_is_stored() -> None:
    layer = KShotConv2d(8, 16, 3, num_shots=8)
    plain = nn.Conv2d(8, 16, 3)
    optimizer = KShotSGD(layer.parameters(), lr=0.1)
    code = torch.full((8,), 1 / 8)
    layer(torch.randn(1, 8, 5, 5), code).sum().backward()
    for parameter, one_copy in zip(layer.parameters(), plain.parameters()):
        assert bytes_held(parameter.grad) <= one_copy.nbytes + code.nbytes
    optimizer.step()
    assert isinstance(layer.weight.grad, CompactGradient), "the step must not materialise it either"
    assert bytes_held(layer.weight.grad) <= plain.weight.nbytes + code.nbytes


def test_compact_gradients_of_mixed_weights() -> None:
    """All layers of a path mixed at once."""
    weights = []
    for kind in (KShotSGD, torch.optim.SGD):
        torch.manual_seed(0)
        layers = [KShotLinear(4, 4, bias=False, num_shots=3) for _ in range(2)]
        optimizer = kind([layer.weight for layer in layers], lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            first, second = KF.mix_weights([layer.weight for layer in layers], torch.tensor([0.2, 0.3, 0.5]))
            (torch.ones(2, 4) @ first.mT @ second.mT).square().mean().backward()
            optimizer.step()
        weights.append(torch.stack([layer.weight.detach() for layer in layers]))
    torch.testing.assert_close(*weights)


def test_under_compilation_gradients_are_dense_and_right() -> None:
    torch.compiler.reset()
    ours, theirs = network(), network()
    optimizer = KShotSGD(ours.parameters(), lr=0.05)
    compiled = torch.compile(ours, backend="aot_eager")
    loss_of(compiled, 0).backward()
    optimizer.step()
    train(theirs, torch.optim.SGD(theirs.parameters(), lr=0.05), steps=range(1))
    assert_equal_models(ours, theirs)


def test_reference_backend() -> None:
    native, plain = network(), network()
    train(native, KShotSGD(native.parameters(), **SETTINGS["nesterov"]))
    with kshot_ext.backend.use_reference():
        train(plain, KShotSGD(plain.parameters(), **SETTINGS["nesterov"]))
    assert_equal_models(plain, native)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -0.1}, "lr must be >= 0, got -0.1"),
        ({"lr": float("nan")}, "lr must be >= 0, got nan"),
        ({"momentum": -1}, "momentum must be >= 0, got -1"),
        ({"weight_decay": -1}, "weight_decay must be >= 0, got -1"),
        ({"nesterov": True}, "nesterov needs momentum > 0 and dampening 0, got momentum 0.0"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov needs .* dampening 0.1"),
    ],
)
def test_rejects(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KShotSGD([nn.Parameter(torch.zeros(2, 2))], **settings)
