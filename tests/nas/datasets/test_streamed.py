"""Images that workers read: the same as in memory, whatever the number of workers, and no process is left."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kshot_ext.nas.datasets import DataError, load_splits, memory, open_source
from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.datasets.settings import ImageSettings
from kshot_ext.nas.datasets.source import ImageSource
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.datasets.streamed import StreamedImages


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty pictures of two classes, some of them grey, of two sizes."""
    numbers = np.random.default_rng(0)
    for index in range(40):
        shape = (20 + index % 2, 24) if index % 10 == 3 else (20 + index % 2, 24, 3)
        place = tmp_path / "pets" / ("cat" if index % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(256, size=shape, dtype=np.uint8)).save(place / f"{index}.png")
    return tmp_path / "pets"


def load(source: ImageSource, **settings: object) -> DataSplits:
    return load_splits(
        source, generator=torch.Generator().manual_seed(0), image_size=8, images=ImageSettings(**settings)
    )


def an_epoch(splits: DataSplits) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    options = {"mean": splits.mean, "std": splits.std, "augment": splits.augmentation, "drop_last": True}
    return list(batches(splits.train, 7, generator=generator, **options))


def read_all(splits: DataSplits) -> None:
    for part in (splits.train, splits.validation, splits.test):
        part.in_memory()


def test_streamed_images_are_those_in_memory_whatever_the_workers(folder: Path) -> None:
    held = load(open_source(folder), keep="memory")
    assert isinstance(held.train, ImageSet)
    expected = an_epoch(held)
    for workers in (0, 1, 2):
        splits = load(open_source(folder), keep="stream", workers=workers)
        assert isinstance(splits.train, StreamedImages)
        assert torch.equal(splits.mean, held.mean)
        assert splits.augmentation == held.augmentation
        read = an_epoch(splits)
        assert all(torch.equal(a, b) for pair, other in zip(expected, read, strict=True) for a, b in zip(pair, other))
    assert multiprocessing.active_children() == []


def test_a_zip_is_read_by_several_workers(folder: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "pets"), "zip", folder.parent, "pets")
    splits = [load(open_source(archive), keep="stream", workers=workers) for workers in (0, 2)]
    first, second = (an_epoch(each) for each in splits)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))
    assert splits[0].digest() == splits[1].digest()


def test_what_does_not_fit_is_streamed_and_that_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 2 * 40 * 3 * 8 * 8
    monkeypatch.setattr(memory, "available_memory", lambda: needed + 3000)
    assert isinstance(load(open_source(folder)).train, ImageSet)
    monkeypatch.setattr(memory, "available_memory", lambda: needed - 1)
    splits = load(open_source(folder))
    assert isinstance(splits.train, StreamedImages)
    assert splits.notes[-1].startswith("images are read anew whenever they are used: too large for memory (0.00 GiB")


def test_workers_end_with_a_pass_that_is_given_up(folder: Path) -> None:
    splits = load(open_source(folder), keep="stream", workers=2)
    passing = batches(splits.train, 2, mean=splits.mean, std=splits.std)
    next(passing)
    assert len(multiprocessing.active_children()) == 2
    passing.close()
    assert multiprocessing.active_children() == []


def test_a_damaged_file_is_named(folder: Path) -> None:
    splits = load(open_source(folder), keep="stream", workers=1)
    (folder / "cat" / "5.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^[^\n]*cat/5\.png: damaged image \(not an image file\)$"):
        read_all(splits)
    assert multiprocessing.active_children() == []


def test_a_worker_that_dies_is_an_error_of_the_data(folder: Path) -> None:
    source = open_source(folder)
    deadly: list[int] = []

    def read(index: int) -> Tensor:
        if index in deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return source.read(index)

    splits = load(replace(source, read=read), keep="stream", workers=2)
    deadly.append(11)
    with pytest.raises(DataError, match=r"a process that reads images died .* fewer images.workers, or 0 to read"):
        read_all(splits)
    assert multiprocessing.active_children() == []


def test_an_image_of_another_form_is_refused_when_it_comes(folder: Path) -> None:
    splits = load_splits(
        replace(open_source(folder), read=lambda index: torch.full((1, 8, 8), index, dtype=torch.uint8)),
        generator=torch.Generator().manual_seed(0),
        images=ImageSettings(keep="stream", workers=0),
    )
    reader = splits.train.reader
    changed = replace(reader, source=replace(reader.source, read=lambda index: torch.zeros(1, 8, 9).byte()))
    with pytest.raises(DataError, match=r"expected torch.uint8 \[1, 8, 8\] .* \[1, 8, 9\]; set an image size"):
        next(replace(splits.train, reader=changed).read([torch.tensor([0])]))
