"""Alignment by dynamic time warping against all paths, a plain loop, and the reference."""

from __future__ import annotations

import math
import resource
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
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
from torch import Tensor

from kshot_ext import backend, reference
from kshot_ext import functional as KF


@dataclass(frozen=True)
class AlignCase:
    """One call; lengths are those of the pairs, `options` band and norm."""

    name: str
    rows: int
    columns: int
    channels: int = 2
    count: int = 3
    lengths: tuple[list[int], list[int]] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def call(self) -> Call:
        generator = torch.Generator("cpu").manual_seed(0)
        tensors = {
            "predictions": draw(generator, self.count, self.rows, self.channels),
            "targets": draw(generator, self.count, self.columns, self.channels),
        }
        if self.lengths is None:
            return Call(tensors, self.options)
        names = ("prediction_lengths", "target_lengths")
        return Call(tensors, {**self.options, **dict(zip(names, map(torch.tensor, self.lengths)))})


CASES = (
    AlignCase("square", 9, 9),
    AlignCase("square_banded", 40, 40, options={"band": 3}),
    AlignCase("tall", 37, 12, options={"band": 2}),
    AlignCase("wide", 12, 37, options={"band": 2}),
    AlignCase("diagonal_alone", 21, 21, options={"band": 0}),
    AlignCase("slanted_diagonal_alone", 35, 23, options={"band": 0}),
    AlignCase("lengths", 35, 41, lengths=([35, 17, 1], [9, 41, 1]), options={"band": 5}),
    AlignCase("lengths_without_band", 20, 18, lengths=([20, 3, 7], [1, 18, 7])),
    AlignCase("euclidean", 33, 34, options={"norm": 2, "band": 9}),
    AlignCase("one_coordinate", 18, 50, channels=1, options={"norm": 2}),
    AlignCase("three_coordinates", 19, 20, channels=3),
    AlignCase("five_coordinates", 50, 33, channels=5, options={"band": 4, "norm": 2}),
    AlignCase("single_points", 1, 1),
    AlignCase("one_prediction", 1, 30, options={"band": 1}),
    AlignCase("one_target", 30, 1, options={"band": 1}),
    AlignCase("wider_than_all", 20, 10, options={"band": 10**12}),
    AlignCase("empty_batch", 5, 4, count=0),
)


def cost_of(predictions: Tensor, targets: Tensor, *lengths: Tensor, **options: Any) -> Tensor:
    return KF.dtw_align(predictions, targets, *lengths, **options).cost


def reference_cost(predictions: Tensor, targets: Tensor, *lengths: Tensor, **options: Any) -> Tensor:
    return reference.dtw_align(predictions, targets, *lengths, **options).cost


def magnitude(case: AlignCase) -> float:
    return 4.0 * case.channels * (case.rows + case.columns)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case: AlignCase, dtype: torch.dtype) -> None:
    call = case.call().to(dtype)
    assert_matches_reference(cost_of, reference_cost, call, magnitude(case))
    actual, expected = (f(**call.tensors, **call.options) for f in (KF.dtw_align, reference.dtw_align))
    assert torch.equal(actual.path, expected.path)
    assert actual.cost.dtype == expected.cost.dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ties_are_broken_like_the_reference_by_every_instruction_set(instruction_set: str, case: AlignCase) -> None:
    """Sums of small integers are exact, and many are equal."""
    assert torch.ops.kshot_ext.cpu_isa() == instruction_set
    for dtype in (torch.float32, torch.float64):
        call = case.call().to(dtype).with_values(lambda values: values.round().clamp(-2, 2))
        actual, expected = (f(**call.tensors, **call.options) for f in (KF.dtw_align, reference.dtw_align))
        assert torch.equal(actual.path, expected.path)
        if case.options.get("norm") != 2:
            assert_exact_on_integers(cost_of, reference_cost, call)


