"""Alignment of sequences by dynamic time warping: costs that train a network, and the paths behind them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot_ext import backend, reference
from kshot_ext.ops import checks
from kshot_ext.ops.differentiable import below_autograd, differentiable, not_differentiable
from kshot_ext.ops.fakes import register_fake
from kshot_ext.reference.dtw_align import Alignment

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_MOST = 2**63 - 1  # of what an operator takes


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

    A path begins with the first points of both sequences, ends with the last ones, and uses every point. Of equal
    sources the first in the order above is taken. The path is a constant: gradients flow through its distances only.

    Args:
        predictions: `[N, P, D]`; float32, float64, bfloat16 or float16. Sums are float64 for float64, else float32.
        targets: `[N, T, D]`, of the same dtype.
        prediction_lengths: `[N]` of integers 1 to P, how many points of each count; default: all.
        target_lengths: `[N]`, likewise 1 to T.
        band: how far the path may be from the straight line between the corners: it enters the cells
            `|i (T-1) - j (P-1)| <= (band + 1/2) max(P-1, T-1)`, with P and T the lengths of the pair; for equal lengths
            these are `|i - j| <= band`. There is a path in every band. Default: none, all cells.
        norm: 1 for the sum of absolute differences of coordinates, 2 for the Euclidean distance.

    Returns:
        `Alignment(cost, path)`: cost `[N]` in the dtype of sums; path `[N, P + T - 1, 2]` of int64, the pairs (i, j) in
        order, and -1 behind the path's end.

    Gradients:
        To `predictions` and `targets`, from `cost`; deterministic. That of a distance of zero is zero. A second
        derivative needs the reference backend.

    Coordinates that are infinite or NaN make the cost what the distances along the path add up to, infinite or NaN;
    to find the path, both count as an infinite distance. On a GPU, where lengths are not read before the call, a pair
    with a length out of range has a cost of NaN and no path.

    Memory:
        Two bits for each cell of the band, `P T / 2` bytes without one for P = T: on the CPU once for each thread, on a
        GPU for each pair.

    Raises:
        TypeError, ValueError: on a wrong dtype, rank, size, length or device, naming the argument.
        RuntimeError: if there is no memory for the band.

    Example:
        >>> predictions = torch.tensor([[[0.0], [1.0], [5.0]]], requires_grad=True)
        >>> cost, path = dtw_align(predictions, torch.tensor([[[1.0], [4.0]]]))
        >>> cost, path.tolist()
        (tensor([2.], grad_fn=<kshot_ext_dtw_alignBackward>), [[[0, 0], [1, 0], [2, 1], [-1, -1]]])
        >>> cost.sum().backward()
        >>> predictions.grad.flatten()
        tensor([-1.,  0.,  1.])

    Papers: Sakoe and Chiba, "Dynamic programming algorithm optimization for spoken word recognition", 1978; as a loss
    of strokes, TRACE, arXiv 2105.11559.
    """
    checks.check_tensor("predictions", predictions, "[N, P, D]", (3,))
    checks.check_tensor("targets", targets, "[N, T, D]", (3,))
    checks.check_companion("targets", targets, "predictions", predictions)
    checks.check_same_dtype("targets", targets, "predictions", predictions)
    if 0 in predictions.shape[1:]:
        raise ValueError(f"predictions must have points and coordinates, got {list(predictions.shape)}")
    if targets.shape[1] == 0:
        raise ValueError(f"targets must have points, got {list(targets.shape)}")
    if targets.shape[0] != predictions.shape[0] or targets.shape[2] != predictions.shape[2]:
        expected = f"[{predictions.shape[0]}, T, {predictions.shape[2]}]"
        raise ValueError(
            f"targets must have shape {expected} for predictions {list(predictions.shape)}, got {list(targets.shape)}"
        )
    _check_lengths("prediction_lengths", prediction_lengths, predictions)
    _check_lengths("target_lengths", target_lengths, targets)
    if band is not None:
        _check_integer("band", band, "at least 0, or None for no band")
        if not 0 <= band <= _MOST:
            raise ValueError(f"band must be at least 0 (at most {_MOST}), or None for no band, got {band}")
    _check_integer("norm", norm, "1 or 2")
    if norm not in (1, 2):
        raise ValueError(f"norm must be 1 or 2, got {norm}")
    if backend.kernels_for(predictions.device) is None:
        return reference.dtw_align(predictions, targets, prediction_lengths, target_lengths, band=band, norm=norm)
    if predictions.dtype != targets.dtype:  # under autocast
        dtype = torch.promote_types(predictions.dtype, targets.dtype)
        predictions, targets = predictions.to(dtype), targets.to(dtype)
    lengths = (None if given is None else given.long() for given in (prediction_lengths, target_lengths))
    return Alignment(*_operator.call(predictions, targets, *lengths, -1 if band is None else band, norm))


