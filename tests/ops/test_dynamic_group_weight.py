"""Effective weight under a dynamic grouping: mix and mask."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from calls import (
    DTYPES,
    Call,
    assert_compiles,
    assert_exact_on_integers,
    assert_gradients_check,
    assert_matches_reference,
    assert_rejects,
    draw,
)
from cases import lay_out
from torch import Tensor

from kshot_ext import functional as KF
from kshot_ext import reference
from kshot_ext.ops.compact_gradient import SumOfUses
from kshot_ext.ops.gradient_slot import gradient_in_slot
from kshot_ext.optim import KShotSGD

pytestmark = pytest.mark.usefixtures("native_backend")

LAYOUTS = ("contiguous", "sliced", "inputs_innermost")


@dataclass(frozen=True)
class GroupCase:
    name: str
    weight: tuple[int, ...]  # [K, C_out, C_in, *kernel]
    gates: tuple[float, ...]
    samples: int = 3

    def __str__(self) -> str:
        return self.name

    def call(self, *, code_per_sample: bool = False) -> Call:
        generator = torch.Generator().manual_seed(0)
        shots = self.weight[0]
        return Call(
            {
                "weight": draw(generator, *self.weight),
                "code": draw(generator, *([self.samples, shots] if code_per_sample else [shots])),
                "group_gates": torch.tensor(self.gates, dtype=torch.float64),
            }
        )


CASES = (
    GroupCase("dense", (3, 8, 8, 3, 3), (1, 1, 1)),
    GroupCase("depthwise", (3, 8, 8, 3, 3), (0, 0, 0)),
    GroupCase("interleaved", (3, 8, 8, 3, 3), (1, 0, 0)),
    GroupCase("contiguous_blocks", (3, 8, 8, 3, 3), (0, 0, 1)),
    GroupCase("real_gates", (2, 8, 4, 3, 1), (0.5, 2)),
    GroupCase("real_and_closed", (2, 8, 8, 1, 1), (0.5, 0, 1)),
    GroupCase("more_outputs", (3, 12, 4, 3, 3), (0, 1)),
    GroupCase("more_inputs", (3, 2, 10, 2, 3), (0,)),
    GroupCase("many_copies", (13, 4, 4, 3, 3), (0, 1)),
    GroupCase("linear", (4, 6, 22), (0,)),
    GroupCase("conv3d", (4, 4, 4, 2, 1, 3), (1, 0)),
    GroupCase("long_blocks", (5, 2, 202, 3, 3), (0,)),
    GroupCase("no_samples", (3, 4, 4, 3, 3), (0, 1), samples=0),
)
CODES = pytest.mark.parametrize("code_per_sample", [False, True], ids=["shared_code", "code_per_sample"])


def in_layout(call: Call, layout: str) -> Call:
    if layout != "inputs_innermost":
        return lay_out(call, layout)
    weight = call.tensors["weight"]
    moved = weight.movedim(2, -1).contiguous().movedim(-1, 2) if weight.dim() > 3 else weight
    return Call({**call.tensors, "weight": moved}, call.options)


def relation_by_bits(gates: tuple[float, ...], out_channels: int, in_channels: int) -> Tensor:
    """Written out: the gates of those bits in which the numbers of two blocks differ, multiplied."""
    relation = torch.ones(out_channels, in_channels, dtype=torch.float64)
    for o, i in itertools.product(range(out_channels), range(in_channels)):
        differing = (o * 2 ** len(gates) // out_channels) ^ (i * 2 ** len(gates) // in_channels)
        bits = f"{differing:0{len(gates)}b}" if gates else ""
        for bit, gate in zip(bits, gates):
            relation[o, i] *= gate if bit == "1" else 1
    return relation


@CODES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case: GroupCase, dtype: torch.dtype, layout: str, code_per_sample: bool) -> None:
    call = in_layout(case.call(code_per_sample=code_per_sample).to(dtype), layout)
    assert_matches_reference(KF.dynamic_group_weight, reference.dynamic_group_weight, call)


@CODES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if not case.name.startswith("long")], ids=str)
def test_exact_on_integers(case: GroupCase, dtype: torch.dtype, code_per_sample: bool) -> None:
    call = case.call(code_per_sample=code_per_sample).to(dtype)
    assert_exact_on_integers(KF.dynamic_group_weight, reference.dynamic_group_weight, call)


@pytest.mark.parametrize("case", CASES[:-1], ids=str)
def test_relation_written_out(case: GroupCase) -> None:
    tensors = case.call().tensors
    weight, code = tensors["weight"], tensors["code"]
    relation = relation_by_bits(case.gates, *case.weight[1:3])
    mixed = sum(c * w for c, w in zip(code, weight))
    expected = relation.reshape(*relation.shape, *(1,) * (weight.dim() - 3)) * mixed
    for function in (KF.dynamic_group_weight, reference.dynamic_group_weight):
        torch.testing.assert_close(function(**tensors), expected)


@pytest.mark.parametrize("gates", tuple(itertools.product((0.0, 1.0), repeat=4)), ids=str)
def test_count_of_groups_and_of_connections(gates: tuple[float, ...]) -> None:
    """2^(n - sum) groups, and 2^(n + sum) connections of C = 2^n channels; all groups are of one size."""
    weight = KF.dynamic_group_weight(torch.ones(1, 16, 16, 1, 1), torch.ones(1), torch.tensor(gates)).flatten(1)
    count = int(sum(gates))
    assert weight.sum() == 2 ** (4 + count)
    groups = weight.unique(dim=0)  # each output channel of a group reads the same inputs
    assert len(groups) == 2 ** (4 - count)
    assert torch.equal(groups.sum(0), torch.ones(16))


@CODES
@pytest.mark.parametrize("gates", [(0.0, 1.0), (1.0, 1.0), (0.0, 0.0), (0.3, -1.5)], ids=str)
def test_gradcheck(gates: tuple[float, ...], code_per_sample: bool) -> None:
    """Also at binary gates: the relation is linear in each."""
    call = GroupCase("tiny", (2, 4, 4, 2, 1), gates, samples=2).call(code_per_sample=code_per_sample)
    assert_gradients_check(KF.dynamic_group_weight, call)


@pytest.mark.parametrize("gates", tuple(itertools.product((0.0, 1.0), repeat=3)), ids=str)
def test_a_gate_gradient_is_what_opening_it_adds(gates: tuple[float, ...]) -> None:
    """For straight-through estimation: with binary gates the change of a linear loss is its derivative, exactly."""
    call = GroupCase("any", (2, 8, 8, 1, 1), gates).call()
    grad = torch.randn(8, 8, 1, 1, dtype=torch.float64)

    def loss(group_gates: Tensor) -> Tensor:
        return (grad * KF.dynamic_group_weight(**{**call.tensors, "group_gates": group_gates})).sum()

    leaf = torch.tensor(gates, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    for j in range(3):
        ends = [torch.tensor(gates, dtype=torch.float64) for _ in range(2)]
        ends[0][j], ends[1][j] = 0, 1
        torch.testing.assert_close(gradient[j], loss(ends[1]) - loss(ends[0]))


@CODES
def test_without_gates_it_is_the_effective_weight(code_per_sample: bool) -> None:
    tensors = GroupCase("odd", (3, 7, 5, 3, 3), ()).call(code_per_sample=code_per_sample).to(torch.float32).tensors
    leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    mixed = KF.dynamic_group_weight(**leaves)
    torch.testing.assert_close(mixed, KF.effective_weight(leaves["weight"], leaves["code"]))
    mixed.sum().backward()
    assert leaves["group_gates"].grad.shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_that_are_left_out_do_not_matter(dtype: torch.dtype) -> None:
    """NaN, say; nor do gradients there reach the code and the dictionary."""
    tensors = CASES[2].call().to(dtype).tensors
    closed = (relation_by_bits(CASES[2].gates, 8, 8) == 0)[..., None, None]
    expected = reference.dynamic_group_weight(**tensors)
    weight = tensors["weight"].masked_fill(closed, torch.nan).requires_grad_()
    code = tensors["code"].requires_grad_()
    for function in (KF.dynamic_group_weight, reference.dynamic_group_weight):
        mixed = function(weight, code, tensors["group_gates"])
        torch.testing.assert_close(mixed, expected)
        assert (mixed.masked_select(closed.expand_as(mixed)) == 0).all()
    grad = torch.ones_like(expected).masked_fill(closed, torch.nan)
    output = KF.dynamic_group_weight(weight, code, tensors["group_gates"])
    for gradient in torch.autograd.grad(output, (weight, code), grad):
        assert gradient.isfinite().all()


@CODES
def test_compile_fullgraph(code_per_sample: bool) -> None:
    calls = [
        in_layout(case.call(code_per_sample=code_per_sample).to(torch.float32), layout)
        for case in (CASES[2], CASES[6])
        for layout in ("contiguous", "inputs_innermost")
    ]
    assert_compiles(KF.dynamic_group_weight, calls)


@pytest.mark.parametrize("gates_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_code_and_gates_of_any_dtype(dtype: torch.dtype, gates_dtype: torch.dtype) -> None:
    tensors = CASES[2].call().tensors
    weight = tensors["weight"].to(dtype)
    code, gates = (tensors[name].to(gates_dtype).requires_grad_() for name in ("code", "group_gates"))
    mixed = KF.dynamic_group_weight(weight, code, gates)
    mixed.sum().backward()
    assert mixed.dtype == dtype
    assert code.grad.dtype == gates.grad.dtype == gates_dtype
    torch.testing.assert_close(mixed, reference.dynamic_group_weight(weight, code, gates))


def test_results_do_not_depend_on_threads() -> None:
    call = GroupCase("large", (4, 64, 64, 3, 3), (0, 1, 0, 1, 1, 0)).call().to(torch.float32)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        leaves = [tensor.detach().requires_grad_() for tensor in call.tensors.values()]
        output = KF.dynamic_group_weight(*leaves)
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    assert all(torch.equal(one, other) for one, other in zip(*results))


def test_every_instruction_set_matches_the_reference(instruction_set: str) -> None:
    assert torch.ops.kshot_ext.cpu_isa() == instruction_set
    for case in CASES:
        for dtype in DTYPES:
            call = case.call(code_per_sample=case.name == "dense").to(dtype)
            assert_matches_reference(KF.dynamic_group_weight, reference.dynamic_group_weight, call)


def test_a_dictionary_of_kshot_sgd_has_a_compact_gradient() -> None:
    """Masked as the dense one, and the optimiser's step is that of torch's."""
    call = CASES[2].call().to(torch.float32).tensors
    weight, twin = (torch.nn.Parameter(call["weight"].clone()) for _ in range(2))
    ours, theirs = KShotSGD([weight], lr=0.1), torch.optim.SGD([twin], lr=0.1)
    for parameter in (weight, twin):
        KF.dynamic_group_weight(parameter, call["code"], call["group_gates"]).square().sum().backward()
    assert isinstance(gradient_in_slot(weight), SumOfUses)
    ours.step()
    theirs.step()
    torch.testing.assert_close(weight.detach(), twin.detach())


def arguments(**changes: Any) -> dict[str, Any]:
    return {
        "weight": torch.zeros(3, 4, 12, 1, 1),
        "code": torch.zeros(3),
        "group_gates": torch.zeros(2),
        **changes,
    }


REJECTIONS: dict[str, tuple[dict[str, Any], type, str]] = {
    "weight_rank": (
        {"weight": torch.zeros(3, 4)},
        ValueError,
        r"weight must have shape \[K, C_out, C_in.*got \[3, 4\]",
    ),
    "code_shots": ({"code": torch.zeros(2)}, ValueError, r"code must have K = 3 entries.*got shape \[2\]"),
    "gates_no_tensor": ({"group_gates": [0, 1]}, TypeError, r"group_gates must be a tensor \[n\], got list"),
    "gates_rank": ({"group_gates": torch.zeros(2, 2)}, ValueError, r"group_gates must have shape \[n\], got \[2, 2\]"),
    "gates_bool": (
        {"group_gates": torch.ones(2, dtype=torch.bool)},
        TypeError,
        "group_gates must be one of.*torch.bool",
    ),
    "gates_many": (
        {"group_gates": torch.zeros(3)},
        ValueError,
        r"at most n = 2 entries .*2\^n must divide C_out = 4 and C_in = 12; got 3",
    ),
    "gates_device": (
        {"group_gates": torch.zeros(2, device="meta")},
        ValueError,
        "group_gates must be on cpu like weight",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), REJECTIONS.values(), ids=REJECTIONS)
def test_rejects(changes: dict[str, Any], error: type, message: str) -> None:
    assert_rejects(KF.dynamic_group_weight, arguments(**changes), error, message)
