"""KShotSGD against torch.optim.SGD."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from training import SETTINGS, SHOTS, STEPS, Prepare, assert_equal_models, loss_of, network, train

import kshot_ext
from kshot_ext import functional as KF
from kshot_ext.nn import KShotLinear
from kshot_ext.ops.compact_gradient import SumOfUses
from kshot_ext.ops.gradient_slot import gradient_in_slot
from kshot_ext.optim import KShotSGD

ALL_SETTINGS = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def assert_trains_as_sgd(
    settings: dict[str, Any], prepare: Prepare | None = None, theirs_prepare: Prepare | None = None
) -> None:
    """And without a dense gradient of a dictionary."""
    ours, theirs = network(), network()
    optimizer, expected = KShotSGD(ours.parameters(), **settings), torch.optim.SGD(theirs.parameters(), **settings)
    before = copy.deepcopy(ours)
    train(ours, optimizer, prepare)
    train(theirs, expected, theirs_prepare or prepare)
    assert isinstance(gradient_in_slot(ours.head.weight), SumOfUses)
    assert not any(isinstance(gradient_in_slot(p), SumOfUses) for p in theirs.parameters())
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


def clip_compact(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    assert kshot_ext.optim.clip_grad_norm_(model.parameters(), 0.1, foreach=step % 2 == 0) > 0.1


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


def zeros_of_the_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """In the odd steps the gradient is zero, so that only momentum moves the weights."""
    optimizer.zero_grad(set_to_none=False)
    if step % 2 == 0:
        loss_of(model, 300 + step).backward()


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


@pytest.mark.parametrize("prepare", [clip, clip_values, unscale, none_and_zeros], ids=lambda prepare: prepare.__name__)
def test_twenty_steps_with_changed_gradients(prepare: Prepare) -> None:
    settings = SETTINGS["momentum"]
    ours, theirs = network(), network()
    train(ours, KShotSGD(ours.parameters(), **settings), prepare)
    train(theirs, torch.optim.SGD(theirs.parameters(), **settings), prepare)
    assert_equal_models(ours, theirs)


@pytest.mark.parametrize(
    ("prepare", "theirs"),
    [(clip_compact, clip), (zeros_of_the_optimizer, None), (accumulate, None), (schedule, None)],
    ids=lambda prepare: getattr(prepare, "__name__", ""),
)
def test_twenty_steps_with_gradients_that_stay_compact(prepare: Prepare, theirs: Prepare | None) -> None:
    assert_trains_as_sgd(SETTINGS["momentum"], prepare, theirs)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_the_usual_loop_makes_no_dense_gradient_of_a_dictionary(
    set_to_none: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    optimizer = KShotSGD(model.parameters(), lr=0.05, momentum=0.9)
    monkeypatch.setattr(SumOfUses, "dense", lambda gradient: pytest.fail("a dense gradient was made"))
    for step in range(3):
        optimizer.zero_grad(set_to_none)
        loss_of(model, step).backward()
        kshot_ext.optim.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()


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


class _CallCounter(TorchDispatchMode):
    """How often the operators of kshot_ext run inside it."""

    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += function.namespace == "kshot_ext"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dampening", [0.0, 0.5])
def test_one_call_updates_all_parameters_of_a_group(dampening: float) -> None:
    model = network()
    optimizer = KShotSGD(model.parameters(), lr=0.05, momentum=0.9, dampening=dampening)
    train(model, optimizer, steps=range(1))
    model.unused.grad = torch.ones_like(model.unused)  # its first step, which is not dampened
    with _CallCounter() as counter:
        optimizer.step()
    assert counter.calls == (2 if dampening else 1)


def test_momentum_taken_away() -> None:
    """Buffers that a state brings along stay as they are, and nothing is dampened."""
    states = []
    for kind in (KShotSGD, torch.optim.SGD):
        model = network()
        optimizer = kind(model.parameters(), **SETTINGS["dampening"])
        train(model, optimizer, steps=range(2))
        for group in optimizer.param_groups:
            group["momentum"] = 0.0
        train(model, optimizer, steps=range(2, 4))
        states.append((model, [optimizer.state[p].get("momentum_buffer") for p in model.parameters()]))
    assert_equal_models(states[0][0], states[1][0])
    for one, other in zip(states[0][1], states[1][1]):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_state_without_the_newest_settings() -> None:
    model = network()
    optimizer = KShotSGD(model.parameters(), lr=0.05)
    state = optimizer.state_dict()
    for name in ("maximize", "foreach", "differentiable", "fused"):
        del state["param_groups"][0][name]
    optimizer.load_state_dict(state)
    train(model, optimizer, steps=range(1))
    assert optimizer.param_groups[0]["maximize"] is False
    assert optimizer.param_groups[0]["differentiable"] is False


@pytest.mark.parametrize("settings", [{"fused": True}, {"foreach": True}, {"foreach": False, "fused": False}], ids=str)
def test_the_ways_torch_runs_make_no_difference(settings: dict[str, Any]) -> None:
    assert_trains_as_sgd({**SETTINGS["nesterov"], **settings})


def test_settings_that_are_tensors() -> None:
    ours, theirs = network(), network()
    for model, kind in ((ours, KShotSGD), (theirs, torch.optim.SGD)):
        settings = {"lr": torch.tensor([0.02]), "weight_decay": torch.tensor(0.01)}
        train(model, kind(model.parameters(), momentum=0.5, **settings), steps=range(4))
    assert_equal_models(ours, theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -0.1}, "lr must be >= 0, got -0.1"),
        ({"lr": float("nan")}, "lr must be >= 0, got nan"),
        ({"lr": torch.ones(2)}, r"lr must be a number or a tensor with one element, got shape \[2\]"),
        ({"momentum": -1}, "momentum must be >= 0, got -1"),
        ({"weight_decay": -1}, "weight_decay must be >= 0, got -1"),
        ({"nesterov": True}, "nesterov needs momentum > 0 and dampening 0, got momentum 0.0"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov needs .* dampening 0.1"),
        ({"differentiable": True}, "KShotSGD does not support differentiable=True: its kernels have no derivative"),
    ],
)
def test_rejects(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KShotSGD([nn.Parameter(torch.zeros(2, 2))], **settings)
