"""Images that worker processes read whenever they are used, so that any number of them fits."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from kshot_ext.nas.datasets.augmentation import VaryImage
from kshot_ext.nas.datasets.decode import fit_square
from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.datasets.source import DataError, ImageSource
from kshot_ext.nas.randomness import everything_seeded, seed_everything

_CPU = torch.device("cpu")
_DIGESTED = 32
_BATCH_TO_KEEP = 8


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads the images of a source, all in one form.

    Args:
        source: of the images.
        image_size: see `load_splits`.
        shape: ``(C, H, W)`` of every image; None as long as that is not known.
        dtype: of every image.

    Raises:
        DataError: from :meth:`image`, if one cannot be read, or has another form.
    """

    source: ImageSource
    image_size: int | None = None
    shape: tuple[int, int, int] | None = None
    dtype: torch.dtype = torch.uint8

    def image(self, index: int, *, training: bool = False) -> Tensor:
        """Image ``index`` of the source, ``[C, H, W]``."""
        source = self.source
        read = source.read if source.read_training is None or not training else source.read_training
        image = read(index)
        image = image if self.image_size is None else fit_square(image, self.image_size)
        if self.shape is None:
            return image
        if len(image) == 1 < self.shape[0] and image.shape[1:] == self.shape[1:]:
            image = image.expand(self.shape)
        if tuple(image.shape) != self.shape or image.dtype != self.dtype:
            cure = "" if image.shape[1:] == self.shape[1:] else "; set an image size"
            raise DataError(
                f"{source.describe(index)}: expected {self.dtype} {list(self.shape)} (channels, height, width) as of "
                f"the images before, got {image.dtype} {list(image.shape)}{cure}"
            )
        return image


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """Labelled images that are read when they are used; the counterpart of `ImageSet`, which holds them.

    Args:
        reader: reads them; its shape is known.
        indices: int64 ``[N]``, of the source's images.
        labels: targets of these, as of `ImageSet`.
        workers: processes that read; 0 for this one. They live as long as one pass over images.
        device: where batches go.
    """

    reader: Reader
    indices: Tensor
    labels: Tensor
    workers: int
    device: torch.device = _CPU

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of every image."""
        assert self.reader.shape is not None
        return self.reader.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of every image."""
        return self.reader.dtype

    @property
    def varies(self) -> bool:
        """Whether reading an image draws random numbers."""
        return self.reader.source.varies

    def subset(self, indices: Tensor) -> StreamedImages:
        """Return the images at ``indices`` (int64 ``[M]``), in that order."""
        return replace(self, indices=self.indices[indices], labels=self.labels[indices])

    def joined(self, other: Images) -> StreamedImages:
        """Return these images, then the other ones, of the same source."""
        assert isinstance(other, StreamedImages), "streamed images join streamed ones"
        indices = torch.cat([self.indices, other.indices])
        return replace(self, indices=indices, labels=torch.cat([self.labels, other.labels]))

    def to(self, device: torch.device) -> StreamedImages:
        """Return the same images, whose batches go to a device."""
        return replace(self, labels=self.labels.to(device), device=device)

    def unlabelled(self) -> StreamedImages:
        """Return the same images without their labels, see :meth:`ImageSet.unlabelled`."""
        return replace(self, labels=self.labels.to("meta"))

    def in_memory(self) -> ImageSet:
        """Return the same images, read once."""
        images = torch.empty(len(self), *self.image_shape, dtype=self.reader.dtype, device=self.device)
        chunks = torch.arange(len(self)).split(_BATCH_TO_KEEP) if len(self) else ()
        for chunk, (batch, _) in zip(chunks, self.read(chunks)):
            images[chunk] = batch
        return ImageSet(images, self.labels)

    def add_to_digest(self, digest: Any) -> None:
        """Add the labels and some images, evenly spread: to read all takes as long as an epoch."""
        digest.update(repr((len(self), self.image_shape)).encode())
        digest.update(self.labels.cpu().contiguous().numpy().data)
        if len(self) == 0:
            return
        some = torch.linspace(0, len(self) - 1, min(_DIGESTED, len(self))).long()
        for training in (False, True):
            for images, _ in replace(self, workers=0).read(some.split(1), training=training):
                digest.update(images.cpu().contiguous().numpy().data)

    def read(
        self,
        chunks: Iterable[Tensor],
        *,
        seeds: Tensor | None = None,
        vary: VaryImage | None = None,
        training: bool = False,
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Read images, a batch at a time; see :meth:`ImageSet.read`.

        Workers that read ahead end with the iterator.

        Raises:
            DataError: if an image cannot be read, or a worker died.
        """
        chunks = list(chunks)
        seeds = self.indices % 2**32 if seeds is None else seeds  # so images to be scored are always the same
        requests = ((self.indices[chunk].tolist(), seeds[chunk].tolist()) for chunk in chunks)
        job = _Job(self.reader, vary, training, own_process=self.workers > 0)
        if self.workers == 0:
            batches: Any = map(job.__getitems__, requests)
        else:
            batches = iter(_loader(job, requests, min(self.workers, max(len(chunks), 1))))
        try:
            for chunk in chunks:
                with lost_workers():
                    batch = next(batches)
                if isinstance(batch, _Failure):
                    raise DataError(batch.message)
                yield batch.permute(0, 3, 1, 2).to(self.device), self.labels[chunk]
        finally:
            if self.workers > 0:
                batches._shutdown_workers()  # as its deletion would, which a traceback may put off


Images: TypeAlias = ImageSet | StreamedImages
"""Labelled images, in memory or streamed: both have the same methods."""


@contextmanager
def lost_workers() -> Iterator[None]:
    """Inside the context, torch's word that a worker died becomes a `DataError`."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise DataError(
            f"data: a process that reads images died ({str(error).strip()}); the system ends processes when memory is "
            "short, shared memory (/dev/shm) included: use fewer images.workers, or 0 to read in the run's own process"
        ) from error


