"""The gradient of a dictionary as a list of its uses: what backward passes leave, and what others make of it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kshot_ext import functional as KF
from kshot_ext.ops.compact_gradient import CompactGradient, SumOfUses, Use
from kshot_ext.ops.gradient_slot import gradient_in_slot, own

SHAPE = (4, 5, 3, 2)
pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def sum_of_uses(*widths: tuple[int, int, bool]) -> SumOfUses:
    """With one use of each width `(C_out', C_in', gated)`; a single whole one by default."""
    uses = [
        Use(random(4), random(out_channels) if gated else None, random(out_channels, in_channels, 2))
        for out_channels, in_channels, gated in widths or [(5, 3, False)]
    ]
    return SumOfUses(random(*SHAPE), tuple(uses))


def by_definition(gradient: SumOfUses) -> Tensor:
    total = torch.zeros(SHAPE, dtype=torch.float64)
    for use in gradient.uses:
        for k in range(4):
            for o in range(use.grad.shape[0]):
                gate = 1 if use.gate is None else use.gate[o]
                total[k, o, : use.grad.shape[1]] += use.code[k] * gate * use.grad[o]
    return total


class Owner:
    """Stands in for an optimiser."""


def parameter(owner: Owner) -> nn.Parameter:
    weight = nn.Parameter(random(*SHAPE))
    own(weight, owner)
    return weight


def test_dense_form_is_the_sum_of_outer_products() -> None:
    gradient = sum_of_uses((5, 3, False), (2, 3, True), (4, 1, True))
    expected = by_definition(gradient)
    torch.testing.assert_close(gradient.dense(), expected)
    assert gradient.dense() is gradient.dense()
    assert gradient.is_dense


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
    assert isinstance(gradient_in_slot(wanting), SumOfUses)
    assert type(gradient_in_slot(plain)) is Tensor
    torch.testing.assert_close(wanting.grad, plain.grad)


def test_backward_of_mix_weights_leaves_compact_gradients() -> None:
    owner = Owner()
    wanting, plain = parameter(owner), nn.Parameter(random(*SHAPE))
    code = random(4).requires_grad_()
    first, second = KF.mix_weights([wanting, plain], code)
    (first.sum() + 2 * second.sum()).backward()
    assert isinstance(gradient_in_slot(wanting), SumOfUses)
    assert type(gradient_in_slot(plain)) is Tensor
    torch.testing.assert_close(wanting.grad, code.detach().reshape(4, 1, 1, 1).expand(SHAPE).clone())
    assert code.grad is not None


def test_code_and_gate_get_their_gradients_beside_a_compact_one() -> None:
    owner = Owner()
    wanting = parameter(owner)
    gradients = []
    for weight in (wanting, nn.Parameter(wanting.detach().clone())):
        code, gate = (torch.linspace(0.1, 1, n, dtype=torch.float64).requires_grad_() for n in (4, 5))
        KF.effective_weight(weight, code, gate=gate).square().sum().backward()
        gradients.append((code.grad, gate.grad))
    assert isinstance(gradient_in_slot(wanting), SumOfUses)
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)


def test_a_code_per_sample_gives_a_dense_gradient() -> None:
    owner = Owner()
    weight = parameter(owner)
    KF.effective_weight(weight, random(2, 4)).sum().backward()
    assert type(gradient_in_slot(weight)) is Tensor


@pytest.mark.parametrize("in_one_pass", [True, False])
@pytest.mark.parametrize("compact_first", [True, False])
def test_dense_and_compact_gradients_of_one_parameter_add_up(compact_first: bool, in_one_pass: bool) -> None:
    owner = Owner()
    weight, code, codes = parameter(owner), random(4), random(2, 4)
    losses = [KF.effective_weight(weight, code).sum(), KF.effective_weight(weight, codes).sum()]
    losses = losses if compact_first else losses[::-1]
    for loss in [sum(losses)] if in_one_pass else losses:
        loss.backward()
    expected = (code + codes.sum(0)).reshape(4, 1, 1, 1).expand(SHAPE)
    torch.testing.assert_close(weight.grad, expected.clone())


def test_memory_is_that_of_one_copy() -> None:
    owner = Owner()
    weight = nn.Parameter(torch.randn(16, 8, 8, 3, 3))
    own(weight, owner)
    KF.effective_weight(weight, torch.full((16,), 1 / 16)).square().sum().backward()
    held = sum(tensor.nbytes for use in gradient_in_slot(weight).uses for tensor in use if tensor is not None)
    assert held == weight[0].nbytes + 16 * 4


def test_sums_stay_compact_up_to_as_many_uses_as_copies() -> None:
    owner = Owner()
    weight, code = parameter(owner), random(4)
    for count in range(1, 6):
        KF.effective_weight(weight, code).sum().backward()
        gradient = gradient_in_slot(weight)
        assert len(gradient.uses) == count if count <= 4 else type(gradient) is Tensor
    torch.testing.assert_close(weight.grad, 5 * code.reshape(4, 1, 1, 1).expand(SHAPE))


# What a hook on a node of the graph may do with what it is given.
METHODS: dict[str, Callable[[Tensor], object]] = {
    "numpy": lambda g: torch.from_numpy(g.numpy()),
    "asarray": lambda g: torch.from_numpy(np.asarray(g)),
    "tolist": lambda g: torch.tensor(g.tolist(), dtype=torch.float64),
    "dlpack": torch.from_dlpack,
    "storage": lambda g: torch.tensor([], dtype=g.dtype).set_(g.untyped_storage(), 0, g.shape, g.stride()),
    "share_memory": lambda g: g.share_memory_(),
    "deepcopy": copy.deepcopy,
    "pickle": lambda g: pickle.loads(pickle.dumps(g)),
    "clone": lambda g: g.clone(),
    "data": lambda g: g.data,
    "detach": lambda g: g.detach(),
    "sum": lambda g: g + 0,
    "stack": lambda g: torch.stack([g])[0],
    "foreach": lambda g: torch._foreach_add([g], 0)[0],
    "keyword": lambda g: torch.add(input=g, other=torch.zeros(SHAPE, dtype=torch.float64)),
    "out": lambda g: torch.mul(g, 1, out=torch.empty(SHAPE, dtype=torch.float64)),
    "view": lambda g: g.view(-1).view(SHAPE),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_reads_as_the_dense_tensor(method: Callable[[Tensor], Tensor]) -> None:
    content = sum_of_uses((5, 3, False), (2, 3, True))
    expected = by_definition(content)
    result = method(CompactGradient(content))
    assert type(result) is Tensor
    torch.testing.assert_close(result, expected)


def below_python() -> AbstractContextManager[None]:
    """Calls are as those of C++ code."""
    return torch._C.DisableTorchFunctionSubclass()


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "scale": lambda g: g.mul_(0.5),
    "item": lambda g: g.__setitem__(0, 0.0),
    "data": lambda g: g.data.clamp_(-0.1, 0.1),
    "detach": lambda g: g.detach().zero_(),
    "view": lambda g: g.view(-1)[:7].zero_(),
    "unbind": lambda g: g.unbind(0)[1].zero_(),
    "out": lambda g: torch.mul(g, 0.5, out=g),
    "add": lambda g: g.add_(torch.ones(SHAPE, dtype=torch.float64)),
    "foreach": lambda g: torch._foreach_mul_([g], 0.5),
    "unscale": lambda g: torch._amp_foreach_non_finite_check_and_unscale_([g], torch.zeros(1), torch.tensor([0.5])),
    "numpy": lambda g: g.numpy().fill(3),
    "operator": lambda g: torch.ops.aten.mul_.Scalar(g, 0.5),
    "operator_out": lambda g: torch.ops.aten.mul.out(g, g, out=g),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_all_aliases_see_a_change_of_one(change: Callable[[Tensor], object]) -> None:
    """Aliases as C++ code makes them, like autograd when it takes a gradient over."""
    content = sum_of_uses((5, 3, False), (2, 3, True))
    dense = by_definition(content)
    gradient = CompactGradient(content)
    with below_python():
        alias = torch.ops.aten.detach.default(gradient)
    assert not content.is_dense
    change(gradient)
    change(dense)
    torch.testing.assert_close(alias + 0, dense)
    torch.testing.assert_close(gradient.clone(), dense)


def test_a_change_of_a_sum_leaves_its_terms() -> None:
    left, right = sum_of_uses(), sum_of_uses()
    expected = [by_definition(left), by_definition(right)]
    with below_python():
        total = torch.ops.aten.add.Tensor(CompactGradient(left), CompactGradient(right))
    assert len(total.content.uses) == 2
    total.mul_(3)
    torch.testing.assert_close([left.dense(), right.dense()], expected)
    torch.testing.assert_close(total + 0, 3 * (expected[0] + expected[1]))


def test_its_values_are_copied_elsewhere() -> None:
    """By C++ code, such as that of DistributedDataParallel: it stays as it is, until something is copied into it."""
    content = sum_of_uses((5, 3, False), (2, 3, True))
    expected, bucket = by_definition(content), torch.empty(SHAPE, dtype=torch.float64)
    with below_python():
        bucket.copy_(CompactGradient(content))
    torch.testing.assert_close(bucket, expected)
    assert not content.is_dense
    with below_python():
        CompactGradient(content).copy_(2 * bucket)
    assert content.is_dense
    torch.testing.assert_close(content.dense(), 2 * expected)


@pytest.mark.parametrize("dense_side", ["left", "right", "both"])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_sum_with_one_that_has_become_dense(in_place: bool, dense_side: str) -> None:
    left, right = sum_of_uses(), sum_of_uses((2, 3, True))
    expected = by_definition(left) + by_definition(right)
    for name, side in (("left", left), ("right", right)):
        if dense_side in (name, "both"):
            side.dense()
    first, second = CompactGradient(left), CompactGradient(right)
    with below_python():
        total = torch.ops.aten.add_.Tensor(first, second) if in_place else torch.ops.aten.add.Tensor(first, second)
    torch.testing.assert_close(first + 0 if in_place else total, expected)


def test_a_multiple_is_added() -> None:
    left, right = sum_of_uses(), sum_of_uses()
    expected = by_definition(left) - 3 * by_definition(right)
    with below_python():
        total = torch.ops.aten.add.Tensor(CompactGradient(left), CompactGradient(right), alpha=-3)
    torch.testing.assert_close(total + 0, expected)


def test_shows_its_values() -> None:
    content = sum_of_uses()
    expected = repr(by_definition(content))
    assert repr(CompactGradient(content)) == expected
