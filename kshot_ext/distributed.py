"""Training of one model by several processes, each on its part of every batch.

Start them with `torchrun`, or by hand, and make a process group of `torch.distributed` (gloo or nccl). All processes
use the same path and code in a step. Then the gradient of a dictionary differs between them only in dL/d(effective
weight), and that is all they exchange: 1/K of the dense gradient.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kshot_ext.nn.batch_norm import NormalisesBatch
from kshot_ext.ops.collectives import LostProcessError, all_reduce, broadcast
from kshot_ext.ops.compact_gradient import SumOfUses
from kshot_ext.ops.gradient_slot import gradient_in_slot, linear_parts

__all__ = ["LostProcessError", "all_reduce", "broadcast", "sum_gradients", "synchronize_batch_norm"]


def sum_gradients(parameters: Iterable[Tensor], group: dist.ProcessGroup) -> None:
    """Replace the gradients of all parameters by their sums over the processes of a group.

        sum_r code[k] * gate[o] * g_r[o, i, ...] = code[k] * gate[o] * sum_r g_r[o, i, ...]

    So of a gradient in compact form (see `kshot_ext.optim.KShotSGD`) only g_r is sent, of others everything; also of
    those that some process has read, since they are dense there. For the mean over a joined batch of n images, let
    process r weigh the mean loss of its n_r images by n_r / n.

    Args:
        parameters: in the same order in all processes. Those without a gradient are passed over.
        group: all its processes must make the call after backward passes over the same path, with the same codes and
            gates.

    Raises:
        LostProcessError: if another process has ended, or does not answer within the group's timeout.

    Example:
        >>> import tempfile, torch.distributed as dist
        >>> place = tempfile.NamedTemporaryFile()
        >>> dist.init_process_group("gloo", init_method=f"file://{place.name}", rank=0, world_size=1)
        >>> layer = nn.Linear(2, 1)
        >>> layer(torch.ones(3, 2)).sum().backward()
        >>> sum_gradients(layer.parameters(), dist.group.WORLD)
        >>> layer.weight.grad
        tensor([[3., 3.]])
        >>> dist.destroy_process_group()
    """
    parts = linear_parts(_in_common_form(parameters, group))
    for part, total in zip(parts, _sums(parts, group)):
        part.copy_(total)


def _in_common_form(parameters: Iterable[Tensor], group: dist.ProcessGroup) -> list[Tensor | SumOfUses]:
    """The gradients that there are: compact where they are so in all processes."""
    present = [parameter for parameter in parameters if gradient_in_slot(parameter) is not None]
    if not present:
        return []
    is_dense = torch.tensor([isinstance(gradient_in_slot(p), Tensor) for p in present], dtype=torch.float32)
    dense_somewhere = all_reduce(is_dense.to(present[0].device), group).tolist()
    return [p.grad if dense else gradient_in_slot(p) for p, dense in zip(present, dense_somewhere)]


def _sums(tensors: list[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    """New tensors, alike in layout, that hold the sums; one message for all tensors of a dtype and device, since most
    layers are so small that a message takes longer than its bytes."""
    sums = [torch.empty_like(tensor) for tensor in tensors]
    alike: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for index, tensor in enumerate(tensors):
        alike.setdefault((tensor.dtype, tensor.device), []).append(index)
    for indices in alike.values():
        total = all_reduce(torch.cat([tensors[index].reshape(-1) for index in indices]), group)
        for index, part in zip(indices, total.split([tensors[index].numel() for index in indices])):
            sums[index].copy_(part.view(sums[index].shape))
    return sums


def synchronize_batch_norm(model: nn.Module, group: dist.ProcessGroup | None) -> None:
    """Let the batch-norm layers of a K-shot model use the statistics of the joined batch in training.

    Args:
        model: its views by `kshot_ext.narrow` made from now on do so too.
        group: the processes that share the batch; None to go back to this process's part alone.

    Raises:
        ValueError: naming a batch-norm layer without copies, which this function cannot synchronise.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, NormalisesBatch):
            layer.process_group = group
        elif isinstance(layer, _BatchNorm) and group is not None:
            raise ValueError(
                f"layer {name!r}: expected a K-shot batch norm, got a {type(layer).__name__}, whose statistics cannot "
                "be those of several processes; make one with kshot_ext.convert"
            )