def plain_alignment(p: Tensor, t: Tensor, band: int | None, norm: int) -> tuple[float, list[list[int]]]:
    """Of one pair, by loops over the equation."""
    rows, columns = len(p), len(t)
    total: dict[tuple[int, int], float] = {}
    source: dict[tuple[int, int], tuple[int, int]] = {}
    for i in range(rows):
        for j in range(columns):
            reach = math.inf if band is None else (band + 0.5) * max(rows - 1, columns - 1)
            if abs(i * (columns - 1) - j * (rows - 1)) > reach:
                continue
            before = [at for at in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if at in total]
            best = min(before, key=lambda at: total[at], default=None)  # the first of equal ones
            total[i, j] = float(torch.linalg.vector_norm(p[i] - t[j], norm)) + (total[best] if best else 0.0)
            if best:
                source[i, j] = best
    at, path = (rows - 1, columns - 1), []
    while at in source:
        path.append(list(at))
        at = source[at]
    return total[rows - 1, columns - 1], [[0, 0], *path[::-1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("norm", [1, 2])
def test_the_plain_loop_for_all_small_shapes_and_bands(norm: int, dtype: torch.dtype) -> None:
    """Of small integers, whose distances tie; the reference is held to the same."""
    generator = torch.Generator().manual_seed(norm)
    for rows in range(1, 7):
        for columns in range(1, 7):
            shapes = ((1, n, 3 - norm) for n in (rows, columns))  # Euclidean distances on a line: exact, too
            p, t = (torch.randint(-1, 2, shape, generator=generator).to(dtype) for shape in shapes)
            for band in (0, 1, 2, None):
                cost, path = plain_alignment(p[0], t[0], band, norm)
                for function in (KF.dtw_align, reference.dtw_align):
                    found = function(p, t, band=band, norm=norm)
                    assert found.path[0, : len(path)].tolist() == path, (rows, columns, band)
                    assert (found.path[0, len(path) :] == -1).all()
                    torch.testing.assert_close(found.cost, torch.tensor([cost], dtype=dtype))


def all_paths(rows: int, columns: int) -> Iterator[list[tuple[int, int]]]:
    if rows == columns == 1:
        yield [(0, 0)]
    for r, c in ((rows - 1, columns - 1), (rows - 1, columns), (rows, columns - 1)):
        if r > 0 and c > 0:
            for path in all_paths(r, c):
                yield [*path, (rows - 1, columns - 1)]


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (5, 3), (2, 6)])
def test_no_path_costs_less(rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    p, t = (torch.randn(1, n, 2, generator=generator, dtype=torch.float64) for n in (rows, columns))
    costs = [sum((p[0, i] - t[0, j]).abs().sum() for i, j in path) for path in all_paths(rows, columns)]
    torch.testing.assert_close(KF.dtw_align(p, t).cost[0], min(costs))


@pytest.mark.parametrize("case", [case for case in CASES if case.count and case.rows * case.columns < 1500], ids=str)
def test_gradcheck(case: AlignCase) -> None:
    assert_gradients_check(cost_of, case.call())


def test_values_counted_by_hand() -> None:
    p = torch.tensor([[[0.0, 1.0], [2.0, 1.0], [2.0, 5.0]]], requires_grad=True)
    t = torch.tensor([[[0.0, 0.0], [2.0, 2.0], [3.0, 4.0], [9.0, 9.0]]], requires_grad=True)
    cost, path = KF.dtw_align(p, t, target_lengths=torch.tensor([3], dtype=torch.int32))
    assert path.tolist() == [[[0, 0], [1, 1], [2, 2], *[[-1, -1]] * 3]]
    assert cost.tolist() == [4.0]
    (3 * cost).sum().backward()
    assert p.grad.tolist() == [[[0.0, 3.0], [0.0, -3.0], [-3.0, 3.0]]]
    assert t.grad.tolist() == [[[0.0, -3.0], [0.0, 3.0], [3.0, -3.0], [0.0, 0.0]]]


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("options", [{}, {"band": 1}, {"band": 0}])
def test_numbers_that_are_not_finite(options: dict[str, Any], bad: float, norm: int) -> None:
    """Cost, path and gradients of the pair are the reference's, and the other pairs' those of good numbers."""
    for place in (0, 7, 19):
        p, t = torch.randn(3, 20, 2), torch.randn(3, 17, 2)
        good = KF.dtw_align(p, t, norm=norm, **options)
        p[1, place, 1] = bad
        t[2, 3, 0] = bad
        p[2, 4, 0] = -bad  # beside infinity of the other sign, or of the same where both are
        leaves = [x.requires_grad_() for x in (p, t)]
        found, expected = (f(p, t, norm=norm, **options) for f in (KF.dtw_align, reference.dtw_align))
        assert torch.equal(found.path, expected.path)
        torch.testing.assert_close(found.cost, expected.cost, equal_nan=True)
        assert torch.equal(found.cost[0], good.cost[0])
        assert not found.cost[1:].isfinite().any()
        for one, other in zip(*(torch.autograd.grad(f.cost[:2].sum(), leaves) for f in (found, expected))):
            finite = other.isfinite()
            torch.testing.assert_close(one[finite], other[finite])


def test_sums_beyond_the_largest_float() -> None:
    p, t = torch.full((1, 6, 1), 3e38), torch.full((1, 4, 1), -3e38)
    cost, path = KF.dtw_align(p, t, band=1)
    assert cost.tolist() == [math.inf]
    assert torch.equal(path, reference.dtw_align(p, t, band=1).path)


def test_the_same_bits_from_any_number_of_threads() -> None:
    generator = torch.Generator().manual_seed(0)
    p, t = (torch.randn(9, n, 2, generator=generator, requires_grad=True) for n in (150, 130))
    lengths = torch.randint(50, 131, (9,), generator=generator)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        cost, path = KF.dtw_align(p, t, lengths, lengths.flip(0), band=20)
        results.append((cost, path, *torch.autograd.grad(cost.square().sum(), (p, t))))
    assert all(torch.equal(one, other) for one, other in zip(*results))


def test_compile_fullgraph() -> None:
    assert_compiles(cost_of, [case.call().to(torch.float32) for case in (CASES[1], CASES[6])])


def test_under_autocast_dtypes_may_differ() -> None:
    p, t = torch.randn(2, 5, 2, dtype=torch.bfloat16, requires_grad=True), torch.randn(2, 4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = KF.dtw_align(p, t)
    assert torch.equal(found.cost, KF.dtw_align(p.float(), t).cost)
    found.cost.sum().backward()
    assert p.grad.dtype == torch.bfloat16


def test_only_wanted_gradients_are_made() -> None:
    p, t = torch.randn(2, 5, 2), torch.randn(2, 4, 2)
    both = [x.clone().requires_grad_() for x in (p, t)]
    expected = torch.autograd.grad(KF.dtw_align(*both).cost.sum(), both)
    for alone, (one, other) in zip(expected, ((both[0], t), (p, both[1]))):
        wanted = one if one.requires_grad else other
        assert torch.equal(torch.autograd.grad(KF.dtw_align(one, other).cost.sum(), wanted)[0], alone)


def test_second_derivative_is_refused_and_the_reference_has_it(native_backend: None) -> None:
    p, t = torch.randn(2, 5, 2).double().requires_grad_(), torch.randn(2, 4, 2).double()

    def first() -> Tensor:
        return torch.autograd.grad(KF.dtw_align(p, t, norm=2).cost.square().sum(), p, create_graph=True)[0]

    gradient = first()
    with pytest.raises(RuntimeError, match="no derivative"):
        gradient.sum().backward()
    with backend.use_reference():
        torch.testing.assert_close(first().detach(), gradient.detach())
        assert torch.autograd.grad(first().square().sum(), p)[0].abs().max() > 0


P, T, LENGTHS = torch.zeros(2, 3, 2), torch.zeros(2, 4, 2), torch.tensor([1, 3])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"predictions": torch.zeros(3, 2)}, ValueError, r"predictions must have shape \[N, P, D\]"),
        ({"targets": torch.zeros(2, 4, 2, dtype=torch.int64)}, TypeError, "targets must be one of"),
        ({"targets": torch.zeros(2, 4, 2).double()}, TypeError, "targets must be torch.float32 like predictions"),
        ({"targets": torch.zeros(2, 4, 3)}, ValueError, r"targets must have shape \[2, T, 2\]"),
        ({"targets": torch.zeros(3, 4, 2)}, ValueError, r"targets must have shape \[2, T, 2\]"),
        ({"targets": torch.zeros(2, 4, 2, device="meta")}, ValueError, "targets must be on cpu like predictions"),
        ({"predictions": torch.zeros(2, 0, 2)}, ValueError, "predictions must have points and coordinates"),
        ({"predictions": torch.zeros(2, 3, 0)}, ValueError, "predictions must have points and coordinates"),
        ({"targets": torch.zeros(2, 0, 2)}, ValueError, "targets must have points"),
        ({"prediction_lengths": LENGTHS.float()}, TypeError, "prediction_lengths must have integers"),
        ({"prediction_lengths": [1, 3]}, TypeError, r"prediction_lengths must be a tensor \[N\], got list"),
        ({"prediction_lengths": LENGTHS[:1]}, ValueError, r"prediction_lengths must have shape \[2\], got \[1\]"),
        ({"prediction_lengths": LENGTHS - 1}, ValueError, "prediction_lengths must be 1 to 3, got 0"),
        ({"prediction_lengths": LENGTHS + 1}, ValueError, "prediction_lengths must be 1 to 3, got 4"),
        ({"target_lengths": LENGTHS + 2}, ValueError, "target_lengths must be 1 to 4, got 5"),
        ({"target_lengths": LENGTHS.to("meta")}, ValueError, "target_lengths must be on cpu like the sequences"),
        ({"band": -1}, ValueError, r"band must be at least 0 .*, or None .* got -1"),
        ({"band": 2**63}, ValueError, r"\(at most 9223372036854775807\), .* got 9223372036854775808"),
        ({"band": math.inf}, TypeError, "band must be an integer, at least 0, or None for no band, got inf"),
        ({"band": 1.5}, TypeError, "band must be an integer, .* got 1.5"),
        ({"band": "1"}, TypeError, "band must be an integer, .* got '1'"),
        ({"band": True}, TypeError, "band must be an integer, .* got True"),
        ({"norm": 3}, ValueError, "norm must be 1 or 2, got 3"),
        ({"norm": 2.0}, TypeError, "norm must be an integer, 1 or 2, got 2.0"),
        ({"norm": None}, TypeError, "norm must be an integer, 1 or 2, got None"),
    ],
)
def test_rejects(changes: dict[str, Any], error: type, message: str) -> None:
    assert_rejects(KF.dtw_align, {"predictions": P, "targets": T, **changes}, error, message)


