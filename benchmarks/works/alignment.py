"""Alignments by dynamic time warping against loops in Python and compiled by numba, torch's operators, and libraries.

Pairs of equally long sequences, for which all forms mean the same by a band. Everyone gives costs and paths; only ours
and torch's have gradients, in a row of their own. Libraries align one pair a call, as their users do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.forms import Contest, Form, differentiated
from benchmarks.layers import LayerSet
from benchmarks.place import CPU, Place
from benchmarks.works.row import FLOAT32_BYTES, Row
from kshot_ext import functional as KF
from kshot_ext import reference

PAIRS, SHORTEST, LONGEST, CHANNELS = 32, 100, 300, 2
BANDS = (20, None)
NORM = 2  # what all libraries have

Align = Callable[[np.ndarray, np.ndarray, int | None], tuple[float, Any]]  # cost and path of one pair


def sequences(place: Place) -> tuple[Tensor, Tensor, Tensor]:
    """Two batches, and their lengths."""
    generator = torch.Generator().manual_seed(0)
    first, second = (place.normal(generator, PAIRS, LONGEST, CHANNELS) for _ in range(2))
    return first, second, torch.randint(SHORTEST, LONGEST + 1, (PAIRS,), generator=generator).to(place.device)


def by_loops(p: np.ndarray, t: np.ndarray, band: int | None) -> tuple[float, Any]:
    """The equation in plain Python, on lists."""
    reach, first, second = len(p) if band is None else band, p.tolist(), t.tolist()
    total: list[dict[int, float]] = [{} for _ in first]
    nothing = float("inf")
    for i, point in enumerate(first):
        above, row = total[i - 1] if i else {}, total[i]
        for j in range(max(0, i - reach), min(len(second), i + reach + 1)):
            before = min(above.get(j - 1, nothing), above.get(j, nothing), row.get(j - 1, nothing)) if i or j else 0.0
            row[j] = before + sum((a - b) ** 2 for a, b in zip(point, second[j])) ** 0.5
    i, j = len(first) - 1, len(second) - 1
    path = [(i, j)]
    while i or j:
        at = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        i, j = min(at, key=lambda cell: total[cell[0]].get(cell[1], nothing) if min(cell) >= 0 else nothing)
        path.append((i, j))
    return total[-1][len(second) - 1], path[::-1]


def compiled_loops() -> Align:
    """The same on arrays, compiled by numba: what is written where no library serves."""
    import numba

    @numba.njit(cache=False)
    def loops(p: np.ndarray, t: np.ndarray, reach: int) -> Any:
        rows, columns = len(p), len(t)
        total = np.full((rows + 1, columns + 1), np.float32(np.inf), dtype=np.float32)
        total[0, 0] = 0
        for i in range(rows):
            for j in range(max(0, i - reach), min(columns, i + reach + 1)):
                square = np.float32(0)
                for c in range(p.shape[1]):
                    square += (p[i, c] - t[j, c]) ** 2
                total[i + 1, j + 1] = np.sqrt(square) + min(total[i, j], total[i, j + 1], total[i + 1, j])
        path = np.empty((rows + columns - 1, 2), dtype=np.int64)
        i, j, steps = rows, columns, 0
        while True:
            path[steps, 0], path[steps, 1] = i - 1, j - 1
            steps += 1
            if i == 1 and j == 1:
                return total[rows, columns], path[:steps][::-1]
            diagonal, upper, left = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
            if diagonal <= upper and diagonal <= left:
                i, j = i - 1, j - 1
            elif upper <= left:
                i -= 1
            else:
                j -= 1

    return lambda p, t, band: loops(p, t, len(p) if band is None else band)


def by_dtaidistance() -> Align:
    """Loops in C, on float64. Its paths are those of squared distances, whatever is asked for: it takes no roots."""
    from dtaidistance import dtw_ndim

    def align(p: np.ndarray, t: np.ndarray, band: int | None) -> tuple[float, Any]:
        path = dtw_ndim.warping_path(p.astype(np.float64), t.astype(np.float64), window=_window(band), use_c=True)
        return 0.0, path

    return align


def _window(band: int | None) -> int | None:
    return None if band is None else band + 1


def dtaidistance_costs(arrays: Sequence[tuple[np.ndarray, np.ndarray]], band: int | None) -> list[Tensor]:
    """Of Euclidean distances, as the others have them."""
    from dtaidistance import dtw_ndim

    options = {"window": _window(band), "inner_dist": "euclidean"}
    doubles = ((p.astype(np.float64), t.astype(np.float64)) for p, t in arrays)
    return [torch.tensor([dtw_ndim.distance_fast(p, t, **options) for p, t in doubles], dtype=torch.float32)]


def by_tslearn() -> Align:
    """Loops compiled by numba, on a matrix of distances by scipy."""
    from tslearn.metrics import dtw_path_from_metric

    def align(p: np.ndarray, t: np.ndarray, band: int | None) -> tuple[float, Any]:
        constraint = {} if band is None else {"global_constraint": "sakoe_chiba", "sakoe_chiba_radius": band}
        path, cost = dtw_path_from_metric(p, t, metric="euclidean", **constraint)
        return cost, path

    return align


def by_dtw_python() -> Align:
    """Loops in C, on a matrix of distances by scipy."""
    from dtw import dtw

    def align(p: np.ndarray, t: np.ndarray, band: int | None) -> tuple[float, Any]:
        window = {} if band is None else {"window_type": "sakoechiba", "window_args": {"window_size": band}}
        found = dtw(p.astype(np.float64), t.astype(np.float64), step_pattern="symmetric1", **window)
        return found.distance, (found.index1, found.index2)

    return align


LIBRARIES = {
    "numba": ("numba", compiled_loops),
    "dtaidistance": ("dtaidistance", by_dtaidistance),
    "tslearn": ("tslearn", by_tslearn),
    "dtw-python": ("dtw", by_dtw_python),
}


def path_contest(band: int | None, place: Place = CPU) -> Contest:
    """Costs and paths; costs are compared."""
    first, second, lengths = sequences(place)
    arrays = [
        (p[:n].cpu().float().numpy().copy(), t[:n].cpu().float().numpy().copy())
        for p, t, n in zip(first, second, lengths.tolist())
    ]

    def of_batch(function: Callable[..., Any]) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(function(first, second, lengths, lengths, band=band, norm=NORM))

    def one_by_one(align: Align) -> tuple[Tensor, ...]:
        costs, _paths = zip(*[align(p, t, band) for p, t in arrays])
        return (torch.tensor(costs),)

    def costs(values: Any) -> list[Tensor]:
        return [values[0].float().cpu()]

    ours = [Form("dtw_align", partial(of_batch, KF.dtw_align), values=costs)]
    rivals = {
        "pytorch": [Form("anti-diagonals", partial(of_batch, reference.dtw_align), values=costs)],
        "python": [Form("loops", partial(one_by_one, by_loops), values=costs)],
    }
    for label, (module, make) in LIBRARIES.items():
        if find_spec(module):
            of_label = (lambda _: dtaidistance_costs(arrays, band)) if make is by_dtaidistance else costs
            rivals[label] = [Form(label, partial(one_by_one, make()), values=of_label)]
    return Contest(ours, rivals, place.tolerance)


def training_contest(band: int | None, place: Place = CPU) -> Contest:
    """Costs, and the gradients of both sequences."""
    first, second, lengths = sequences(place)

    def cost_by(function: Callable[..., Any]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda p, t: function(p, t, lengths, lengths, band=band, norm=NORM).cost

    grad = torch.ones(PAIRS, device=place.device)
    ours = [Form("dtw_align", differentiated(cost_by(KF.dtw_align), (first, second), grad))]
    eager = [Form("anti-diagonals", differentiated(cost_by(reference.dtw_align), (first, second), grad))]
    return Contest(ours, {"pytorch": eager}, place.tolerance)


def cells(band: int | None) -> int:
    """In the bands of all pairs."""
    lengths = sequences(CPU)[2].tolist()
    reach = LONGEST if band is None else band
    return sum(min(n, i + reach + 1) - max(0, i - reach) for n in lengths for i in range(n))


def alignment_rows(layers: LayerSet) -> list[Row]:
    """With a band and without, forward alone and with gradients; the layer set has no part in it."""
    del layers
    return list(_rows())


def _rows() -> Iterator[Row]:
    points = FLOAT32_BYTES * 2 * PAIRS * LONGEST * CHANNELS
    path = 16 * PAIRS * (2 * LONGEST - 1)
    for band in BANDS:
        name = "no band" if band is None else f"band {band}"
        geometry = f"{PAIRS} pairs, {SHORTEST} to {LONGEST} points of {CHANNELS}, {name}"
        operations = (3 * CHANNELS + 4) * cells(band)
        kind = "alignment"
        yield Row(f"{name}, path", kind, geometry, 1, partial(path_contest, band), points + path, operations)
        traffic = 3 * points + 2 * path
        yield Row(f"{name}, training", kind, geometry, 1, partial(training_contest, band), traffic, operations)
