"""The gradient of a dictionary as a list of its uses: a tensor to everyone else."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kshot_ext import functional as KF
from kshot_ext.ops.compact_gradient import (
    CompactGradient,
    Use,
    want_compact_gradient,
    wants_compact_gradient,
)

SHAPE = (4, 5, 3, 2)
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def compact(*widths: tuple[int, int, bool]) -> CompactGradient:
    """Gradient with one use of each width `(C_out', C_in', gated)`; a single whole one by default."""
    uses = [
        Use(random(4), random(out_channels) if gated else None, random(out_channels, in_channels, 2))
        for out_channels, in_channels, gated in widths or [(5, 3, False)]
    ]
    return CompactGradient(random(*SHAPE), tuple(uses))


class Owner:
    """Stands in for an optimiser."""


def parameter(owner: Owner) -> nn.Parameter:
    weight = nn.Parameter(random(*SHAPE))
    want_compact_gradient(weight, owner)
    return weight


def test_dense_form_is_the_sum_of_outer_products() -> None:
    gradient = compact((5, 3, False), (2, 3, True))
    expected = torch.zeros(SHAPE, dtype=torch.float64)
    for k in range(4):
        first, second = gradient.uses
        expected[k] += first.code[k] * first.grad
        for o in range(2):
            expected[k, o] += second.code[k] * second.gate[o] * second.grad[o]
    torch.testing.assert_close(gradient.dense(), expected)


@pytest.mark.parametrize("gate", [None, "shared"])
@pytest.mark.parametrize(("out_channels", "in_channels"), [(5, 3), (2, 3), (5, 1), (3, 2)])
def test_backward_leaves_the_same_gradient_in_compact_form(
    out_channels: int, in_channels: int, gate: str | None
) -> None:
    owner = Owner()
    wanting = parameter(owner)
    plain = nn.Parameter(wanting.detach().clone())
    code, gate_values = random(4), random(out_channels) if gate else None
    cotangent = random(out_channels, in_channels, 2)
    for weight in (wanting, plain):
        mixed = KF.effective_weight(weight, code, gate=gate_values, out_channels=out_channels, in_channels=in_channels)
        mixed.backward(cotangent)
    assert isinstance(wanting.grad, CompactGradient)
    assert not isinstance(plain.grad, CompactGradient)
    torch.testing.assert_close(wanting.grad.dense(), plain.grad)


def test_backward_of_mix_weights_leaves_compact_gradients() -> None:
    owner = Owner()
    wanting, plain = parameter(owner), nn.Parameter(random(*SHAPE))
    code = random(4).requires_grad_()
    first, second = KF.mix_weights([wanting, plain], code)
    (first.sum() + 2 * second.sum()).backward()
    assert isinstance(wanting.grad, CompactGradient)
    assert not isinstance(plain.grad, CompactGradient)
    torch.testing.assert_close(wanting.grad.dense(), code.detach().reshape(4, 1, 1, 1).expand(SHAPE).clone())
    assert code.grad is not None


def test_code_and_gate_get_their_gradients_beside_a_compact_one() -> None:
    owner = Owner()
    wanting = parameter(owner)
    gradients = []
    for weight in (wanting, nn.Parameter(wanting.detach().clone())):
        code, gate = (torch.linspace(0.1, 1, n, dtype=torch.float64).requires_grad_() for n in (4, 5))
        KF.effective_weight(weight, code, gate=gate).square().sum().backward()
        gradients.append((code.grad, gate.grad))
    assert isinstance(wanting.grad, CompactGradient)
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)


def test_a_code_per_sample_gives_a_dense_gradient() -> None:
    owner = Owner()
    weight = parameter(owner)
    KF.effective_weight(weight, random(2, 4)).sum().backward()
    assert weight.grad is not None
    assert not isinstance(weight.grad, CompactGradient)


def test_dense_and_compact_gradients_of_one_parameter_add_up() -> None:
    owner = Owner()
    weight, code, codes = parameter(owner), random(4), random(2, 4)
    KF.effective_weight(weight, code).sum().backward()
    KF.effective_weight(weight, codes).sum().backward()
    expected = (code + codes.sum(0)).reshape(4, 1, 1, 1).expand(SHAPE)
    torch.testing.assert_close(torch.as_tensor(weight.grad + 0.0), expected.clone())


def test_the_wish_ends_with_its_owner() -> None:
    owner = Owner()
    weight = parameter(owner)
    assert wants_compact_gradient(weight)
    del owner
    gc.collect()
    assert not wants_compact_gradient(weight)


def test_a_copied_parameter_has_no_wish() -> None:
    owner = Owner()
    weight = parameter(owner)
    assert not wants_compact_gradient(copy.deepcopy(weight))
    assert not wants_compact_gradient(weight * 1)


def test_memory_is_that_of_one_copy() -> None:
    owner = Owner()
    weight = nn.Parameter(torch.randn(16, 8, 8, 3, 3))
    want_compact_gradient(weight, owner)
    KF.effective_weight(weight, torch.full((16,), 1 / 16)).square().sum().backward()
    held = sum(tensor.nbytes for use in weight.grad.uses for tensor in use if tensor is not None)
    assert held == weight[0].nbytes + 16 * 4
    assert weight.grad.shape == weight.shape


@pytest.mark.parametrize(
    "function",
    [
        lambda g: g + g,
        lambda g: torch.add(g, g, alpha=3),
        lambda g: g + torch.ones(SHAPE),
        lambda g: torch.ones(SHAPE) + g,
        lambda g: g * 2.5,
        lambda g: g * torch.tensor(2.5),
        lambda g: 2.5 * g,
        lambda g: g * torch.full(SHAPE, 2.0),
        lambda g: g * g,
        lambda g: g - g.detach() * 0.5,
        lambda g: g.norm(),
        lambda g: g.clone(),
        lambda g: g.detach(),
        lambda g: g[1],
        lambda g: g.float(),
        lambda g: g.isfinite().all(),
        lambda g: torch.stack([g, g]),
        lambda g: torch.nn.utils.parameters_to_vector([g]),
        lambda g: torch._foreach_norm([g, g])[1],
    ],
)
def test_reads_like_the_dense_tensor(function: Callable[[Tensor], Tensor]) -> None:
    gradient = compact((5, 3, False), (2, 3, True))
    result, expected = function(gradient), function(gradient.dense())
    result = result.dense() if isinstance(result, CompactGradient) else result
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g.mul_(0.5),
        lambda g: g.mul_(torch.tensor(0.5)),
        lambda g: g.div_(4),
        lambda g: g.add_(1),
        lambda g: g.add_(g.clone()),
        lambda g: g.zero_(),
        lambda g: g.clamp_(-0.5, 0.5),
        lambda g: g.copy_(torch.ones(SHAPE)),
        lambda g: g.fill_(3),
        lambda g: torch._foreach_mul_([g], 0.5),
        lambda g: torch._foreach_mul_([g], torch.tensor(0.5)),
        lambda g: torch._amp_foreach_non_finite_check_and_unscale_([g], torch.zeros(1), torch.tensor([0.5])),
    ],
)
def test_changes_in_place_like_the_dense_tensor(change: Callable[[Tensor], object]) -> None:
    gradient = compact((5, 3, False), (2, 3, True))
    dense = gradient.dense()
    change(gradient)
    change(dense)
    assert isinstance(gradient, CompactGradient)
    torch.testing.assert_close(gradient.dense(), dense)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("widths", [[(5, 3, False)], [(2, 3, True)], [(5, 3, False), (2, 3, True), (4, 1, True)]])
def test_clipping_keeps_the_compact_form(
    widths: list[tuple[int, int, bool]], foreach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient, weight, beside = compact(*widths), nn.Parameter(random(*SHAPE)), nn.Parameter(random(3))
    dense = gradient.dense()
    weight.grad, beside.grad = gradient, random(3)
    expected = torch.cat([dense.flatten(), beside.grad]).norm()
    monkeypatch.setattr(CompactGradient, "dense", lambda gradient: pytest.fail("the dense gradient was made"))
    norm = torch.nn.utils.clip_grad_norm_([weight, beside], 0.5, foreach=foreach)
    monkeypatch.undo()
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close(weight.grad.dense(), dense * 0.5 / expected)
    assert len(weight.grad.uses) == len(widths)


def test_the_norm_of_uses_that_cancel_out_is_a_number() -> None:
    use = compact().uses[0]
    assert CompactGradient(random(*SHAPE), (use, use.scaled(-1.0))).norm() == pytest.approx(0, abs=1e-6)


def test_a_gradient_scaler_keeps_the_compact_form_and_finds_what_overflowed() -> None:
    gradient, found_inf, half = compact((5, 3, False), (2, 3, True)), torch.zeros(1), torch.tensor([0.5])
    dense, codes = gradient.dense(), [use.code for use in gradient.uses]
    original = gradient.uses[0].grad.clone()
    keeps_values = gradient.clone()
    torch._amp_foreach_non_finite_check_and_unscale_([gradient], found_inf, half)
    assert found_inf.item() == 0
    assert [use.code for use in gradient.uses] == codes
    assert torch.equal(keeps_values.uses[0].grad, original)
    torch.testing.assert_close(gradient.dense(), dense / 2)
    gradient.uses[1].grad[0, 0, 0] = float("inf")
    torch._amp_foreach_non_finite_check_and_unscale_([gradient, random(3)], found_inf, half)
    assert found_inf.item() == 1


def test_a_change_of_a_clone_leaves_the_original() -> None:
    gradient = compact()
    before = gradient.dense()
    gradient.clone().mul_(3)
    assert torch.equal(gradient.dense(), before)


def test_sums_stay_compact_up_to_as_many_uses_as_copies() -> None:
    gradient = compact()
    total = gradient + gradient + gradient + gradient
    assert isinstance(total, CompactGradient)
    assert len(total.uses) == 4
    assert not isinstance(total + gradient, CompactGradient)


def test_shows_itself_without_materialising() -> None:
    assert repr(compact()) == "CompactGradient(shape=[4, 5, 3, 2], dtype=torch.float64, uses=1)"
