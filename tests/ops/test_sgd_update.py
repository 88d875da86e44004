"""One optimiser step over a dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from calls import DTYPES
from compare import assert_close_to_reference
from torch import Tensor
from update_cases import CASES, UpdateCase, operands

from kshot_ext import backend
from kshot_ext.ops.compact_gradient import Use
from kshot_ext.ops.sgd_update import sgd_update

SETTINGS = {
    "plain": {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "maximize": False},
    "weight_decay": {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.25, "nesterov": False, "maximize": False},
    "momentum": {"momentum": 0.875, "dampening": 0.0, "weight_decay": 0.125, "nesterov": False, "maximize": False},
    "dampening": {"momentum": 0.875, "dampening": 0.5, "weight_decay": 0.0, "nesterov": False, "maximize": False},
    "nesterov": {"momentum": 0.875, "dampening": 0.0, "weight_decay": 0.125, "nesterov": True, "maximize": False},
    "maximize": {"momentum": 0.875, "dampening": 0.0, "weight_decay": 0.125, "nesterov": True, "maximize": True},
}


def update(
    cases: Sequence[UpdateCase], dtype: torch.dtype, values: torch.dtype, innermost: bool, **settings: Any
) -> list[Tensor]:
    """Weights and momenta after one step."""
    each = [operands(case, dtype, values, innermost, bool(settings["momentum"])) for case in cases]
    weights, states, grads, uses = map(list, zip(*each))
    buffers = [buffer for of_one in states for buffer in of_one]
    sgd_update(weights, buffers, grads, uses, lr=0.125, **settings)
    return [*weights, *buffers]


def assert_matches_reference(
    cases: Sequence[UpdateCase], dtype: torch.dtype, innermost: bool, settings: dict[str, Any]
) -> None:
    actual = update(cases, dtype, dtype, innermost, **settings)
    with backend.use_reference():
        eager = update(cases, dtype, dtype, innermost, **settings)
        expected = update(cases, torch.float64, dtype, innermost, **settings)
    names = [f"{what} of {case}" for what in ("weight", "momentum") for case in cases]
    for what, *tensors in zip(names, actual, eager, expected):
        assert_close_to_reference(tensors[0], tensors[2], eager=tensors[1], what=what)


@pytest.mark.parametrize("innermost", [False, True], ids=["contiguous", "inputs_innermost"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case: UpdateCase, dtype: torch.dtype, settings: dict[str, Any], innermost: bool) -> None:
    assert_matches_reference([case], dtype, innermost, settings)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_many_dictionaries_in_one_call(threads: int, dtype: torch.dtype, settings: dict[str, Any]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # More than one task, and more of a copy than is updated before the next one.
        large = [UpdateCase(f"large {gated}", (2, 50, 30, 10, 9), ((50, 30, gated),)) for gated in (False, True)]
        assert_matches_reference([*CASES, *large, *CASES[::-1]], dtype, True, settings)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("maximize", [False, True])
def test_exact_on_integers(maximize: bool) -> None:
    weight, buffer = torch.arange(12.0).reshape(2, 3, 2), torch.ones(2, 3, 2)
    use = Use(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]), torch.tensor([[1.0], [2.0]]))
    settings = {"lr": 2, "momentum": 4, "dampening": 0, "weight_decay": 1, "nesterov": False, "maximize": maximize}
    sgd_update([weight], [buffer], [None], [[use]], **settings)
    grad = torch.zeros(2, 3, 2)
    grad[:, :2, 0] = torch.tensor([[1.0, 6.0], [2.0, 12.0]])
    expected = (-grad if maximize else grad) + torch.arange(12.0).reshape(2, 3, 2) + 4
    assert torch.equal(buffer, expected)
    assert torch.equal(weight, torch.arange(12.0).reshape(2, 3, 2) - 2 * expected)


PLAIN = {"lr": 1.0, "momentum": 0.5, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "maximize": False}


@pytest.mark.parametrize("shape", [(2, 3, 4), (24,)], ids=str)
@pytest.mark.parametrize("which", [0, 1], ids=["weight", "momentum"])
def test_updates_views_in_place(which: int, shape: tuple[int, ...]) -> None:
    """Tensors in no layout that the kernels know are updated all the same, and nothing beside them."""
    larger = torch.zeros(*shape[:-1], 2 * shape[-1] + 2)
    view = larger[..., 1:-1:2]
    tensors = [torch.zeros(shape), torch.zeros(shape)]
    tensors[which] = view
    sgd_update(tensors[:1], tensors[1:], [torch.ones(shape)], [()], **PLAIN)
    assert (tensors[0] == -1).all()
    assert (tensors[1] == 1).all()
    assert larger.count_nonzero() == view.numel()


@pytest.mark.parametrize("dtypes", [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_buffers_and_gradients_of_another_dtype(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """As after a conversion of the weights alone; each keeps its own."""
    weight, buffer, grad = torch.ones(2, 3, dtype=dtypes[0]), torch.ones(2, 3).to(dtypes[1]), torch.ones(2, 3)
    other = torch.ones(4, dtype=torch.float32)
    settings = SETTINGS["momentum"] | {"lr": 1.0, "weight_decay": 0.0}
    sgd_update([weight, other], [buffer, torch.ones(4)], [grad.to(dtypes[1]), torch.ones(4)], [(), ()], **settings)
    assert (weight.dtype, buffer.dtype) == dtypes
    assert (buffer == 1.875).all()
    assert (weight == -0.875).all()
    assert (other == -0.875).all()


def test_an_update_is_seen_by_autograd() -> None:
    """A backward pass that needs the values from before the update is refused, as after torch's own updates."""
    weight = torch.ones(2, 3, requires_grad=True)
    loss = weight.square().sum()
    with torch.no_grad():
        sgd_update([weight], [], [torch.ones(2, 3)], [()], **PLAIN | {"momentum": 0.0})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum_buffer": torch.zeros(2, 3, 3)}, "momentum_buffer must be .* like the weight"),
        ({"grad": torch.zeros(2, 3)}, "grad must be .* like the weight"),
        ({"code": torch.zeros(3)}, r"code of a use must be \[K\] with K = 2"),
        ({"code": torch.zeros(2).double()}, "code of a use must be .* in the dtype of sums"),
        ({"gate": torch.zeros(2)}, r"gate of a use must be \[C_out'\] with C_out' = 3"),
        ({"gate": torch.zeros(3).double()}, "gate of a use must be .* in the dtype of sums"),
        ({"use": torch.zeros(3, 5)}, "gradient of a use must be that of the active part of one copy"),
        ({"use": torch.zeros(3, 4, 1)}, "gradient of a use must be that of the active part of one copy"),
        ({"use": torch.zeros(3, 4).half()}, "gradient of a use must be that of the active part of one copy"),
    ],
)
def test_rejects_what_would_be_read_out_of_bounds(changes: dict[str, Tensor], message: str) -> None:
    """In the second of two dictionaries."""
    good = {"momentum_buffer": torch.zeros(2, 3, 4), "grad": None, "code": torch.zeros(2), "gate": None}
    given_values = {**good, "use": torch.zeros(3, 4), **changes}
    use = Use(given_values["code"], given_values["gate"], given_values["use"])
    weights, buffers = [torch.zeros(5), torch.zeros(2, 3, 4)], [torch.zeros(5), given_values["momentum_buffer"]]
    with pytest.raises(RuntimeError, match=message):
        sgd_update(weights, buffers, [torch.ones(5), given_values["grad"]], [(), [use]], **PLAIN)
    assert not weights[0].any(), "nothing may be updated then"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum_buffers": [torch.zeros(2, 3)]}, "all of them or none a momentum_buffer"),
        ({"grads": [None]}, "every weight needs a gradient or none"),
        ({"use_counts": [1]}, "every weight needs .* a count of uses"),
        ({"use_counts": [1, 1]}, "every use needs a code"),
        ({"use_counts": [2, -1]}, "a count of uses"),
        ({"use_gates": []}, "every use needs a code"),
        ({"use_grads": []}, "every use needs a code"),
    ],
)
def test_operator_rejects_lists_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    weights = [torch.zeros(2, 3), torch.zeros(2, 3)]
    lists = {"momentum_buffers": [], "grads": [None, None], "use_counts": [0, 1], "use_codes": [torch.zeros(2)]}
    arguments = {**lists, "use_gates": [None], "use_grads": [torch.zeros(3)], **PLAIN, **changes}
    with pytest.raises(RuntimeError, match=message):
        torch.ops.kshot_ext.sgd_update(weights, **arguments)


