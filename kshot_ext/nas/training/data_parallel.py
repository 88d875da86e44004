"""Supernet training by several processes: who leads, who follows, and what they share."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import astuple
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kshot_ext.distributed import LostProcessError, all_reduce, broadcast, sum_gradients, synchronize_batch_norm
from kshot_ext.nas.device import find_device
from kshot_ext.nas.training.optimization import Tally
from kshot_ext.ops.collectives import summed

_TIMEOUT_SECONDS = 600.0


class _Trainer(Protocol):
    def train_epoch(self) -> object: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def started_processes() -> int | None:
    """How many processes ``torchrun`` started, this one included; None without it."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    return int(os.environ["WORLD_SIZE"])


class DataParallel:
    """The processes that train one supernet together, each on its part of every batch; or this process alone.

    All processes make the same random choices, from the state that the first one has when it starts an epoch: the
    same batches, variations, paths and codes. Each works on its part, batch norm uses the statistics of all parts, and
    gradients are summed, so the result is that of one process with the whole batch, within rounding. Machines should
    be of one kind: where they round differently, their weights drift apart.

    The first process leads: it alone reads and writes the run, and calls `train_epoch`. The others :meth:`follow`. If a
    process ends, `LostProcessError` ends the others, and the run goes on from its last checkpoint.

    Args:
        group: the processes; None for this one alone.
        device: where what they exchange must be, e.g. ``"cuda:0"`` for nccl.

    Example:
        >>> alone = DataParallel()
        >>> images, labels, share = alone.part(torch.zeros(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64))
        >>> len(images), share
        (6, 1.0)
    """

    def __init__(self, group: dist.ProcessGroup | None = None, device: torch.device | str = "cpu") -> None:
        self.group = group
        self.device = torch.device(device)
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)
        self._shared_state = False

    @classmethod
    def from_environment(cls, device: torch.device | str = "cpu", timeout: float = _TIMEOUT_SECONDS) -> DataParallel:
        """Join the processes that ``torchrun`` started; without it, this process alone.

        Args:
            device: kind of device to train on. gloo connects CPUs; nccl connects CUDA devices, one for each process
                of a machine.
            timeout: seconds after which a process that does not answer counts as lost.

        Raises:
            ValueError: if this machine lacks the device.
            LostProcessError: if the other processes do not connect.
        """
        if started_processes() is None:
            return cls()
        device = torch.device(device)
        if device.type == "cuda":
            device = find_device(f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}")
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        except RuntimeError as error:
            raise LostProcessError(f"the processes of this training do not connect ({error})") from error
        return cls(dist.group.WORLD, device)

    @property
    def leads(self) -> bool:
        """Whether this is the first process, the only one that reads and writes files."""
        return self.rank == 0

    def __enter__(self) -> DataParallel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close(failed=error is not None)

    def close(self, failed: bool = False) -> None:
        """Leave the group, after which this process is alone. The leader tells the others that training has ended.

        Args:
            failed: whether an error ends this process's part: the others may then be anywhere, and only learn that
                this process is gone.
        """
        if self.group is None:
            return
        if self.leads and not failed:
            self._tell(False)
        dist.destroy_process_group(self.group)
        self.group, self.size = None, 1

    def training_device(self, name: str) -> torch.device:
        """The device that this process trains on, where the settings name one.

        Raises:
            ValueError: if this machine lacks it, or the processes were connected for another kind.
        """
        if self.group is None:
            return find_device(name)
        if torch.device(name).type != self.device.type:
            raise ValueError(
                f"device: the settings have {name!r}, but processes connect before these are read, and did so for "
                f"{self.device.type!r}; expected --device {name} on the command line"
            )
        return self.device

    def prepare(self, supernet: nn.Module) -> None:
        """Let the supernet's batch norm use the statistics of all parts."""
        if self.group is not None:
            synchronize_batch_norm(supernet, self.group)

    def check_batch_size(self, size: int) -> None:
        """Refuses batches of which a process would get nothing.

        Raises:
            ValueError: if there are fewer images than processes.
        """
        if size < self.size:
            raise ValueError(f"batch_size: expected at least one image for each of {self.size} processes, got {size}")

    def part(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, float]:
        """This process's part of a batch, and its share of the images, by which its mean loss counts.

        Parts differ by at most one image.

        Raises:
            ValueError: if there are fewer images than processes.
        """
        self.check_batch_size(len(images))
        part = self.part_of(images)
        return part, self.part_of(labels), len(part) / len(images)

    def part_of(self, rows: Tensor) -> Tensor:
        """This process's share of the rows that belong to a batch's images."""
        return rows.tensor_split(self.size)[self.rank]

    def gathered(self, rows: Tensor, count: int) -> Tensor:
        """What all processes have made of their parts of a batch, in its order.

        Args:
            rows: ``[n, ...]``, one for each image of this process's part.
            count: images of the whole batch.

        Returns:
            ``[count, ...]``, differentiable: rows get the gradient of the sum of all processes' losses.
        """
        if self.group is None:
            return rows
        own = torch.arange(count, device=rows.device).tensor_split(self.size)[self.rank]
        return summed(rows.new_zeros(count, *rows.shape[1:]).index_copy(0, own, rows), self.group)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Make the gradients of weighted parts those of the whole batch."""
        if self.group is not None:
            sum_gradients(parameters, self.group)

    def summed(self, values: list[float]) -> list[float]:
        """The sum of each number over the processes: losses times `part`'s share become those of whole batches."""
        if self.group is None:
            return values
        return all_reduce(torch.tensor(values, dtype=torch.float64, device=self.device), self.group).tolist()

    def joined(self, tally: Tally) -> Tally:
        """The tally of all parts."""
        if self.group is None:
            return tally
        values = torch.tensor(astuple(tally), dtype=torch.float64, device=self.device)
        images, loss_sum, correct = all_reduce(values, self.group).tolist()
        return Tally(int(images), loss_sum, correct)

    def announce(self, trainer: _Trainer) -> None:
        """The leader's call at the start of each epoch: the others train it too. The first time it sends them its
        trainer's state. Nothing happens in other processes."""
        if self.group is not None and self.leads:
            self._tell(True)
            self._share_state(trainer)

    def follow(self, trainer: _Trainer) -> None:
        """Train along with the leader until it says that training has ended, then leave the group.

        Raises:
            LostProcessError: if the leader or another process is gone.
        """
        while self._told():
            self._share_state(trainer)
            trainer.train_epoch()
        self.close()

    def from_leader(self, text: str) -> str:
        """The leader's text, in every process."""
        return self._from_leader(text.encode()).decode()

    def _tell(self, go_on: bool) -> None:
        assert self.group is not None, "several processes train"
        broadcast(torch.tensor([int(go_on)], device=self.device), self.group)

    def _told(self) -> bool:
        assert self.group is not None, "several processes train"
        return bool(broadcast(torch.zeros(1, dtype=torch.int64, device=self.device), self.group))

    def _share_state(self, trainer: _Trainer) -> None:
        if self._shared_state:
            return
        file = io.BytesIO()
        if self.leads:
            torch.save(trainer.state_dict(), file)
        content = self._from_leader(file.getvalue())
        if not self.leads:
            trainer.load_state_dict(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"))
        self._shared_state = True

    def _from_leader(self, content: bytes) -> bytes:
        if self.group is None:
            return content
        size = broadcast(torch.tensor([len(content)], device=self.device), self.group)
        sent = torch.frombuffer(bytearray(content), dtype=torch.uint8) if self.leads else torch.empty(int(size)).byte()
        return bytes(broadcast(sent.to(self.device), self.group).cpu().numpy())
