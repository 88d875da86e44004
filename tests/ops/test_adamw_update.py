"""One step of AdamW over a dictionary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from calls import DTYPES
from compare import assert_close_to_reference
from torch import Tensor
from update_cases import CASES, UpdateCase, operands

from kshot_ext import backend
from kshot_ext.ops.adamw_update import adamw_update
from kshot_ext.ops.compact_gradient import Use

PLAIN = {"lr": 0.125, "beta1": 0.75, "beta2": 0.875, "eps": 1e-3, "weight_decay": 0.25, "maximize": False}
SETTINGS = {
    "plain": (PLAIN, False),
    "without_decay": (PLAIN | {"weight_decay": 0.0}, False),
    "usual_betas": (PLAIN | {"beta1": 0.9, "beta2": 0.999}, False),
    "amsgrad": (PLAIN, True),
    "maximize": (PLAIN | {"maximize": True}, False),
    "amsgrad_maximize": (PLAIN | {"maximize": True}, True),
}
STATES = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def update(
    cases: Sequence[UpdateCase],
    dtype: torch.dtype,
    values: torch.dtype,
    innermost: bool,
    settings: dict[str, Any],
    amsgrad: bool,
) -> list[Tensor]:
    """Weights and moments after one step, which is another one for each dictionary."""
    each = [operands(case, dtype, values, innermost, 2 + amsgrad) for case in cases]
    weights, kept, grads, uses = map(list, zip(*each))
    states: list[list[Tensor]] = [list(of_kind) for of_kind in zip(*kept)]
    for tensor in [tensor for second in states[1:] for tensor in second]:
        tensor.abs_()
    lists = [*states, *[[]] * (3 - len(states))]
    steps = [1.0 + i for i in range(len(cases))]
    adamw_update(weights, *lists, steps, grads, uses, **settings)
    return [*weights, *(tensor for of_kind in states for tensor in of_kind)]


def assert_matches_reference(
    cases: Sequence[UpdateCase], dtype: torch.dtype, innermost: bool, settings: dict[str, Any], amsgrad: bool
) -> None:
    actual = update(cases, dtype, dtype, innermost, settings, amsgrad)
    with backend.use_reference():
        eager = update(cases, dtype, dtype, innermost, settings, amsgrad)
        expected = update(cases, torch.float64, dtype, innermost, settings, amsgrad)
    names = [f"{what} of {case}" for what in ("weight", *STATES) for case in cases]
    for what, *tensors in zip(names, actual, eager, expected):
        assert_close_to_reference(tensors[0], tensors[2], eager=tensors[1], what=what)


@pytest.mark.parametrize("innermost", [False, True], ids=["contiguous", "inputs_innermost"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case: UpdateCase, dtype: torch.dtype, innermost: bool) -> None:
    assert_matches_reference([case], dtype, innermost, PLAIN, innermost)


@pytest.mark.parametrize(("settings", "amsgrad"), SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_many_dictionaries_in_one_call(
    threads: int, dtype: torch.dtype, settings: dict[str, Any], amsgrad: bool
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # More than one task, and more of a copy than is updated before the next one.
        large = [UpdateCase(f"large {gated}", (2, 50, 30, 10, 9), ((50, 30, gated),)) for gated in (False, True)]
        assert_matches_reference([*CASES, *large, *CASES[::-1]], dtype, True, settings, amsgrad)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("used", [nullcontext, backend.use_reference], ids=["native", "reference"])
def test_worked_out_by_hand(used: Callable[[], AbstractContextManager[None]], maximize: bool) -> None:
    """The second step of a dictionary of two copies, of which one input channel of two output channels is in use."""
    weight, exp_avg, exp_avg_sq = torch.full((2, 3, 2), 8.0), torch.full((2, 3, 2), 6.0), torch.full((2, 3, 2), 12.0)
    largest = torch.full((2, 3, 2), 27.0)
    use = Use(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 1.0]), torch.tensor([[2.0], [-6.0]]))
    settings = {"lr": 0.5, "beta1": 0.5, "beta2": 0.5, "eps": 1.0, "weight_decay": 0.25, "maximize": maximize}
    with used():
        adamw_update([weight], [exp_avg], [exp_avg_sq], [largest], [2.0], [None], [[use]], **settings)
    # Gradients of copy 0, input channel 0: 6, -6 and, for the output channel out of use, 0; else 0.
    sign = -1.0 if maximize else 1.0
    m = torch.full((2, 3, 2), 3.0)  # 6 / 2 + g / 2
    m[0, :, 0] += torch.tensor([3.0, -3.0, 0.0]) * sign
    v = torch.full((2, 3, 2), 6.0)  # 12 / 2 + g^2 / 2
    v[0, :2, 0] = 24.0
    # The largest stays 27 and its root, corrected by 1 - 1/4, is 6; the step is 0.5 m / (1 - 1/4) / (6 + 1).
    torch.testing.assert_close(exp_avg, m)
    torch.testing.assert_close(exp_avg_sq, v)
    torch.testing.assert_close(largest, torch.full((2, 3, 2), 27.0))
    torch.testing.assert_close(weight, 8.0 * 0.875 - m * (0.5 / 0.75 / 7.0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_largest_second_moment_keeps_what_is_no_number(dtype: torch.dtype) -> None:
    """On either side, as `torch.maximum` does."""
    weight, exp_avg = torch.ones(40, dtype=dtype), torch.zeros(40, dtype=dtype)
    exp_avg_sq, largest, grad = torch.ones_like(weight), torch.full_like(weight, 0.5), torch.zeros_like(weight)
    exp_avg_sq[3], largest[4], grad[5] = torch.nan, torch.nan, torch.nan
    adamw_update([weight], [exp_avg], [exp_avg_sq], [largest], [1.0], [grad], [()], **PLAIN)
    assert largest.isnan().nonzero().flatten().tolist() == [3, 4, 5]
    assert weight.isnan().nonzero().flatten().tolist() == [3, 4, 5]
    assert (largest[6:] == 0.875).all()


@pytest.mark.parametrize("shape", [(2, 3, 4), (24,)], ids=str)
@pytest.mark.parametrize("which", range(4), ids=["weight", *STATES])
def test_updates_views_in_place(which: int, shape: tuple[int, ...]) -> None:
    """Tensors in no layout that the kernels know are updated all the same, and nothing beside them."""
    larger = torch.zeros(*shape[:-1], 2 * shape[-1] + 2)
    view = larger[..., 1:-1:2]
    tensors = [torch.zeros(shape) for _ in range(4)]
    tensors[which] = view
    adamw_update(*([tensor] for tensor in tensors), [1.0], [torch.ones(shape)], [()], **PLAIN | {"eps": 0.0})
    for tensor, expected in zip(tensors, (-0.125, 0.25, 0.125, 0.125)):
        torch.testing.assert_close(tensor, torch.full(shape, expected))
    assert larger.count_nonzero() == view.numel()


@pytest.mark.parametrize("which", range(4), ids=[*STATES, "grad"])
def test_states_and_gradients_of_another_dtype(which: int) -> None:
    """As after a conversion of the weights alone; each keeps its own."""
    weight, states, grad = torch.ones(2, 3), [torch.zeros(2, 3) for _ in STATES], torch.ones(2, 3)
    tensors = [*states, grad]
    tensors[which] = tensors[which].double()
    adamw_update([weight], *([state] for state in tensors[:3]), [1.0], tensors[3:], [()], **PLAIN | {"eps": 0.0})
    assert [tensor.dtype == torch.float64 for tensor in tensors] == [i == which for i in range(4)]
    torch.testing.assert_close(weight, torch.full((2, 3), 1 - 0.125 * 0.25 - 0.125))
    for tensor, expected in zip(tensors, (0.25, 0.125, 0.125)):
        torch.testing.assert_close(tensor, torch.full((2, 3), expected, dtype=tensor.dtype))


@pytest.mark.parametrize("which", range(4), ids=["weight", *STATES])
def test_an_update_is_seen_by_autograd(which: int) -> None:
    """A backward pass that needs the values from before the update is refused, as after torch's own updates."""
    tensors = [torch.ones(2, 3) for _ in range(4)]
    factor = torch.ones(2, 3, requires_grad=True)
    loss = (factor * tensors[which]).sum()
    adamw_update(*([tensor] for tensor in tensors), [1.0], [torch.ones(2, 3)], [()], **PLAIN)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exp_avg": torch.zeros(2, 3, 3)}, "exp_avg must be .* like the weight"),
        ({"exp_avg_sq": torch.zeros(2, 3, 3)}, "exp_avg_sq must be .* like the weight"),
        ({"max_exp_avg_sq": torch.zeros(2, 3, 3)}, "max_exp_avg_sq must be .* like the weight"),
        ({"grad": torch.zeros(2, 3)}, "grad must be .* like the weight"),
        ({"code": torch.zeros(3)}, r"code of a use must be \[K\] with K = 2"),
        ({"gate": torch.zeros(2)}, r"gate of a use must be \[C_out'\] with C_out' = 3"),
        ({"use": torch.zeros(3, 5)}, "gradient of a use must be that of the active part of one copy"),
        ({"step": 0.0}, "a step must be 1 or later, got 0"),
        ({"step": torch.nan}, "a step must be 1 or later, got nan"),
    ],
)
def test_rejects_what_would_be_read_out_of_bounds(native_backend: None, changes: dict[str, Any], message: str) -> None:
    """In the second of two dictionaries."""
    states = {name: torch.zeros(2, 3, 4) for name in STATES}
    good = {**states, "step": 1.0, "grad": None, "code": torch.zeros(2), "gate": None, "use": torch.zeros(3, 4)}
    given = {**good, **changes}
    weights, uses = [torch.zeros(5), torch.zeros(2, 3, 4)], [(), [Use(given["code"], given["gate"], given["use"])]]
    lists = [[torch.zeros(5), given[name]] for name in STATES]
    with pytest.raises(RuntimeError, match=message):
        adamw_update(weights, *lists, [1.0, given["step"]], [torch.ones(5), given["grad"]], uses, **PLAIN)
    assert not weights[0].any(), "nothing may be updated then"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exp_avgs": [torch.zeros(2, 3)]}, "every weight needs an exp_avg, an exp_avg_sq and a step"),
        ({"exp_avg_sqs": []}, "every weight needs an exp_avg, an exp_avg_sq and a step"),
        ({"max_exp_avg_sqs": [torch.zeros(2, 3)]}, "all of them or none a max_exp_avg_sq"),
        ({"steps": [1.0]}, "every weight needs an exp_avg, an exp_avg_sq and a step"),
        ({"grads": [None]}, "every weight needs a gradient or none"),
        ({"use_counts": [1, 1]}, "every use needs a code"),
        ({"use_gates": []}, "every use needs a code"),
    ],
)
def test_operator_rejects_lists_that_do_not_fit(native_backend: None, changes: dict[str, Any], message: str) -> None:
    tensors = {f"{name}s": [torch.zeros(2, 3), torch.zeros(2, 3)] for name in ("weight", *STATES)}
    lists = {"steps": [1.0, 1.0], "grads": [None, None], "use_counts": [0, 1], "use_codes": [torch.zeros(2)]}
    arguments = {**tensors, **lists, "use_gates": [None], "use_grads": [torch.zeros(3)], **PLAIN, **changes}
    with pytest.raises(RuntimeError, match=message):
        torch.ops.kshot_ext.adamw_update(**arguments)


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)], ids=str)
def test_memory_written_twice_is_refused(native_backend: None, pair: tuple[int, int]) -> None:
    tensors = [torch.zeros(2, 3) for _ in range(4)]
    tensors[pair[1]] = tensors[pair[0]].view(3, 2).view(2, 3)
    message = "weights, exp_avgs, exp_avg_sqs and max_exp_avg_sqs must not share memory"
    with pytest.raises(RuntimeError, match=message):
        adamw_update(*([tensor] for tensor in tensors), [1.0], [torch.ones(2, 3)], [()], **PLAIN)
    assert not any(tensor.any() for tensor in tensors), "nothing may be updated then"