def step(weights: list[Tensor], momentum_buffers: list[Tensor], momentum: float) -> None:
    """One step of the operator itself, along gradients of one."""
    grads, counts = [torch.ones_like(weight) for weight in weights], [0] * len(weights)
    settings = PLAIN | {"lr": 2.0, "momentum": momentum}
    torch.ops.kshot_ext.sgd_update(weights, momentum_buffers, grads, counts, [], [], [], **settings)


def test_momentum_without_buffers_is_refused(native_backend: None) -> None:
    weight = torch.zeros(2, 3)
    for momentum in (0.5, -0.5):
        with pytest.raises(RuntimeError, match=f"needs a momentum_buffer for every weight, got momentum {momentum}"):
            step([weight], [], momentum)
    assert not weight.any()
    step([weight], [], 0.0)
    assert (weight == -2).all()


@pytest.mark.parametrize(
    "places",
    [
        # Of the two weights and, where there are four, of their buffers: offset and strides in the memory.
        ((0, (3, 1)), (0, (3, 1))),
        ((0, (3, 1)), (5, (3, 1))),
        ((0, (3, 1)), (6, (3, 1)), (12, (3, 1)), (5, (3, 1))),
        ((0, (3, 1)), (6, (3, 1)), (0, (3, 1)), (12, (3, 1))),
        ((0, (6, 2)), (1, (3, 1))),
        ((0, (6, 2)), (2, (6, 2))),
        ((0, (12, 4)), (1, (12, 4)), (2, (12, 4)), (13, (3, 1))),
    ],
    ids=str,
)
def test_memory_written_twice_is_refused(native_backend: None, places: tuple[tuple[int, tuple[int, ...]], ...]) -> None:
    memory = torch.zeros(24)
    tensors = [memory.as_strided((2, 3), strides, offset) for offset, strides in places]
    with pytest.raises(RuntimeError, match="weights and momentum_buffers must not share memory"):
        step(tensors[:2], tensors[2:], 0.5 if tensors[2:] else 0.0)
    assert not memory.any(), "nothing may be updated then"


def test_views_of_one_storage_that_share_no_element(native_backend: None) -> None:
    """One after the other, and as columns between each other's."""
    rows, columns = torch.zeros(4, 6), torch.zeros(6, 4)
    step([rows[0], rows[1]], [rows[3], rows[2]], 0.5)
    assert torch.equal(rows, torch.tensor([-2.0, -2.0, 1.0, 1.0])[:, None].expand(4, 6))
    step([columns[:, 0], columns[:, 2]], [columns[:, 3], columns[:, 1]], 0.5)
    assert torch.equal(columns, torch.tensor([-2.0, 1.0, -2.0, 1.0]).expand(6, 4))
    half = torch.zeros(2, 12)
    step([half[:, :6], half[:, 6:], torch.zeros(0)], [], 0.0)
    assert (half == -2).all()
