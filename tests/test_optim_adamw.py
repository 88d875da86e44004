"""KShotAdamW against torch.optim.AdamW."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from training import SHOTS, STEPS, Prepare, assert_equal_models, loss_of, network, train

import kshot_ext
from kshot_ext.nn import KShotLinear
from kshot_ext.ops.compact_gradient import SumOfUses
from kshot_ext.ops.gradient_slot import gradient_in_slot
from kshot_ext.optim import KShotAdamW

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")

KINDS = (KShotAdamW, torch.optim.AdamW)
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "without_decay": {"lr": 0.01, "weight_decay": 0.0},
    "decay": {"lr": 0.02, "weight_decay": 0.5},
    "betas": {"lr": 0.01, "betas": (0.5, 0.75), "eps": 1e-3},
    "amsgrad": {"lr": 0.02, "betas": (0.9, 0.9), "amsgrad": True},
    "maximize": {"lr": 0.01, "maximize": True},
    "tensors": {"lr": torch.tensor([0.02]).double(), "betas": tuple(torch.tensor([0.75, 0.875]).double())},
}
ALL_SETTINGS = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def is_compact(parameter: Tensor) -> bool:
    return isinstance(gradient_in_slot(parameter), SumOfUses)


def assert_equal_states(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> None:
    for group, other_group in zip(ours.param_groups, theirs.param_groups):
        for parameter, twin in zip(group["params"], other_group["params"]):
            state, other = ours.state[parameter], theirs.state[twin]
            assert state.keys() == other.keys()
            for name in state:
                torch.testing.assert_close(state[name].double(), other[name].double(), rtol=1e-7, atol=1e-9)


def assert_trains_as_adamw(
    settings: dict[str, Any], prepare: Prepare | None = None, theirs_prepare: Prepare | None = None
) -> None:
    """And without a dense gradient of a dictionary."""
    ours, theirs = network(), network()
    optimizer, expected = (kind(model.parameters(), **settings) for kind, model in zip(KINDS, (ours, theirs)))
    before = copy.deepcopy(ours)
    train(ours, optimizer, prepare)
    train(theirs, expected, theirs_prepare or prepare)
    assert is_compact(ours.head.weight)
    assert not any(is_compact(p) for p in theirs.parameters())
    assert_equal_models(ours, theirs)
    assert_equal_states(optimizer, expected)
    assert not torch.allclose(before.stem.weight, ours.stem.weight, atol=1e-3)


@ALL_SETTINGS
def test_twenty_steps_equal_those_of_adamw(settings: dict[str, Any]) -> None:
    assert_trains_as_adamw(settings)


def clip(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    assert nn.utils.clip_grad_norm_(model.parameters(), 0.1) > 0.1, "the clipping must do something"


def clip_compact(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    assert kshot_ext.optim.clip_grad_norm_(model.parameters(), 0.1, foreach=step % 2 == 0) > 0.1


def edit(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """In place, through a view and by assignment."""
    model.stem.weight.grad.mul_(1.0 / (step + 2))
    model.twice.weight.grad[0, 1:].zero_()
    model.head.weight.grad = model.head.weight.grad.clamp(-0.01, 0.01)


def accumulate(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    for extra in range(2):
        loss_of(model, 100 + step + extra).backward()


def zeros_of_the_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """In the odd steps the gradient is zero, so that only the moments move the weights."""
    optimizer.zero_grad(set_to_none=False)
    if step % 2 == 0:
        loss_of(model, 300 + step).backward()


def late_parameter(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Its first step is the network's eighth, and it misses every third one, so that steps differ in one call."""
    model.unused.grad = torch.full_like(model.unused, 0.5 + step) if step >= 7 and step % 3 else None


