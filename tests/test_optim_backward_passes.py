"""However gradients are computed, and whatever hooks see them, KShotSGD moves the weights where torch's SGD does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from alike import IMAGES, KINDS, assert_alike, loss_of, make
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import kshot_ext

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def quietly(hook: Callable[..., object]) -> Callable[..., None]:
    """The hook without its result, which would replace the gradient."""

    def call(*arguments: object) -> None:
        hook(*arguments)

    return call


HOOKS: dict[str, Callable[[nn.Parameter], object]] = {
    "new": lambda p: p.register_hook(lambda g: g * 0.5),
    "freeze": lambda p: p.register_hook(lambda g: g.index_fill(0, torch.tensor([0]), 0.0)),
    "in_place": lambda p: p.register_hook(quietly(lambda g: g[0].zero_())),
    "none": lambda p: p.register_hook(lambda g: None),
    "two": lambda p: (p.register_hook(lambda g: g * 0.5), p.register_hook(lambda g: g.clamp(-0.1, 0.1))),
    "removed": lambda p: p.register_hook(lambda g: g * 0).remove(),
    "post_accumulate": lambda p: p.register_post_accumulate_grad_hook(quietly(lambda p: p.grad[0].zero_())),
    "post_accumulate_step": lambda p: p.register_post_accumulate_grad_hook(
        quietly(lambda p: (p.data.add_(p.grad, alpha=-0.1), setattr(p, "grad", None)))
    ),
    "multi": lambda p: torch.autograd.graph.register_multi_grad_hook([p], lambda gs: gs[0].mul_(0.5)),
    "node_before": lambda p: accumulation(p).register_prehook(lambda gs: (gs[0] * 0.5,)),
    "node_before_in_place": lambda p: accumulation(p).register_prehook(quietly(lambda gs: gs[0][0].zero_())),
    "node_before_data": lambda p: accumulation(p).register_prehook(quietly(lambda gs: gs[0].data.mul_(0.5))),
    "node_after": lambda p: accumulation(p).register_hook(quietly(lambda *_: p.grad.data.mul_(0.5))),
    "retain_grad": lambda p: p.retain_grad(),
}
_alive: list[object] = []


def accumulation(parameter: nn.Parameter) -> torch.autograd.graph.Node:
    """The node that adds to the parameter's gradient, which lives as long as someone holds it."""
    _alive.append(torch.autograd.graph.get_gradient_edge(parameter).node)
    return _alive[-1]


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize("after_forward", [False, True])
def test_a_hook_counts(hook: Callable[[nn.Parameter], object], after_forward: bool) -> None:
    def work(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        handles = [] if after_forward else [hook(model[0].weight)]
        loss = loss_of(model)
        handles += [hook(model[0].weight)] if after_forward else []
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    assert_alike(work)
    _alive.clear()


def test_what_a_hook_on_a_node_keeps_is_the_gradient_itself() -> None:
    def work(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        kept: list[Tensor] = []
        handle = accumulation(model[0].weight).register_prehook(lambda gradients: kept.extend(gradients))
        loss_of(model).backward()
        handle.remove()
        seen = torch.stack([kept[0].sum(), kept[0].norm(1), kept[0][0].max()])
        kept[0].data.mul_(0.5)
        optimizer.step()
        return [seen, kept[0] + 0]

    assert_alike(work)
    _alive.clear()


def first_half(model: nn.Module) -> Tensor:
    return model[:2](IMAGES).sum()


def captured(model: nn.Module) -> None:
    loss = loss_of(model)
    gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    assert all(type(gradient) is Tensor for gradient in gradients)
    for parameter, gradient in zip(model.parameters(), gradients):
        parameter.grad = gradient
    loss.backward()


def twice(model: nn.Module) -> None:
    loss = loss_of(model)
    loss.backward(retain_graph=True)
    loss.backward()


def twice_and_read(model: nn.Module) -> None:
    loss = loss_of(model)
    loss.backward(retain_graph=True)
    assert model[0].weight.grad is not None
    loss.backward()


def sharpness_aware(model: nn.Module) -> None:
    """The first half of a step of SAM: up along the gradient, whose own gradient counts at the old weights."""
    loss_of(model).backward()
    with torch.no_grad():
        norm = torch.norm(torch.stack([p.grad.norm(p=2) for p in model.parameters()]), p=2)
        moves = [p.grad * (0.05 / norm) for p in model.parameters()]
        for parameter, move in zip(model.parameters(), moves):
            parameter.add_(move)
    model.zero_grad()
    loss_of(model).backward()
    with torch.no_grad():
        for parameter, move in zip(model.parameters(), moves):
            parameter.sub_(move)


def surgery(model: nn.Module) -> None:
    """Two tasks' gradients, the second without its part against the first (PCGrad)."""
    loss_of(model).backward()
    first = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    first_half(model).backward()
    for parameter, other in zip(model.parameters(), first):
        if parameter.grad is not None:
            dot = (parameter.grad * other).sum()
            parameter.grad.sub_(dot.clamp(max=0) / other.square().sum() * other)
            parameter.grad.add_(other)


def unfrozen_later(model: nn.Module) -> None:
    model[0].requires_grad_(False)
    loss_of(model).backward()
    model[0].requires_grad_(True)
    loss_of(model).backward()


def frozen_after_forward(model: nn.Module) -> None:
    loss = loss_of(model)
    model[0].requires_grad_(False)
    loss.backward()
    model[0].requires_grad_(True)


def checkpointed(model: nn.Module, use_reentrant: bool) -> None:
    images = IMAGES.clone().requires_grad_()
    checkpoint(model, images, use_reentrant=use_reentrant).square().sum().backward()


def saved_elsewhere(model: nn.Module) -> None:
    with torch.autograd.graph.save_on_cpu():
        loss = loss_of(model)
    loss.backward()


def checked_for_anomalies(model: nn.Module) -> None:
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        loss_of(model).backward()


def several_uses(model: nn.Module) -> None:
    """More uses than copies."""
    sum(scale * loss_of(model) for scale in range(1, 6)).backward()


def functional(model: nn.Module) -> None:
    torch.func.functional_call(model, dict(model.named_parameters()), (IMAGES,)).square().sum().backward()


PASSES: dict[str, Callable[[nn.Module], None]] = {
    "captured": captured,
    "inputs": lambda m: torch.autograd.backward(loss_of(m), inputs=[m[0].weight, m[3].bias]),
    "twice": twice,
    "twice_and_read": twice_and_read,
    "sharpness_aware": sharpness_aware,
    "surgery": surgery,
    "unfrozen_later": unfrozen_later,
    "frozen_after_forward": frozen_after_forward,
    "checkpoint": lambda m: checkpointed(m, False),
    "checkpoint_reentrant": lambda m: checkpointed(m, True),
    "save_on_cpu": saved_elsewhere,
    "anomaly": checked_for_anomalies,
    "several_uses": several_uses,
    "functional_call": functional,
    "create_graph_of_a_part": lambda m: m[3](m[:3](IMAGES).detach()).sum().backward(),
}


@pytest.mark.parametrize("backward", PASSES.values(), ids=PASSES)
def test_any_kind_of_backward_pass_gives_the_same(backward: Callable[[nn.Module], None]) -> None:
    def work(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        backward(model)
        optimizer.step()
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    assert_alike(work)


def test_a_second_derivative_is_refused_and_never_dropped() -> None:
    """A penalty on the gradient: with the kernels an error, with the reference that of SGD."""

    def work(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        loss_of(model).backward(create_graph=True)
        sum(p.grad.square().sum() for p in model.parameters()).backward()
        optimizer.step()

    for kind in KINDS:
        with pytest.raises(RuntimeError, match="differentiate once"):
            work(*make(kind))
    with kshot_ext.backend.use_reference():
        assert_alike(work)