def _check_integer(name: str, value: object, legal: str) -> None:
    """`value` is an int, one of numpy's, or one that a compiler does not know yet, which no class tells."""
    if isinstance(value, (bool, float, str)) or value is None:
        raise TypeError(f"{name} must be an integer, {legal}, got {value!r}")


def _check_lengths(name: str, lengths: Tensor | None, sequences: Tensor) -> None:
    """`lengths` is None, or has an integer for each sequence; its values are read where this waits for nothing."""
    if lengths is None:
        return
    if not isinstance(lengths, Tensor):
        raise TypeError(f"{name} must be a tensor [N], got {type(lengths).__name__}")
    if lengths.dtype not in _INTEGERS:
        raise TypeError(f"{name} must have integers, got {lengths.dtype}")
    count, most = sequences.shape[:2]
    if lengths.shape != (count,):
        raise ValueError(f"{name} must have shape [{count}], got {list(lengths.shape)}")
    if lengths.device != sequences.device:
        raise ValueError(f"{name} must be on {sequences.device} like the sequences, got {lengths.device}")
    hidden = torch.compiler.is_compiling() or backend.under_transform() or torch.jit.is_tracing()
    if lengths.device.type != "cpu" or count == 0 or hidden or type(lengths) is not Tensor:
        return
    least, greatest = (int(bound) for bound in lengths.aminmax())
    if least < 1 or greatest > most:
        raise ValueError(f"{name} must be 1 to {most}, got {least if least < 1 else greatest}")


def _fake(
    predictions: Tensor,
    targets: Tensor,
    prediction_lengths: Tensor | None,
    target_lengths: Tensor | None,
    band: int,
    norm: int,
) -> tuple[Tensor, Tensor]:
    count, rows, _ = predictions.shape
    sum_dtype = torch.promote_types(predictions.dtype, torch.float32)
    cost = predictions.new_empty(count, dtype=sum_dtype)
    return cost, predictions.new_empty(count, rows + targets.shape[1] - 1, 2, dtype=torch.int64)


def _fake_backward(
    grad: Tensor,
    predictions: Tensor,
    targets: Tensor,
    path: Tensor,
    norm: int,
    need_predictions: bool,
    need_targets: bool,
) -> tuple[Tensor, Tensor]:
    wanted = (predictions, need_predictions), (targets, need_targets)
    first, second = (sequence.new_empty(sequence.shape if needed else 0) for sequence, needed in wanted)
    return first, second


def _forward(
    ctx: Any,
    predictions: Tensor,
    targets: Tensor,
    prediction_lengths: Tensor | None,
    target_lengths: Tensor | None,
    band: int,
    norm: int,
    output: Any = None,
) -> Any:
    if output is None:
        with below_autograd():
            output = torch.ops.kshot_ext.dtw_align(predictions, targets, prediction_lengths, target_lengths, band, norm)
    ctx.save_for_backward(predictions, targets, output[1])
    ctx.norm = norm
    ctx.set_materialize_grads(False)
    return output


def _backward(ctx: Any, grad: Tensor | None, grad_path: None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 6
    needs = ctx.needs_input_grad[:2]
    gradients = _backward_operator(grad, *ctx.saved_tensors, ctx.norm, *needs)
    return *(gradient if needed else None for gradient, needed in zip(gradients, needs)), *(None,) * 4


_operator = differentiable("dtw_align", _forward, _backward)
_backward_operator = not_differentiable("dtw_align_backward")


@backend.on_load
def _register() -> None:
    register_fake("dtw_align", _fake)
    register_fake("dtw_align_backward", _fake_backward)