def schedule(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"], group["betas"], group["weight_decay"] = 0.05 / (step + 1), (0.8 - 0.02 * step, 0.9), 0.01 * step


@pytest.mark.parametrize("prepare", [clip, edit], ids=lambda prepare: prepare.__name__)
def test_twenty_steps_with_changed_gradients(prepare: Prepare) -> None:
    ours, theirs = network(), network()
    for model, kind in zip((ours, theirs), KINDS):
        train(model, kind(model.parameters(), lr=0.02), prepare)
    assert_equal_models(ours, theirs)


@pytest.mark.parametrize(
    ("prepare", "theirs"),
    [
        (clip_compact, clip),
        (accumulate, None),
        (zeros_of_the_optimizer, None),
        (late_parameter, None),
        (schedule, None),
    ],
    ids=lambda prepare: getattr(prepare, "__name__", ""),
)
def test_twenty_steps_with_gradients_that_stay_compact(prepare: Prepare, theirs: Prepare | None) -> None:
    assert_trains_as_adamw({"lr": 0.02}, prepare, theirs)


def test_codes_of_zero() -> None:
    """Copies that a code leaves out have a gradient of zero: they go on by their moments, as on dense gradients."""
    results = []
    for kind in KINDS:
        layer = KShotLinear(3, 2, bias=False, num_shots=3, dtype=torch.float64)
        nn.init.constant_(layer.weight, 0.5)
        optimizer = kind([layer.weight], lr=0.1)
        steps = []
        for code in ([1.0, 0.0, 0.5], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]):
            optimizer.zero_grad()
            rows = torch.ones(1, 3, dtype=torch.float64)
            layer(rows, torch.tensor(code, dtype=torch.float64)).square().sum().backward()
            optimizer.step()
            steps.append(layer.weight.detach().clone())
        results.append(torch.stack(steps))
    torch.testing.assert_close(*results)
    assert (results[0][0, 1] == 0.5 * (1 - 0.1 * 0.01)).all(), "nothing but decay moves a copy that was never used"
    assert (results[0][1, 0] < results[0][0, 0]).all()


def test_the_usual_loop_makes_no_dense_gradient_of_a_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    optimizer = KShotAdamW(model.parameters())
    monkeypatch.setattr(SumOfUses, "dense", lambda gradient: pytest.fail("a dense gradient was made"))
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        kshot_ext.optim.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
    "one_cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=STEPS),
}