PATH = torch.tensor([[[0, 0], [1, 1], [2, 2], [2, 3], [-1, -1], [-1, -1]]] * 2)
GRADIENT = (torch.ones(2), P, T, PATH, 1, True, True)


def spoilt(at: int, value: Any) -> tuple[Any, ...]:
    return (*GRADIENT[:at], value, *GRADIENT[at + 1 :])


@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        ("dtw_align", (P[0], T, None, None, -1, 1), "must be alike but for P and T"),
        ("dtw_align", (P, T[:1], None, None, -1, 1), "must be alike but for P and T"),
        ("dtw_align", (P, T.double(), None, None, -1, 1), "must be alike but for P and T"),
        ("dtw_align", (P[:, :0], T, None, None, -1, 1), "must have 1 to .* points of at least one coordinate"),
        ("dtw_align", (P[..., :0], T[..., :0], None, None, -1, 1), "of at least one coordinate"),
        ("dtw_align", (P.int(), T.int(), None, None, -1, 1), "expected float32"),
        ("dtw_align", (P, T, None, None, -2, 1), "band must be at least 0"),
        ("dtw_align", (P, T, None, None, -1, 0), "norm must be 1 or 2"),
        ("dtw_align", (P, T, LENGTHS.int(), None, -1, 1), "prediction_lengths must be .N. of int64"),
        ("dtw_align", (P, T, LENGTHS + 1, None, -1, 1), "prediction_lengths must be 1 to 3, got 4 for pair 1"),
        ("dtw_align", (P, T, None, LENGTHS - 1, -1, 1), "target_lengths must be 1 to 4, got 0 for pair 0"),
        ("dtw_align_backward", spoilt(0, torch.ones(3)), "the cost's gradient must be"),
        ("dtw_align_backward", spoilt(0, torch.ones(2).double()), "the cost's gradient must be"),
        ("dtw_align_backward", spoilt(3, PATH[:, 1:]), "path must be .N, P . T - 1, 2. of int64"),
        ("dtw_align_backward", spoilt(3, PATH.int()), "path must be .N, P . T - 1, 2. of int64"),
        ("dtw_align_backward", spoilt(3, PATH + 1), "path must have pairs below 3 and 4"),
        ("dtw_align_backward", spoilt(3, PATH - 2**40), "path must have pairs below 3 and 4"),
        ("dtw_align_backward", spoilt(4, 3), "norm must be 1 or 2"),
    ],
)
def test_raw_operators_check_what_they_are_given(
    native_backend: None, operator: str, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.kshot_ext, operator)(*arguments)


def test_a_lack_of_memory_says_what_would_help(native_backend: None) -> None:
    """Without a band these points take eight gigabytes, of which one is left."""
    long = torch.zeros(1, 2**17, 1)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**30, limits[1]))
    try:
        with pytest.raises(RuntimeError, match=r"no memory to align 131072 with 131072 points: .* a narrower band"):
            KF.dtw_align(long, long)
        assert KF.dtw_align(long, long, band=0).cost.item() == 0
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_the_reference_takes_lengths_out_of_range_for_no_path() -> None:
    """As a GPU does."""
    cost, path = reference.dtw_align(P, T, torch.tensor([0, 3]), torch.tensor([4, 5]))
    assert cost.isnan().all()
    assert (path == -1).all()
