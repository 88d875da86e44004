"""Runs on images that workers read: bounded memory, the same bits after a stop, and no process left."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

from kshot_ext import nas
from kshot_ext.nas.datasets import open_source

SIDE, COUNT = 512, 200
MEASURE = """
import resource, sys
import torch
from kshot_ext.nas.datasets import load_splits, open_source
from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.settings import ImageSettings

def peak():
    # KiB; what getrusage says of a process begins with what its parent had.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

keep, side, workers = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
source = open_source(sys.argv[1])
source.read(0)
torch.nn.functional.interpolate(torch.zeros(1, 3, 8, 8).byte(), (side, side), mode="bilinear", antialias=True)
before = peak()
settings = ImageSettings(keep=keep, workers=workers, mean="0.5", std="0.5")
options = {"image_size": side, "images": settings, "augmentation": None, "held_out": {}}
splits = load_splits(source, generator=torch.Generator(), **options)
seen = sum(len(images) for images, _ in batches(splits.train, 4, mean=splits.mean, std=splits.std))
assert seen == len(source)
most = max(peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
print(most - before)
"""


@pytest.mark.parametrize(("keep", "workers"), [("memory", 0), ("stream", 0), ("stream", 1)])
def test_memory_does_not_grow_with_the_number_of_streamed_images(tmp_path: Path, keep: str, workers: int) -> None:
    """Decoded, the images take 150 MiB; streamed, a few batches of 12 MiB, and 50 MiB of those that are compared."""
    pixels = np.random.default_rng(0).integers(256, size=(COUNT, 8, 8, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        folder = tmp_path / "data" / f"class {index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "data"), keep, str(SIDE), str(workers)]
    # What the C library keeps of freed memory, for batches to come, is not what is measured.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    grown = 1024 * int(output.stdout)
    decoded = 3 * COUNT * SIDE**2
    assert (grown > 0.9 * decoded) == (keep == "memory"), f"{grown / 2**20:.0f} MiB"


def dimmed(picture: Image.Image) -> Tensor:
    """A transform that draws from all three sources of random numbers."""
    import random

    factor = 0.5 + (torch.rand(()).item() + float(np.random.rand()) + random.random()) / 6
    return torch.from_numpy((np.asarray(picture) * factor).astype(np.uint8))


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_stops_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(100, (120, 1, 8, 8), dtype=torch.uint8, generator=generator)
    pixels[::2, :, 4:] += 100
    source = open_source(TensorDataset(pixels, torch.arange(120) % 2), transform=dimmed)
    settings: dict[str, Any] = {
        "channels": 2,
        "shots": 1,
        "rivals": 0,
        "method": "spos",
        "images": {"workers": 1},
        "training": {"epochs": 2, "batch_size": 16, "warmup_epochs": 0},
        "search": {"population": 2, "generations": 1},
        "retrain": {"epochs": 2, "batch_size": 16, "seeds": 1},
    }
    whole = nas.search(settings, data=source, out=tmp_path / "whole", progress=False)
    stops = iter([1, 4])
    events: list[Any] = []

    def stop(event: Any) -> None:
        events.append(event)
        if len(events) == at:
            raise KeyError("enough")

    at = next(stops)
    with pytest.raises(KeyError, match="enough"):
        nas.search(settings, data=source, out=tmp_path / "run", on_epoch=stop, progress=False)
    at = next(stops)
    with pytest.raises(KeyError, match="enough"):
        nas.search(resume=tmp_path / "run", data=source, on_epoch=stop, progress=False)
    nas.search(resume=tmp_path / "run", data=source, progress=False)
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (whole.path / name).read_bytes()
    assert multiprocessing.active_children() == []