@pytest.mark.parametrize("scheduled", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("lr", [0.02, torch.tensor(0.02, dtype=torch.float64)], ids=["number", "tensor"])
def test_schedulers(lr: float | Tensor, scheduled: Callable[[torch.optim.Optimizer], Any]) -> None:
    """The second moves betas, too."""
    ours, theirs = network(), network()
    for model, kind in zip((ours, theirs), KINDS):
        optimizer = kind(model.parameters(), lr=lr.clone() if isinstance(lr, Tensor) else lr)
        scheduler = scheduled(optimizer)
        for step in range(6):
            train(model, optimizer, steps=range(step, step + 1))
            scheduler.step()
    assert_equal_models(ours, theirs)


def test_grad_scaler() -> None:
    """Unscaling, and the skipped step after an overflow, which no moment and no count of steps sees."""
    ours, theirs = network(), network()
    optimizers = []
    for model, kind in zip((ours, theirs), KINDS):
        optimizers.append(kind(model.parameters(), lr=0.05))
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        for step in range(6):
            optimizers[-1].zero_grad()
            factor = torch.inf if step == 2 else 1.0
            scaler.scale(loss_of(model, step) * factor).backward()
            scaler.step(optimizers[-1])
            scaler.update()
        assert scaler.get_scale() == 128.0
    assert_equal_models(ours, theirs)
    assert_equal_states(*optimizers)


def test_parameter_groups_hooks_and_a_closure() -> None:
    ours, theirs = network(), network()
    seen: list[list[Any]] = []
    for model, kind in zip((ours, theirs), KINDS):
        groups = [{"params": [model.stem.weight, model.head.weight], "lr": 0.1, "weight_decay": 0.5}]
        optimizer = kind(groups, lr=0.02, betas=(0.5, 0.9))
        optimizer.add_param_group({"params": [model.twice.weight], "amsgrad": True, "eps": 1e-3})
        calls: list[Any] = []
        optimizer.register_step_pre_hook(lambda o, args, kwargs, calls=calls: calls.append("before"))
        optimizer.register_step_post_hook(lambda o, args, kwargs, calls=calls: calls.append("after"))

        def closure(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, 0)
            loss.backward()
            return loss

        calls += [round(optimizer.step(closure).item(), 9) for _ in range(4)]
        seen.append(calls)
    assert seen[0] == seen[1]
    assert_equal_models(ours, theirs)


def test_codes_per_sample() -> None:
    ours, theirs = network(), network()
    for model, kind in zip((ours, theirs), KINDS):
        optimizer = kind(model.parameters(), lr=0.02)
        for step in range(3):
            optimizer.zero_grad()
            generator = torch.Generator().manual_seed(step)
            codes = torch.rand(2, SHOTS, generator=generator, dtype=torch.float64).softmax(1)
            x = torch.ones(2, 3, 5, 5, dtype=torch.float64)
            (model.stem(x, codes).square().mean() + model.stem(x, codes[0]).square().mean()).backward()
            optimizer.step()
    assert_equal_models(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    """As torch's fused kernels, which compute in float32, too."""
    weights = []
    for kind, options in ((KShotAdamW, {}), (torch.optim.AdamW, {"fused": True})):
        torch.manual_seed(0)
        layer = KShotLinear(6, 5, dtype=dtype, num_shots=SHOTS)
        optimizer = kind(layer.parameters(), lr=0.1, **options)
        for step in range(3):
            optimizer.zero_grad()
            x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step)).to(dtype)
            layer(x, torch.tensor([0.1, 0.2, 0.3, 0.4])).square().mean().backward()
            optimizer.step()
        weights.append(layer.weight.detach())
    assert weights[0].dtype == dtype
    tolerance = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(*weights, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("settings", [SETTINGS["decay"], SETTINGS["amsgrad"]], ids=["decay", "amsgrad"])
@pytest.mark.parametrize("ours_first", [True, False], ids=["to_torch", "from_torch"])
def test_state_dicts_are_those_of_adamw(settings: dict[str, Any], ours_first: bool) -> None:
    """Half of the steps with one, the rest with the other: as all of them with AdamW."""
    kinds = KINDS if ours_first else KINDS[::-1]
    mixed, theirs = network(), network()
    first = kinds[0](mixed.parameters(), **settings)
    train(mixed, first, steps=range(STEPS // 2))
    second = kinds[1](mixed.parameters(), lr=123.0)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    second.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    del first
    mixed.zero_grad()
    train(mixed, second, steps=range(STEPS // 2, STEPS))
    expected = torch.optim.AdamW(theirs.parameters(), **settings)
    train(theirs, expected)
    assert_equal_models(mixed, theirs)
    assert_equal_states(second, expected)


@pytest.mark.parametrize("name", ["fused", "foreach", "capturable", "differentiable"])
def test_a_state_of_torch_s_that_ran_in_another_way(name: str) -> None:
    """It is loaded and goes on in ours; steps that were numbers, as in files of old, or lay elsewhere, too."""
    mixed, theirs = network(), network()
    first = torch.optim.AdamW(mixed.parameters(), lr=0.02)
    train(mixed, first, steps=range(4))
    state = copy.deepcopy(first.state_dict())
    state["param_groups"][0][name] = True
    state["state"][0]["step"] = 4.0
    state["state"][1]["step"] = torch.tensor(4, dtype=torch.int64)
    mixed.zero_grad()
    second = KShotAdamW(mixed.parameters())
    second.load_state_dict(state)
    assert second.param_groups[0][name] == (name in ("fused", "foreach"))
    train(mixed, second, steps=range(4, 8))
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.02), steps=range(8))
    assert_equal_models(mixed, theirs)


def test_state_without_the_newest_settings() -> None:
    model = network()
    optimizer = KShotAdamW(model.parameters())
    state = optimizer.state_dict()
    for name in ("amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused"):
        del state["param_groups"][0][name]
    optimizer.load_state_dict(state)
    train(model, optimizer, steps=range(1))
    twin = network()
    train(twin, torch.optim.AdamW(twin.parameters()), steps=range(1))
    assert_equal_models(model, twin)


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_model_and_its_optimizer_go_on_training_as_copies(duplicate: Callable[[Any], Any]) -> None:
    model, theirs = network(), network()
    optimizer = KShotAdamW(model.parameters(), lr=0.02)
    train(model, optimizer, steps=range(3))
    twin, twin_optimizer = duplicate((model, optimizer))
    train(twin, twin_optimizer, steps=range(3, 6))
    assert is_compact(twin.head.weight)
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.02), steps=range(6))
    assert_equal_models(twin, theirs)


def test_reference_backend() -> None:
    native, plain = network(), network()
    train(native, KShotAdamW(native.parameters(), lr=0.02, amsgrad=True), steps=range(6))
    with kshot_ext.backend.use_reference():
        train(plain, KShotAdamW(plain.parameters(), lr=0.02, amsgrad=True), steps=range(6))
    assert_equal_models(plain, native)


class _CallCounter(TorchDispatchMode):
    """How often the operators of kshot_ext run inside it."""

    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += function.namespace == "kshot_ext"
        return function(*args, **(kwargs or {}))


def test_one_call_updates_all_parameters_of_a_group() -> None:
    model = network()
    optimizer = KShotAdamW(model.parameters())
    train(model, optimizer, steps=range(1))
    model.unused.grad = torch.ones_like(model.unused)  # its first step, the others' second
    with _CallCounter() as counter:
        optimizer.step()
    assert counter.calls == 1


def test_a_refused_step_counts_for_nobody() -> None:
    model = network()
    optimizer = KShotAdamW(model.parameters())
    train(model, optimizer, steps=range(2))
    before = copy.deepcopy(model.state_dict())
    optimizer.state[model.scale]["exp_avg"] = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"exp_avg must be .* like the weight"):
        optimizer.step()
    assert {state["step"].item() for state in optimizer.state.values()} == {2.0}
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1 + 2j, 3 - 1j], [0.5j, -1.0]]))

    def forward(self, rows: Tensor) -> Tensor:
        return (self.weight[rows] * (1 - 2j)).abs()


