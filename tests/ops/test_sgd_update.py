"""One optimiser step over a dictionary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from calls import DTYPES, draw
from compare import assert_close_to_reference
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kshot_ext import backend
from kshot_ext.ops.compact_gradient import Use
from kshot_ext.ops.sgd_update import sgd_update

SETTINGS = {
    "plain": {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False},
    "weight_decay": {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.25, "nesterov": False},
    "momentum": {"momentum": 0.875, "dampening": 0.0, "weight_decay": 0.125, "nesterov": False},
    "dampening": {"momentum": 0.875, "dampening": 0.5, "weight_decay": 0.0, "nesterov": False},
    "nesterov": {"momentum": 0.875, "dampening": 0.0, "weight_decay": 0.125, "nesterov": True},
}


@dataclass(frozen=True)
class UpdateCase:
    """A dictionary and the widths `(C_out', C_in', gated)` of its uses; None: a dense gradient."""

    name: str
    weight: tuple[int, ...] = (3, 7, 5, 3, 3)
    uses: tuple[tuple[int, int, bool], ...] | None = ((7, 5, False),)

    def __str__(self) -> str:
        return self.name


CASES = (
    UpdateCase("one_use"),
    UpdateCase("one_copy", (1, 7, 5)),
    UpdateCase("many_copies", (11, 7, 5, 1, 1), ((7, 5, True),)),
    UpdateCase("gate", uses=((7, 5, True),)),
    UpdateCase("narrow", uses=((4, 2, True),)),
    UpdateCase("several_uses", uses=((7, 5, False), (4, 5, True), (7, 2, False))),
    UpdateCase("no_use", uses=()),
    UpdateCase("bias", (3, 7), ((4, 1, False), (7, 1, True))),
    UpdateCase("linear_longer_than_a_chunk", (2, 3, 1031), ((2, 1030, False),)),
    UpdateCase("flat_longer_than_a_chunk", (2, 7, 739), ((7, 739, False),)),
    UpdateCase("dense", uses=None),
    UpdateCase("dense_vector", (7,), None),
    UpdateCase("dense_scalar", (), None),
)


def update(case: UpdateCase, dtype: torch.dtype, values: torch.dtype, innermost: bool, **settings: Any) -> list[Tensor]:
    """Weight and momentum after one step in `dtype`, on values rounded to `values`."""
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> Tensor:
        drawn = draw(generator, *shape).to(values).to(dtype)
        rank = len(case.weight)
        if innermost and rank > 3 and len(shape) >= rank - 1:
            channels = 2 + len(shape) - rank
            return drawn.movedim(channels, -1).contiguous().movedim(-1, channels)
        return drawn

    weight = tensor(*case.weight)
    buffer = tensor(*case.weight) if settings["momentum"] else None
    if case.uses is None:
        grad, uses = tensor(*case.weight), None
    else:
        sum_dtype = torch.promote_types(dtype, torch.float32)
        grad, uses = None, []
        for out_channels, in_channels, gated in case.uses:
            code = tensor(case.weight[0]).to(sum_dtype)
            gate = tensor(out_channels).to(sum_dtype) if gated else None
            uses.append(
                Use(
                    code, gate, tensor(out_channels, *([in_channels] if len(case.weight) > 2 else []), *case.weight[3:])
                )
            )
    sgd_update(weight, buffer, grad, uses, lr=0.125, **settings)
    return [weight] if buffer is None else [weight, buffer]


def assert_matches_reference(case: UpdateCase, dtype: torch.dtype, innermost: bool, settings: dict[str, Any]) -> None:
    actual = update(case, dtype, dtype, innermost, **settings)
    with backend.use_reference():
        eager = update(case, dtype, dtype, innermost, **settings)
        expected = update(case, torch.float64, dtype, innermost, **settings)
    for what, *tensors in zip(("weight", "momentum"), actual, eager, expected):
        assert_close_to_reference(tensors[0], tensors[2], eager=tensors[1], what=what)


@pytest.mark.parametrize("innermost", [False, True], ids=["contiguous", "inputs_innermost"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case: UpdateCase, dtype: torch.dtype, settings: dict[str, Any], innermost: bool) -> None:
    assert_matches_reference(case, dtype, innermost, settings)


def test_random_geometries() -> None:
    @st.composite
    def cases(pick: Any) -> UpdateCase:
        weight = pick(st.tuples(st.integers(1, 5), *[st.integers(1, 5)] * pick(st.integers(1, 4))))
        in_channels = weight[2] if len(weight) > 2 else 1
        use = st.tuples(st.integers(1, weight[1]), st.integers(1, in_channels), st.booleans())
        return UpdateCase("random", weight, pick(st.one_of(st.none(), st.lists(use, max_size=3).map(tuple))))

    dtypes = st.sampled_from([torch.float32, torch.float64])

    @given(cases(), dtypes, st.booleans(), st.sampled_from(list(SETTINGS.values())))
    def matches_reference(case: UpdateCase, dtype: torch.dtype, innermost: bool, settings: dict[str, Any]) -> None:
        assert_matches_reference(case, dtype, innermost, settings)

    matches_reference()


def test_exact_on_integers() -> None:
    weight, buffer = torch.arange(12.0).reshape(2, 3, 2), torch.ones(2, 3, 2)
    use = Use(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]), torch.tensor([[1.0], [2.0]]))
    sgd_update(weight, buffer, None, [use], lr=2, momentum=4, dampening=0, weight_decay=1, nesterov=False)
    grad = torch.zeros(2, 3, 2)
    grad[:, :2, 0] = torch.tensor([[1.0, 6.0], [2.0, 12.0]])
    expected = grad + torch.arange(12.0).reshape(2, 3, 2) + 4
    assert torch.equal(buffer, expected)
    assert torch.equal(weight, torch.arange(12.0).reshape(2, 3, 2) - 2 * expected)


@pytest.mark.parametrize("which", ["weight", "momentum"])
def test_updates_views_in_place(which: str) -> None:
    """Tensors in no layout that the kernels know are updated all the same, and nothing beside them."""
    larger = torch.zeros(4, 6, 10)
    view = larger[1:3, 1:4, 1:9:2]
    tensors = {"weight": torch.zeros(2, 3, 4), "momentum": torch.zeros(2, 3, 4), which: view}
    sgd_update(
        tensors["weight"], tensors["momentum"], torch.ones(2, 3, 4), None,
        lr=1.0, momentum=0.5, dampening=0.0, weight_decay=0.0, nesterov=False,
    )  # fmt: skip
    assert (tensors["weight"] == -1).all()
    assert (tensors["momentum"] == 1).all()
    assert larger.count_nonzero() == view.numel()
