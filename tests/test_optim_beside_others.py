"""KShotSGD beside what shares its parameters: other optimisers, copies, parameters, compilation, memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from training import SETTINGS, assert_equal_models, loss_of, network, train

import kshot_ext
from kshot_ext import functional as KF
from kshot_ext.nn import KShotConv2d, KShotLinear
from kshot_ext.ops.compact_gradient import SumOfUses
from kshot_ext.ops.gradient_slot import gradient_in_slot
from kshot_ext.optim import KShotSGD

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


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
    train(theirs, other(list(theirs.parameters())), steps=range(3))
    assert_equal_models(ours, theirs)
    optimizer.zero_grad()
    loss_of(ours, 3).backward()
    assert isinstance(gradient_in_slot(ours.head.weight), SumOfUses) == alive


def bytes_held(parameter: Tensor) -> int:
    """Bytes of a gradient as it is stored."""
    gradient = gradient_in_slot(parameter)
    if not isinstance(gradient, SumOfUses):
        return gradient.nbytes
    return sum(part.nbytes for use in gradient.uses for part in use if part is not None)


def test_no_gradient_of_the_size_of_the_dictionary_is_stored() -> None:
    layer = KShotConv2d(8, 16, 3, num_shots=8)
    plain = nn.Conv2d(8, 16, 3)
    optimizer = KShotSGD(layer.parameters(), lr=0.1)
    code = torch.full((8,), 1 / 8)
    layer(torch.randn(1, 8, 5, 5), code).sum().backward()
    for parameter, one_copy in zip(layer.parameters(), plain.parameters()):
        assert bytes_held(parameter) <= one_copy.nbytes + code.nbytes
    optimizer.step()
    assert isinstance(gradient_in_slot(layer.weight), SumOfUses), "the step must not materialise it either"
    assert bytes_held(layer.weight) <= plain.weight.nbytes + code.nbytes


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
    assert isinstance(gradient_in_slot(weight), SumOfUses)
    offset.grad.mul_(3)
    optimizer.step()
    assert torch.equal(weight.detach(), (1 - code).reshape(2, 1, 1).expand(2, 2, 3))


def test_under_compilation_gradients_are_dense_and_right() -> None:
    torch.compiler.reset()
    ours, theirs = network(), network()
    optimizer = KShotSGD(ours.parameters(), lr=0.05)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    loss_of(compiled, 0).backward()
    optimizer.step()
    train(theirs, torch.optim.SGD(theirs.parameters(), lr=0.05), steps=range(1))
    assert_equal_models(ours, theirs)


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight * 2


@pytest.mark.parametrize("kind", [KShotSGD, torch.optim.SGD])
def test_a_parametrization_of_owned_parameters(kind: type[torch.optim.Optimizer]) -> None:
    """Registered before and after the optimiser was made, and taken away again: 1/4 of the step of a plain layer."""
    layer, plain = (KShotLinear(3, 2, bias=False, num_shots=2).double() for _ in range(2))
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
    optimizer = kind(layer.parameters(), lr=0.1)
    nn.utils.parametrize.register_parametrization(layer, "weight", Halved())
    for model, rate in ((layer, 1.0), (plain, 0.25)):
        loss = model(torch.ones(1, 3, dtype=torch.float64), torch.tensor([0.25, 0.75], dtype=torch.float64)).sum()
        (rate * loss).backward()
    optimizer.step()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(layer.weight, plain.weight)


def test_two_optimizers_own_one_parameter() -> None:
    """Both of them move it, and it stays owned when one of them is gone."""
    ours, theirs = network(), network()
    for model, kind in ((ours, KShotSGD), (theirs, torch.optim.SGD)):
        first, second = kind(model.parameters(), lr=0.05), kind([model.head.weight], lr=0.01, momentum=0.9)
        for step in range(3):
            first.zero_grad()
            loss_of(model, step).backward()
            first.step()
            second.step()
        del first, second
        third = kind(model.parameters(), lr=0.05)
        train(model, third, steps=range(3, 5))
        assert isinstance(gradient_in_slot(model.head.weight), SumOfUses) == (kind is KShotSGD)
    assert_equal_models(ours, theirs)


def test_reference_backend() -> None:
    native, plain = network(), network()
    train(native, KShotSGD(native.parameters(), **SETTINGS["nesterov"]))
    with kshot_ext.backend.use_reference():
        train(plain, KShotSGD(plain.parameters(), **SETTINGS["nesterov"]))
    assert_equal_models(plain, native)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1 + 2j, 3 - 1j], [0.5j, -1.0]]))

    def forward(self, rows: Tensor) -> Tensor:
        return (self.weight[rows] * (1 - 2j)).abs()


@pytest.mark.parametrize("settings", [SETTINGS["plain"], SETTINGS["momentum"]], ids=["plain", "momentum"])
@pytest.mark.parametrize("kind", ["sparse", "complex"])
def test_parameters_that_no_kernel_takes(kind: str, settings: dict[str, Any]) -> None:
    models = []
    for make in (KShotSGD, torch.optim.SGD):
        torch.manual_seed(0)
        rows = nn.Embedding(4, 3, sparse=True) if kind == "sparse" else Complex()
        model = nn.ModuleList([rows, nn.Linear(3, 2)])
        optimizer = make(model.parameters(), **settings)
        for _ in range(3):
            optimizer.zero_grad()
            (rows(torch.tensor([1, 0])).square().sum() + model[1](torch.ones(1, 3)).sum()).backward()
            optimizer.step()
        models.append(model)
    assert_equal_models(*models)


def test_parameters_spread_over_processes(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        results = []
        for make in (KShotSGD, torch.optim.SGD):
            whole = torch.arange(6.0).reshape(2, 3)
            parameter = nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)]))
            optimizer = make([parameter], lr=0.1, momentum=0.9)
            for _ in range(2):
                optimizer.zero_grad()
                parameter.square().sum().backward()
                optimizer.step()
            results.append(parameter.detach().full_tensor())
        torch.testing.assert_close(*results)
        assert not torch.equal(results[0], whole)
    finally:
        dist.destroy_process_group()