@pytest.mark.parametrize("settings", [{}, {"amsgrad": True, "maximize": True}], ids=["plain", "amsgrad"])
def test_complex_parameters(settings: dict[str, Any]) -> None:
    models = []
    for make in KINDS:
        torch.manual_seed(0)
        model = nn.ModuleList([Complex(), nn.Linear(3, 2)])
        optimizer = make(model.parameters(), lr=0.1, **settings)
        for _ in range(3):
            optimizer.zero_grad()
            (model[0](torch.tensor([1, 0])).square().sum() + model[1](torch.ones(1, 3)).sum()).backward()
            optimizer.step()
        models.append(model)
    assert_equal_models(*models)


def test_sparse_gradients_are_refused() -> None:
    rows = nn.Embedding(4, 3, sparse=True)
    optimizer = KShotAdamW(rows.parameters())
    rows(torch.tensor([1, 0])).sum().backward()
    with pytest.raises(RuntimeError, match=r"does not support sparse gradients.*torch\.optim.SparseAdam"):
        optimizer.step()
    assert not optimizer.state


def sharded(model: nn.Module, kind: type[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    """One layer's parameters spread by FSDP2, one other parameter by hand."""
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model[0], mesh=mesh)
    model[1].weight = nn.Parameter(distribute_tensor(model[1].weight.detach(), mesh, [Shard(0)]))
    return kind(model.parameters(), lr=0.1)


def test_parameters_spread_over_processes(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        results = []
        for kind in KINDS:
            torch.manual_seed(0)
            model = nn.ModuleList([nn.Linear(3, 2), nn.Linear(2, 2, bias=False)])
            before = model[0].weight.detach().clone()
            optimizer = sharded(model, kind)
            for _ in range(2):
                optimizer.zero_grad()
                for loss in (model[0](torch.ones(1, 3)).square().sum(), model[1].weight.square().sum()):
                    loss.backward()
                optimizer.step()
            results.append([parameter.detach().full_tensor() for parameter in model.parameters()])
        torch.testing.assert_close(*results)
        assert not torch.allclose(results[0][0], before, atol=1e-2)
    finally:
        dist.destroy_process_group()


def test_a_step_is_not_captured_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would repeat the factors of this step for ever."""
    model = network()
    optimizer = KShotAdamW(model.parameters())
    loss_of(model, 0).backward()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=r"step cannot be captured in a CUDA graph.*use torch\.optim\.AdamW"):
        optimizer.step()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -0.1}, "lr must be >= 0, got -0.1"),
        ({"lr": torch.ones(2)}, r"lr must be a number or a tensor with one element, got shape \[2\]"),
        ({"eps": float("nan")}, "eps must be >= 0, got nan"),
        ({"weight_decay": -1}, "weight_decay must be >= 0, got -1"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must be >= 0 and < 1, got 1.0"),
        ({"betas": (-0.1, 0.9)}, r"betas\[0\] must be >= 0 and < 1, got -0.1"),
        ({"capturable": True}, "KShotAdamW does not support capturable=True: it reads the number of the step"),
        ({"differentiable": True}, "KShotAdamW does not support differentiable=True: its kernels have no derivative"),
    ],
)
def test_rejects(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KShotAdamW([nn.Parameter(torch.zeros(2, 2))], **settings)


def test_rejects_in_one_group() -> None:
    optimizer = KShotAdamW([nn.Parameter(torch.zeros(2, 2))], fused=True, foreach=True)
    with pytest.raises(ValueError, match="does not support capturable=True"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))], "capturable": True})
    assert len(optimizer.param_groups) == 1
