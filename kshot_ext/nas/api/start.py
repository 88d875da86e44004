"""How a run is started: what it is told, what it may use, and who is told of what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kshot_ext.nas.api.options import Settings, as_config, as_options, images_of, task_asked_for
from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.datasets import ImageSource
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.runs.callbacks import SILENT, Callbacks
from kshot_ext.nas.searchers.ray_map import RayMap

_PIXELS_FOR_ONE_THREAD = 16 * 16


@dataclass(frozen=True)
class Resources:
    """What a run may use of machines; none of it changes what the run finds.

    Args:
        workers: processes of Ray that evaluate architectures; None for this process without Ray.
        ray_address: of a running cluster that has them; None for this machine.
        threads: of this process; None for what suits the images.
    """

    workers: int | None = None
    ray_address: str | None = None
    threads: int | None = None

    def check(self) -> None:
        """Raise `ValueError` for what cannot be given: best before anything is done."""
        if self.threads is not None:
            check_at_least("threads", self.threads, 1)
        if self.ray_address is not None and self.workers is None:
            raise ValueError("ray_address: expected workers too, their number on the cluster")

    @contextmanager
    def evaluators(self) -> Iterator[Callable[..., Iterable[Scores]]]:
        """What evaluates architectures: `map`, or a `RayMap`.

        Raises:
            MissingExtraError, ValueError, ConnectionError, LostProcessError: as by `RayMap`.
        """
        if self.workers is None:
            yield map
            return
        with RayMap(self.workers, self.ray_address) as ray_map:
            yield ray_map

    @contextmanager
    def suitable_threads(self, image_shape: tuple[int, int, int]) -> Iterator[None]:
        """As many threads as asked for; else one for images so small that threads would spend their time waiting for
        each other."""
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        elif image_shape[1] * image_shape[2] <= _PIXELS_FOR_ONE_THREAD:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


WHATEVER_SUITS = Resources()


@dataclass(frozen=True)
class Start:
    """What whoever starts a run, or goes on with one, says.

    Args:
        options: settings by name, which win over the file's; those that are None are not given.
        config: settings file, or its content.
        resources: what the run may use.
        source: images that no setting can name.
        callbacks: told of what is done.
        origin: where the options come from, for messages.
    """

    options: Mapping[str, Any]
    config: Path | Mapping[str, Any] | None = None
    resources: Resources = WHATEVER_SUITS
    source: ImageSource | None = None
    callbacks: Callbacks = SILENT
    origin: str = "command line"

    @classmethod
    def by_program(
        cls,
        command: str,
        settings: Settings | None,
        data: Any,
        resume: str | Path | None,
        options: Mapping[str, Any],
        resources: Resources,
        callbacks: Callbacks,
    ) -> Start:
        """The same of keyword arguments of `nas.search` or `nas.rank`, among which may be objects.

        Args:
            command: ``"search"`` or ``"rank"``.
            settings, data, resume: as of `nas.search`.
            options: settings by name, the folder to create included.
            resources, callbacks: as above.
        """
        name, source, task = images_of(data, task_asked_for(data, options, settings, resume))
        given = as_options({**options, "data": name, "task": task})
        return cls(given, as_config(settings), resources, source, callbacks, origin=command)
