"""Batch norm with the statistics of a batch that is spread over several processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from kshot_ext.ops.batch_norm_act import active_affine, batch_norm_act, check_batch_norm_arguments
from kshot_ext.ops.collectives import summed


def synchronized_batch_norm_act(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    group: dist.ProcessGroup,
    code: Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "relu",
    residual: Tensor | None = None,
) -> Tensor:
    """`batch_norm_act` in training, on the joined batch of all processes of a group.

        mean = sum_r n_r mean_r / n        var = sum_r n_r (var_r + (mean_r - mean)^2) / n        n = sum_r n_r

    with n_r the values per channel in process r, so parts of different sizes count as they should. Every process
    gets the output of its own part, and records the statistics of the whole (variance unbiased). These are the
    semantics of `torch.nn.SyncBatchNorm`, on any device and for dictionaries.

    Args:
        group: all its processes must make the call, with the same number of channels; the other arguments are those
            of `batch_norm_act`.

    Gradients:
        Those of the sum of all processes' losses, through the joined statistics too, to `input` and `residual`. For
        `weight`, `bias` and `code`, this process's addend of it: to be summed over the processes as for any parameter.

    Raises:
        TypeError, ValueError: as `batch_norm_act`.
        RuntimeError: under a function transform or forward-mode differentiation.
        LostProcessError: if another process is gone.

    Papers: batch norm, arXiv 1502.03167; over processes, MegDet, arXiv 1711.07240.
    """
    check_batch_norm_arguments(input, weight, bias, running_mean, running_var, code, activation, residual)
    channels = input.shape[1]
    mean, var, count = _joined_statistics(input, group)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean[:channels].lerp_(mean.to(running_mean.dtype), momentum)
            running_var[:channels].lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    # The kernel takes the statistics for constants. What the output owes to them is one scale and one shift per
    # channel: their values are 1 and 0, their gradients those of the statistics.
    rstd = torch.rsqrt(var + eps)
    scale = rstd / rstd.detach()
    shift = (mean.detach() - mean) * rstd.detach()
    weight = active_affine(weight, code, input.shape[1], input.dtype)
    bias = active_affine(bias, code, input.shape[1], input.dtype)
    scale = scale if weight is None else scale * weight
    shift = shift * scale if bias is None else shift * scale + bias
    # Of a scale or a shift for each sample, each sample takes its own, as of a dictionary; what scales, shifts.
    own = torch.eye(len(input), dtype=shift.dtype, device=shift.device) if shift.dim() == 2 else None
    return batch_norm_act(
        input, scale, shift, mean.detach(), var.detach(), code=own, training=False, eps=eps, activation=activation,
        residual=residual,
    )  # fmt: skip


def _joined_statistics(input: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of each channel, `[C]`, differentiable, and the number of values of a channel, a scalar."""
    count = input.numel() // input.shape[1]
    values = input.to(torch.promote_types(input.dtype, torch.float32))
    var, mean = torch.var_mean(values, [0, *range(2, input.dim())], correction=0)
    sums = summed(torch.cat([count * mean, mean.new_tensor([count])]), group)
    total = sums[-1].detach()
    if count <= 1 and total <= 1:  # the first condition saves a device synchronisation
        raise ValueError(f"expected more than one value per channel in all processes together, got {total:g}")
    joined_mean = sums[:-1] / total
    joined_var = summed(count * (var + (mean - joined_mean).square()), group) / total
    return joined_mean, joined_var, total