def _loader(job: _Job, requests: Iterator[Any], workers: int) -> DataLoader:
    # Forked workers need no copy of the data set, which may be any object; other systems have their own way.
    context = multiprocessing.get_context("fork") if sys.platform == "linux" else None
    return DataLoader(
        job,
        batch_sampler=_Once(requests),
        num_workers=workers,
        collate_fn=_unchanged,
        multiprocessing_context=context,
        generator=torch.Generator(),  # else it would draw from the global one
    )


class _Once:
    """What torch takes for a sampler of batches: any iterable."""

    def __init__(self, requests: Iterator[Any]) -> None:
        self._requests = requests

    def __iter__(self) -> Iterator[Any]:
        return self._requests


@dataclass(frozen=True)
class _Failure:
    """Why a batch could not be read: torch would wrap an error in the worker's stack."""

    message: str


@dataclass(frozen=True, eq=False)
class _Job(Dataset):
    """What a worker does: ``job.__getitems__((indices, seeds))`` is a batch, ``[B, H, W, C]``.

    So it is in the order of memory that networks want, and the process that trains has not to change it.
    """

    reader: Reader
    vary: VaryImage | None
    training: bool
    own_process: bool

    def __getitems__(self, request: tuple[list[int], list[int]]) -> Tensor | _Failure:
        try:
            return default_collate([self._image(*one).permute(1, 2, 0) for one in zip(*request)])
        except DataError as error:
            return _Failure(str(error))

    def _image(self, index: int, seed: int) -> Tensor:
        with self._seeded(seed):
            image = self.reader.image(index, training=self.training)
            return image if self.vary is None else self.vary(image)

    def _seeded(self, seed: int) -> Any:
        if self.vary is None and not self.reader.source.varies:
            return nullcontext()
        if not self.own_process:
            return everything_seeded(seed)
        seed_everything(seed)
        return nullcontext()


def _unchanged(batch: Any) -> Any:
    return batch
