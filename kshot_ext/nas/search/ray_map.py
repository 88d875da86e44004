"""A function applied to many arguments by the processes of Ray, on this machine or a cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

import torch

from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.extras import require
from kshot_ext.nas.spaces.own import own_modules

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

_TRIES = 4


class RayMap:
    """``map(function, arguments)`` by several workers: the same results in the same order.

    Each worker gets the function once, with all that it holds, and keeps it for later calls; so what it holds must not
    change between calls. A worker that dies is started again, and does its argument again, up to four times. Workers
    compute with as many threads as this process has at the call, since results of floating point can depend
    on that; set OMP_NUM_THREADS to give them fewer.

    Args:
        workers: number of processes, at least 1.
        address: of a running cluster, whose machines have this package; None to start Ray on this machine, for as long
            as this object is in use.

    Raises:
        MissingExtraError: if Ray is not installed.
        ValueError: if ``workers`` is below 1, or the cluster has fewer CPUs.
        ConnectionError: if there is no cluster at ``address``.

    Example:
        >>> with RayMap(workers=2) as ray_map:  # doctest: +SKIP
        ...     list(ray_map(abs, [-1, 2, -3]))
        [1, 2, 3]
    """

    def __init__(self, workers: int, address: str | None = None) -> None:
        check_at_least("workers", workers, 1)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise Ray reports on its use over the internet
        self._ray = require("ray", extra="ray")
        self._function: Callable[[Any], Any] | None = None
        self._sent: Any = None
        self._workers: list[Any] = []
        self._started_ray = not self._ray.is_initialized()
        if self._started_ray:
            where = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
            self._ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
        present = int(self._ray.cluster_resources().get("CPU", 0))
        if present < workers:  # Ray would wait for more machines without end
            self.close()
            raise ValueError(f"workers: expected at most the {present} CPUs that Ray has, got {workers}")
        worker = self._ray.remote(_Worker).options(num_cpus=1, max_restarts=-1, max_task_retries=_TRIES - 1)
        self._workers = [worker.remote() for _ in range(workers)]

    def __enter__(self) -> RayMap:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def close(self) -> None:
        """End the workers, and Ray if this object started it."""
        for worker in self._workers:
            self._ray.kill(worker)
        self._workers = []
        if self._started_ray and self._ray.is_initialized():
            self._ray.shutdown()

    def __call__(self, function: Callable[[_Argument], _Result], arguments: Iterable[_Argument]) -> Iterator[_Result]:
        """Yield the results, in the order of the arguments, as they come.

        Raises:
            ray.exceptions.RayError: if the function raises, or its worker dies each time.
        """
        if function is not self._function:
            for module in own_modules():  # which no worker could import
                self._ray.cloudpickle.register_pickle_by_value(module)
            self._function, self._sent = function, self._ray.put(function)
        # Ray would fetch a bare reference for each argument anew; the list leaves that to the worker.
        fixed = [self._sent], torch.get_num_threads()
        pool = require("ray.util", extra="ray").ActorPool(self._workers)
        yield from pool.map(lambda worker, argument: worker.apply.remote(*fixed, argument), arguments)


class _Worker:
    """What runs in a process of Ray."""

    def __init__(self) -> None:
        self._reference: Any = None
        self._function: Callable[[Any], Any] | None = None

    def apply(self, references: list[Any], threads: int, argument: Any) -> Any:
        if references[0] != self._reference:
            self._reference, self._function = references[0], require("ray", extra="ray").get(references[0])
        torch.set_num_threads(threads)
        return self._function(argument)
