"""How fast images of a folder reach a training, beside torchvision: `python -m benchmarks.image_loading --help`.

An epoch of our streamed images against one of torchvision's `ImageFolder` and torch's `DataLoader`, by turns, with as
many workers and batches of the same size. Needs torchvision.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.measuring.environment import environment
from benchmarks.place import CPU
from benchmarks.reporting.results import write_json
from kshot_ext.nas.datasets import load_splits, open_source
from kshot_ext.nas.datasets.batches import batches
from kshot_ext.nas.datasets.settings import ImageSettings
from kshot_ext.nas.extras import require

RESULTS = Path(__file__).resolve().parent / "results" / "image_loading.json"
CLASSES = 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_folder(place: Path, images: int) -> None:
    """A folder of JPEG files of 500x375, as large as the common photograph of ImageNet."""
    generator = np.random.default_rng(0)
    for index in range(images):
        coarse = Image.fromarray(generator.integers(256, size=(24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(pixels + generator.integers(-12, 13, size=pixels.shape), 0, 255).astype(np.uint8)
        folder = place / f"class-{index % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(folder / f"{index}.jpg", quality=90)


def ours(folder: Path, size: int, batch_size: int, workers: int, transform: Any) -> Callable[[], Iterable[Any]]:
    """An epoch of streamed images: by `image_size`, or by a transform."""
    source = open_source(folder, transform=transform)
    splits = load_splits(
        source,
        generator=torch.Generator().manual_seed(0),
        image_size=size if transform is None else None,
        held_out={},
        images=ImageSettings(keep="stream", workers=workers, **_statistics(transform)),
        augmentation=None,
    )
    return lambda: batches(splits.train, batch_size, mean=splits.mean, std=splits.std, generator=torch.Generator())


def theirs(folder: Path, transform: Any, batch_size: int, workers: int) -> Callable[[], Iterable[Any]]:
    """An epoch of torchvision's."""
    images = require("torchvision.datasets", "vision").ImageFolder(folder, transform)
    return lambda: DataLoader(images, batch_size, shuffle=True, num_workers=workers)


def seconds(epoch: Iterable[tuple[Tensor, Tensor]], images: int) -> float:
    """How long an epoch takes, whose batches are read once and dropped."""
    begin, seen = perf_counter(), 0
    for batch, _ in epoch:
        seen += len(batch)
    assert seen == images
    return perf_counter() - begin


def measure(images: int, size: int, batch_size: int, workers: int, pairs: int) -> list[dict[str, Any]]:
    """Images a second of both, and their ratio, by pairs of epochs: by our own scaling, and by the same transform."""
    v2 = require("torchvision.transforms.v2", "vision")
    whole = [v2.Resize(size), v2.CenterCrop(size), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    transform = v2.Compose([*whole, v2.Normalize(MEAN, STD)])
    rows = []
    with tempfile.TemporaryDirectory() as place:
        make_folder(Path(place), images)
        for name, given in (("image_size", None), ("the same transform", transform)):
            first, second = (
                ours(Path(place), size, batch_size, workers, given),
                theirs(Path(place), transform, batch_size, workers),
            )
            seconds(first(), images), seconds(second(), images)
            times = [(seconds(first(), images), seconds(second(), images)) for _ in range(pairs)]
            rows.append(
                {
                    "form": name,
                    "ours": images / median(time for time, _ in times),
                    "torchvision": images / median(time for _, time in times),
                    "ratio": median(other / time for time, other in times),
                    "ratios": sorted(other / time for time, other in times),
                }
            )
    return rows


def main(
    images: Annotated[int, typer.Option(min=16, help="Files to make and read.")] = 480,
    size: Annotated[int, typer.Option(min=8, help="Side of the images that come out.")] = 224,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 32,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read.")] = 2,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of epochs that are timed.")] = 7,
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS,
) -> None:
    """Print and write images a second of both, and their ratio."""
    torch.set_num_threads(1)
    rows = measure(images, size, batch_size, workers, pairs)
    table = Table("form", "ours", "torchvision", "ratio", title=f"images a second by {workers} workers, {size}x{size}")
    for row in rows:
        table.add_row(row["form"], f"{row['ours']:.0f}", f"{row['torchvision']:.0f}", f"{row['ratio']:.2f}")
    Console().print(table)
    told = {"images": images, "size": size, "batch_size": batch_size, "workers": workers, "pairs": pairs}
    libraries = {name: require(name, "vision").__version__ for name in ("torchvision", "PIL")}
    write_json(out, {"environment": {**environment(CPU), **libraries}, **told, "rows": rows})


def _statistics(transform: Any) -> dict[str, str]:
    """What a transform has not normalised is normalised by the loader."""
    return {} if transform is not None else {"mean": ",".join(map(str, MEAN)), "std": ",".join(map(str, STD))}


if __name__ == "__main__":
    typer.run(main)
