"""A function applied to many arguments by the processes of Ray, on this machine or a cluster."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TypeVar

import torch

from kshot_ext.distributed import LostProcessError
from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.extras import require
from kshot_ext.nas.own_classes import own_modules

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

_CONNECT_SECONDS = 30
_END_SECONDS = 5


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
        ConnectionError: if no cluster answers at ``address`` within 30 seconds.
        LostProcessError: if Ray does not start.

    Example:
        >>> with RayMap(workers=2) as ray_map:  # doctest: +SKIP
        ...     list(ray_map(abs, [-1, 2, -3]))
        [1, 2, 3]
    """

    def __init__(self, workers: int, address: str | None = None) -> None:
        check_at_least("workers", workers, 1)
        self._cloudpickle = require("ray", extra="ray").cloudpickle
        self._function: Callable[[Any], Any] | None = None
        self._sent = b""
        self._call = 0
        self._connection, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    f"from kshot_ext.nas.searchers.ray_driver import serve; serve({theirs.fileno()})",
                ],
                pass_fds=[theirs.fileno()],
                # Ray would report on its use over the internet.
                env={"RAY_USAGE_STATS_ENABLED": "0", **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this process, which then ends that one
            )
        try:
            self._send((workers, address))
            self._receive()
            if address is not None and not self._connection.poll(_CONNECT_SECONDS):
                raise ConnectionError(f"ray_address: no cluster answers at {address} within {_CONNECT_SECONDS} seconds")
            self._receive()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RayMap:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def close(self) -> None:
        """End the workers, and Ray if this object started it."""
        self._connection.close()
        for end in (lambda: None, self._process.terminate, self._process.kill):
            end()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
                return

    def __call__(self, function: Callable[[_Argument], _Result], arguments: Iterable[_Argument]) -> Iterator[_Result]:
        """Yield the results, in the order of the arguments, as they come.

        Raises:
            ray.exceptions.RayError: if the function raises, or its worker dies each time.
            LostProcessError: if Ray itself has ended, on this machine or with the node that it is connected to.
        """
        if function is not self._function:
            for module in own_modules():  # which no worker could import
                self._cloudpickle.register_pickle_by_value(module)
            self._function, self._sent = function, self._cloudpickle.dumps(function)
        self._call += 1
        call, waiting = self._call, [self._cloudpickle.dumps(argument) for argument in arguments]
        self._send((call, self._sent, torch.get_num_threads(), waiting))
        for _ in waiting:
            yield self._cloudpickle.loads(self._receive())

    def _send(self, message: object) -> None:
        with _loss_explained():
            self._connection.send(message)

    def _receive(self) -> bytes:
        """The next result of the present call; those of a call that was left early are dropped."""
        while True:
            with _loss_explained():
                call, error, result = self._connection.recv()
            if call == self._call:
                if error is not None:
                    raise self._cloudpickle.loads(error)
                return result


@contextmanager
def _loss_explained() -> Iterator[None]:
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise LostProcessError("Ray has ended: it lost its node, or one of the processes that it needs") from error
