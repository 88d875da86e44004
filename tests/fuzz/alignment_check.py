"""Alignments against the reference in float64.

Two paths may cost nearly the same, and rounding decides between them; so the path found is held to what a path is, its
cost to the least cost in float64, and the gradients to those of the distances along it. A path of n steps adds up n
distances of D coordinates, each rounded, and

    |cost - least| <= gamma_(n + D + 2) * sum of the distances along a path
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot_ext import functional as KF
from kshot_ext import reference

from .case import DTYPES, Case
from .linear_check import assert_within
from .running import Results, cotangents, machine, run


def arguments_of(case: Case) -> tuple[dict[str, Tensor], dict[str, Any]]:
    s, dtype = case.sizes, DTYPES[case.dtype]
    shapes = {
        name: (s["count"], s[size], s["channels"]) for name, size in (("predictions", "rows"), ("targets", "columns"))
    }
    tensors = {name: case.tensor(name, shape, dtype, i) for i, (name, shape) in enumerate(shapes.items())}
    options: dict[str, Any] = {"band": s["band"], "norm": s["norm"]}
    if s["lengths"]:
        generator = torch.Generator().manual_seed(case.seed)
        for name, size in (("prediction_lengths", "rows"), ("target_lengths", "columns")):
            options[name] = torch.randint(1, s[size] + 1, (s["count"],), generator=generator)
    return tensors, options


def along(path: Tensor, norm: int, **tensors: Tensor) -> Tensor:
    """The sum of distances along each path."""
    i, j = (index[..., None].expand(-1, -1, tensors["predictions"].shape[2]) for index in path.clamp(min=0).unbind(-1))
    steps = torch.linalg.vector_norm(tensors["predictions"].gather(1, i) - tensors["targets"].gather(1, j), norm, -1)
    return torch.where(path[..., 0] >= 0, steps, 0).sum(-1)


def assert_is_path(path: Tensor, rows: int, columns: int, band: int | None, what: str) -> None:
    """From corner to corner, by steps of at most one, in the band."""
    length = int((path[:, 0] >= 0).sum())
    walked, rest = path[:length], path[length:]
    assert (rest == -1).all(), what
    assert walked[0].tolist() == [0, 0], what
    assert walked[-1].tolist() == [rows - 1, columns - 1], what
    steps = walked[1:] - walked[:-1]
    assert ((steps >= 0) & (steps <= 1)).all(), what
    assert (steps.sum(1) > 0).all(), what
    if band is not None:
        across = (walked[:, 0] * (columns - 1) - walked[:, 1] * (rows - 1)).abs()
        assert (2 * across <= (2 * band + 1) * (max(rows, columns) - 1)).all(), what


def check(case: Case) -> bool:
    """Fail unless the alignment is one, and costs what the best one costs."""
    tensors, options = arguments_of(case)
    found: list[Tensor] = []

    def cost_of(**arguments: Any) -> Tensor:
        cost, path = KF.dtw_align(**arguments)
        found.append(path)
        return cost

    with machine(case):
        actual = run(cost_of, tensors, options, case.constant, lambda outputs: cotangents(case, outputs))
    path, what = found[0], repr(case)
    counts = (options.get(f"{name}_lengths") for name in ("prediction", "target"))
    sizes = [
        [most] * len(path) if count is None else count.tolist()
        for count, most in zip(counts, (case.sizes["rows"], case.sizes["columns"]))
    ]
    for pair, rows, columns in zip(path, *sizes):
        assert_is_path(pair, rows, columns, options["band"], what)
    doubles = {name: tensor.double() for name, tensor in tensors.items()}
    exact, right_path = reference.dtw_align(**doubles, **options)
    if case.values.get("predictions") == case.values.get("targets") == "integers" and options["norm"] == 1:
        assert torch.equal(path, right_path), what  # sums are exact, so ties are too
    expected: Results = run(
        lambda **leaves: along(path, options["norm"], **leaves), doubles, {}, case.constant,
        lambda outputs: [c.double() for c in cotangents(case, [actual["output 0"]])],
    )  # fmt: skip
    _compare(case, actual, expected, exact, doubles)
    return True


def _compare(case: Case, actual: Results, expected: Results, exact: Tensor, doubles: dict[str, Tensor]) -> None:
    sum_dtype = torch.promote_types(DTYPES[case.dtype], torch.float32)
    eps, s = torch.finfo(sum_dtype).eps, case.sizes
    roundings = s["rows"] + s["columns"] + s["channels"] + 2
    finite = exact.isfinite() & (exact < torch.finfo(sum_dtype).max / 4)
    cost = actual["output 0"].double()
    bound = roundings * eps * exact + roundings * torch.finfo(sum_dtype).tiny
    for right in (expected["output 0"], exact):
        assert ((cost - right).abs() <= bound)[finite].all(), f"cost of {case!r}"
    assert not cost[~exact.isfinite()].isfinite().any(), f"cost of {case!r}"
    of_cost = cotangents(case, [actual["output 0"]])[0].double().abs()
    for name, others in (("predictions", "columns"), ("targets", "rows")):
        result = actual.get(f"gradient of {name}")
        if result is None:
            continue
        size = (of_cost[:, None, None] * s[others]).expand(doubles[name].shape)
        coarse = torch.finfo(result.dtype).eps if result.dtype != sum_dtype else 0.0
        # The direction of a distance that underflows is lost.
        undecided = (~finite[:, None, None] | ~of_cost.isfinite()[:, None, None]).expand(result.shape)
        if s["norm"] == 2:
            undecided = undecided | torch.tensor("denormal" in case.values.values())
        bound = (roundings * eps + coarse) * size + torch.finfo(result.dtype).tiny
        assert_within(result, expected[f"gradient of {name}"], bound, undecided, f"gradient of {name} of {case!r}")
