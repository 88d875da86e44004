"""What evaluates architectures for a command: this process, or workers of Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from kshot_ext.nas.commands.frame import CommandError
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.searchers.ray_map import RayMap


@contextmanager
def evaluators(workers: int | None, ray_address: str | None) -> Iterator[Callable[..., Iterable[Scores]]]:
    """Give `map`, or a `RayMap`.

    Args:
        workers: processes of Ray; None for this process without Ray.
        ray_address: of a running cluster that has them; None for this machine.

    Raises:
        CommandError: if there is an address, but no number of workers.
        MissingExtraError, ValueError, ConnectionError, LostProcessError: as by `RayMap`.
    """
    if workers is None:
        if ray_address is not None:
            raise CommandError("ray_address: expected workers too, their number on the cluster")
        yield map
        return
    with RayMap(workers, ray_address) as ray_map:
        yield ray_map
