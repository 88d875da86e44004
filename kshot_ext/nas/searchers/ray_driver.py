"""The process that talks to Ray for a `RayMap`: one of its own, since Ray ends that process when its node is lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch

from kshot_ext.nas.extras import require

_TRIES = 4


def serve(pipe: int) -> None:
    """Answer a `RayMap` until it closes its end.

    It sends ``(workers, address)``, then for each call ``(call, function, threads, arguments)``, function and arguments
    as pickled bytes. Each answer is ``(call, error, result)``, error or result as pickled bytes, else None; two answers
    of no call say that Ray is about to start and that it has started.
    """
    connection = Connection(pipe)
    ray = require("ray", extra="ray")
    call = 0
    try:
        workers, address = connection.recv()
        connection.send((call, None, None))
        try:
            pool = _start(ray, workers, address)
            connection.send((call, None, None))
        except Exception as error:
            connection.send((call, _pickled(ray, error), None))
            return
        sent = b"", None
        while True:
            call, function, threads, arguments = connection.recv()
            try:
                if function != sent[0]:
                    sent = function, ray.put(function)
                for result in _results(pool, sent[1], threads, arguments):
                    connection.send((call, None, result))
            except ray.exceptions.RayError as error:
                connection.send((call, _pickled(ray, error), None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # nobody asks any more
    finally:
        ray.shutdown()


def _start(ray: Any, workers: int, address: str | None) -> list[Any]:
    """The workers, in a Ray of this machine or that at the address."""
    # Without "local" Ray would connect to whatever cluster it finds on this machine.
    where = {"address": address} if address else {"address": "local", "num_cpus": workers, "include_dashboard": False}
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    present = int(ray.cluster_resources().get("CPU", 0))
    if present < workers:  # Ray would wait for more machines without end
        raise ValueError(f"workers: expected at most the {present} CPUs that Ray has, got {workers}")
    worker = ray.remote(_Worker).options(num_cpus=1, max_restarts=-1, max_task_retries=_TRIES - 1)
    return [worker.remote() for _ in range(workers)]


def _results(pool: list[Any], function: Any, threads: int, arguments: list[bytes]) -> Iterator[bytes]:
    """What the workers make of the arguments, in their order; `function` is Ray's reference to it."""

    def apply(worker: Any, argument: bytes) -> Any:
        # Ray would fetch a bare reference for each argument anew; the list leaves that to the worker.
        return worker.apply.remote([function], threads, argument)

    return require("ray.util", extra="ray").ActorPool(pool).map(apply, arguments)


def _pickled(ray: Any, error: Exception) -> bytes:
    try:
        return ray.cloudpickle.dumps(error)
    except Exception:  # whatever a user's error holds
        return ray.cloudpickle.dumps(RuntimeError(str(error)))


class _Worker:
    """What runs in a process of Ray."""

    def __init__(self) -> None:
        self._reference: Any = None
        self._function: Any = None

    def apply(self, references: list[Any], threads: int, argument: bytes) -> bytes:
        ray = require("ray", extra="ray")
        if references[0] != self._reference:
            self._reference, self._function = references[0], ray.cloudpickle.loads(ray.get(references[0]))
        torch.set_num_threads(threads)
        return ray.cloudpickle.dumps(self._function(ray.cloudpickle.loads(argument)))
