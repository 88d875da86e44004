"""Alignment of sequences by dynamic time warping."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Alignment(NamedTuple):
    """What `dtw_align` returns.

    Attributes:
        cost: `[N]`, the sum of distances along the path of each pair; float64 for float64, else float32.
        path: `[N, P + T - 1, 2]` of int64, the pairs (i, j) of points in order; -1 behind the path's end.

    Example:
        >>> alignment = dtw_align(torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0]]]))
        >>> alignment.cost, alignment.path.tolist()
        (tensor([2.]), [[[0, 0], [1, 0]]])
    """

    cost: Tensor
    path: Tensor


def dtw_align(
    predictions: Tensor,
    targets: Tensor,
    prediction_lengths: Tensor | None = None,
    target_lengths: Tensor | None = None,
    *,
    band: int | None = None,
    norm: int = 1,
) -> Alignment:
    """Align sequences by dynamic time warping.

        total[i, j] = |p_i - t_j| + min(total[i-1, j-1], total[i-1, j], total[i, j-1]),    cost = total[P-1, T-1]

    over the cells `|i (T-1) - j (P-1)| <= (band + 1/2) max(P-1, T-1)`, with P and T the lengths of the pair. Of equal
    sources the first in the order above is taken. The path is a constant: gradients flow through its distances only.

    Args:
        predictions: `[N, P, D]`.
        targets: `[N, T, D]`.
        prediction_lengths, target_lengths: `[N]` of integers; default: all points. A pair with a length that is not
            1 to P or T has a cost of NaN and no path.
        band: width of the band; default: none.
        norm: 1 for the sum of absolute differences, 2 for the Euclidean distance.

    Returns:
        Cost and path of each pair.

    Example:
        >>> cost, path = dtw_align(torch.tensor([[[0.0], [1.0], [5.0]]]), torch.tensor([[[1.0], [4.0]]]))
        >>> cost, path.tolist()
        (tensor([2.]), [[[0, 0], [1, 0], [2, 1], [-1, -1]]])
    """
    dtype = torch.promote_types(torch.promote_types(predictions.dtype, targets.dtype), torch.float32)
    p, t = predictions.to(dtype), targets.to(dtype)
    (count, rows, _), columns = p.shape, t.shape[1]
    row_counts, column_counts = (
        torch.full((count,), most, device=p.device) if lengths is None else lengths.long()
        for lengths, most in ((prediction_lengths, rows), (target_lengths, columns))
    )
    legal = (row_counts >= 1) & (row_counts <= rows) & (column_counts >= 1) & (column_counts <= columns)
    sizes = row_counts.clamp(1, rows), column_counts.clamp(1, columns)
    with torch.no_grad():
        distances = torch.linalg.vector_norm(p.detach()[:, :, None] - t.detach()[:, None], norm, -1)
        path = _path(_sources(distances, _band(rows, columns, *sizes, band)), *sizes)
        path = torch.where(legal[:, None, None], path, -1)
    i, j = (index[..., None].expand(-1, -1, p.shape[2]) for index in path.clamp(min=0).unbind(-1))
    along = torch.linalg.vector_norm(p.gather(1, i) - t.gather(1, j), norm, -1)
    cost = torch.where(path[..., 0] >= 0, along, 0).sum(-1)
    return Alignment(torch.where(legal, cost, torch.nan), path)


def _band(rows: int, columns: int, row_counts: Tensor, column_counts: Tensor, band: int | None) -> Tensor:
    """Which cells `[N, rows, columns]` a path may enter."""
    m, n = row_counts[:, None, None], column_counts[:, None, None]
    i, j = (torch.arange(size, device=m.device) for size in (rows, columns))
    inside = (i[:, None] < m) & (j < n)
    if band is None:
        return inside
    longer = torch.maximum(m, n)
    across = i[:, None] * (n - 1) - j * (m - 1)
    return inside & (2 * across.abs() <= (2 * longer.clamp(max=band) + 1) * (longer - 1))


def _sources(distances: Tensor, inside: Tensor) -> Tensor:
    """Where the least path to each cell comes from, by anti-diagonals `[N, i + j, i]`.

    0: (i-1, j-1), 1: (i-1, j), 2: (i, j-1). A distance of NaN counts as infinite.
    """
    count, rows, columns = distances.shape
    distances = torch.where(distances.isnan(), torch.inf, distances)
    i = torch.arange(rows, device=distances.device)
    nothing = torch.full_like(distances[:, :, 0], torch.inf), torch.zeros_like(inside[:, :, 0])
    # As if a path of cost zero came from (-1, -1).
    start = torch.where(i == 0, 0.0, nothing[0]), (i == 0) | nothing[1]
    last, before_last, sources = nothing, nothing, []
    for k in range(rows + columns - 1):
        diagonal = start if k == 0 else _moved_on(*before_last)
        least, found = diagonal
        source = torch.zeros_like(i).expand(count, rows)
        for number, (other, exists) in enumerate((_moved_on(*last), last), start=1):
            better = exists & (~found | (other < least))
            least, source, found = (
                torch.where(better, other, least),
                torch.where(better, number, source),
                found | exists,
            )
        j = (k - i).clamp(0, columns - 1)
        here = inside[:, i, j] & (j == k - i)
        total = torch.where(here, least + distances[:, i, j], torch.inf)
        last, before_last = (total, here), last
        sources.append(source)
    return torch.stack(sources, 1)


def _moved_on(values: Tensor, exist: Tensor) -> tuple[Tensor, Tensor]:
    """Of cell i - 1 at the place of cell i."""
    first = values[:, :1]
    return torch.cat([torch.full_like(first, torch.inf), values[:, :-1]], 1), torch.cat(
        [torch.zeros_like(exist[:, :1]), exist[:, :-1]], 1
    )


def _path(sources: Tensor, row_counts: Tensor, column_counts: Tensor) -> Tensor:
    """Follows the sources from the last cells to the first: `[N, P + T - 1, 2]`."""
    diagonals, rows = sources.shape[1:]
    i, j = row_counts - 1, column_counts - 1
    on_path, steps = torch.ones_like(i, dtype=torch.bool), []
    for _ in range(diagonals):
        steps.append(torch.where(on_path[:, None], torch.stack([i, j], -1), -1))
        source = sources.flatten(1).gather(1, ((i + j) * rows + i)[:, None])[:, 0]
        on_path = on_path & (i + j > 0)
        i, j = torch.where(on_path, i - (source != 2).long(), i), torch.where(on_path, j - (source != 1).long(), j)
    backwards = torch.stack(steps, 1)
    length = (backwards[..., 0] >= 0).sum(1, keepdim=True)
    order = length - 1 - torch.arange(diagonals, device=length.device)
    path = backwards.gather(1, order.clamp(min=0)[..., None].expand(-1, -1, 2))
    return torch.where(order[..., None] >= 0, path, -1)
