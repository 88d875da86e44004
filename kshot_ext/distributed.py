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
from kshot_ext.ops.compact_gradient import SumOfUses, Use
from kshot_ext.ops.gradient_slot import gradient_in_slot, linear_parts

__all__ = [
    "LostProcessError",
    "all_reduce",
    "broadcast",
    "compact_all_reduce_hook",
    "sum_gradients",
    "synchronize_batch_norm",
]


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
    forms = [p.grad if dense else gradient_in_slot(p) for p, dense in zip(present, dense_somewhere)]
    return [gradient for gradient in forms if gradient is not None]


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


def compact_all_reduce_hook(
    process_group: dist.ProcessGroup | None, bucket: dist.GradBucket
) -> torch.futures.Future[Tensor]:
    """A communication hook of `DistributedDataParallel` that sends dictionaries' gradients in compact form.

    With one code for all processes, the mean of the gradients is `code[k] * mean_r g_r`; only g_r is sent, 1/K of what
    torch's own hook sends. The gradients that DDP hands on are dense, as ever. It is sent so where an optimiser of
    `kshot_ext.optim` owns the parameter, each process used all of it once, without a gate, and with the same code; all
    else is sent dense. So results are those of torch's `allreduce_hook`, within rounding.

    Processes first agree on the form, by two messages a bucket: a number a parameter, and 2 K a dictionary. They wait
    for the sums, so backward passes do not run on meanwhile.

    Args:
        process_group: default: all processes. It is what `register_comm_hook` calls the state.
        bucket: gradients, by DDP.

    Raises:
        LostProcessError: if another process has ended, or does not answer within the group's timeout.

    Example:
        >>> import tempfile, torch.distributed as dist
        >>> from torch.nn.parallel import DistributedDataParallel
        >>> place = tempfile.NamedTemporaryFile()
        >>> dist.init_process_group("gloo", init_method=f"file://{place.name}", rank=0, world_size=1)
        >>> model = DistributedDataParallel(nn.Linear(2, 1))
        >>> model.register_comm_hook(None, compact_all_reduce_hook)
        >>> model(torch.ones(3, 2)).sum().backward()
        >>> model.module.weight.grad
        tensor([[3., 3.]])
        >>> dist.destroy_process_group()
    """
    group = process_group if process_group is not None else dist.group.WORLD
    assert group is not None, "DistributedDataParallel has initialised the processes"
    views = [_in_layout_of(parameter, view) for parameter, view in zip(bucket.parameters(), bucket.gradients())]
    uses = _common_uses(bucket.parameters(), bucket.buffer().device, group)
    sums = _sums([view if use is None else use.grad for view, use in zip(views, uses)], group)
    for parameter, view, use, total in zip(bucket.parameters(), views, uses, sums):
        mean = total.div_(group.size())
        view.copy_(mean if use is None else SumOfUses(parameter, (use._replace(grad=mean),)).total())
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


def _in_layout_of(parameter: Tensor, view: Tensor) -> Tensor:
    """A contiguous view of a bucket as DDP uses it: with the strides of its parameter, if that fills its memory."""
    if torch.empty_like(parameter, device="meta").stride() != parameter.stride():
        return view
    return view.as_strided(parameter.shape, parameter.stride())


if dist.is_available():  # DDP compares the annotations of hooks themselves, not their names
    _annotations = {"bucket": dist.GradBucket, "return": torch.futures.Future[Tensor]}
    compact_all_reduce_hook.__annotations__.update(_annotations)


def _common_uses(parameters: list[Tensor], device: torch.device, group: dist.ProcessGroup) -> list[Use | None]:
    """The use of each dictionary that all processes used whole, once, without a gate, by one code; None for others."""
    gradients = [gradient_in_slot(parameter) for parameter in parameters]
    own: list[Use | None] = [
        gradient.uses[0] if isinstance(gradient, SumOfUses) and len(gradient.uses) == 1 else None
        for gradient in gradients
    ]
    fits = [use is not None and use.gate is None and use.grad.shape == p.shape[1:] for p, use in zip(parameters, own)]
    differs = all_reduce(torch.tensor([0.0 if fit else 1.0 for fit in fits], device=device), group, maximum=True)
    common = [use if used_otherwise == 0 else None for use, used_otherwise in zip(own, differs.tolist())]
    codes = [use.code.double() for use in common if use is not None]
    if not codes:
        return common
    entries = torch.cat(codes)
    highest, lowest = all_reduce(torch.cat([entries, -entries]), group, maximum=True).chunk(2)
    same = [bool(each.all()) for each in (highest == -lowest).split([len(code) for code in codes])]
    answers = iter(same)
    return [use if use is not None and next(answers) else None for use in common]


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
