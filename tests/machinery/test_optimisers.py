"""torch's optimisers on dictionaries: those that go element by element treat each copy as a parameter of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kshot_ext
from kshot_ext.nn import KShotLinear

CODE = torch.tensor([0.2, 0.3, 0.5])

BY_ELEMENT: dict[str, dict[str, Any]] = {
    "ASGD": {},
    "Adadelta": {},
    "Adagrad": {},
    "Adam": {"amsgrad": True},
    "AdamW": {},
    "Adamax": {},
    "NAdam": {},
    "RAdam": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Rprop": {},
    "SGD": {"momentum": 0.9, "nesterov": True},
}
OF_WHOLE_TENSORS = {"Adafactor", "LBFGS"}
REFUSING = {"Muon", "SparseAdam"}


def loss_of(weights: list[Tensor], step: int) -> Tensor:
    """Of a linear map whose weight is a mixture of three."""
    generator = torch.Generator().manual_seed(step)
    mixed = sum(entry * weight for entry, weight in zip(CODE, weights))
    return (torch.randn(5, 4, generator=generator) @ mixed.T).square().mean()


def train(optimizer: torch.optim.Optimizer, loss: Callable[[int], Tensor]) -> None:
    for step in range(3):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()


@pytest.mark.parametrize("name", BY_ELEMENT)
def test_each_copy_is_a_parameter_of_its_own(name: str) -> None:
    layer = KShotLinear(4, 6, bias=False, num_shots=3)
    separate = [nn.Parameter(copy.detach().clone()) for copy in layer.weight]
    kind, settings = getattr(torch.optim, name), {"lr": 0.05, **BY_ELEMENT[name]}

    def ours(step: int) -> Tensor:
        return layer(torch.randn(5, 4, generator=torch.Generator().manual_seed(step)), CODE).square().mean()

    train(kind(layer.parameters(), **settings), ours)
    train(kind(separate, **settings), lambda step: loss_of(separate, step))
    torch.testing.assert_close(layer.weight.detach(), torch.stack(separate).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(OF_WHOLE_TENSORS))
def test_those_that_look_at_whole_tensors_lower_the_loss(name: str) -> None:
    layer = KShotLinear(4, 6, bias=False, num_shots=3)
    optimizer, input = getattr(torch.optim, name)(layer.parameters(), lr=0.05), torch.randn(5, 4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = layer(input, CODE).square().mean()
        loss.backward()
        return loss

    before = closure().item()
    for _ in range(3):
        optimizer.step(closure)
    assert closure().item() < before


def test_every_optimiser_of_torch_is_in_one_of_the_lists() -> None:
    every = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }
    assert every == set(BY_ELEMENT) | OF_WHOLE_TENSORS | REFUSING


def test_muon_refuses_dictionaries() -> None:
    layer = KShotLinear(4, 6, bias=False, num_shots=3)
    with pytest.raises(ValueError, match="Muon only supports 2D parameters"):
        torch.optim.Muon(layer.parameters())


def test_sparse_adam_refuses_gradients_of_dictionaries() -> None:
    layer = KShotLinear(4, 6, bias=False, num_shots=3)
    layer(torch.randn(5, 4), CODE).sum().backward()
    with pytest.raises(RuntimeError, match="SparseAdam does not support dense gradients"):
        torch.optim.SparseAdam(layer.parameters()).step()


def test_muon_on_the_copies() -> None:
    """The recipe of the page, against Muon on three parameters."""
    layer = KShotLinear(4, 6, bias=False, num_shots=3)
    separate = [nn.Parameter(copy.detach().clone()) for copy in layer.weight]
    copies = [plain.weight for plain in layer.copies()]
    muon = torch.optim.Muon(copies, lr=0.02)

    @muon.register_step_pre_hook
    def give_gradients(*_: Any) -> None:
        for copy, gradient in zip(copies, layer.weight.grad):
            copy.grad = gradient

    for step in range(3):
        layer.zero_grad()
        layer(torch.randn(5, 4, generator=torch.Generator().manual_seed(step)), CODE).square().mean().backward()
        muon.step()
    train(torch.optim.Muon(separate, lr=0.02), lambda step: loss_of(separate, step))
    torch.testing.assert_close(layer.weight.detach(), torch.stack(separate).detach(), rtol=1e-3, atol=1e-4)


def test_weights_are_told_from_biases_by_decay_groups() -> None:
    """A rule `p.ndim == 2`, as Muon wants it, finds the biases of a converted model."""
    model = kshot_ext.convert(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)), 3)
    weights, others = (group["params"] for group in kshot_ext.optim.decay_groups(model, 0.1))
    assert [list(p.shape) for p in weights] == [[3, 6, 4], [3, 2, 6]]
    assert {p.dim() for p in others} == {2}
