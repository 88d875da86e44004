"""Training a supernet, an epoch of few steps at a time: K copies against one, drawing the same paths and batches.

Both compute the same: copies are equal at the start, and so are codes, as during warm-up. So the row shows what K
copies cost beside one; what simplex steps cost is a row of its own, as they have no counterpart in a plain supernet.
"""

from __future__ import annotations

import warnings
from functools import partial

import torch
from torch import Tensor

from benchmarks.forms import Contest, Form
from benchmarks.layers import LayerSet
from benchmarks.place import CPU, Place
from benchmarks.works.row import Row
from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.kshot import KShotSettings
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.training.settings import TrainingSettings

STEPS = 8  # dictionary steps of an epoch
_EPOCHS = 10_000  # more than are ever timed: the learning rate hardly moves


def _random_splits(batch: int, settings: TrainingSettings) -> DataSplits:
    generator = torch.Generator().manual_seed(0)
    count = round(STEPS * batch / (1 - settings.held_out_share))
    images = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    train = ImageSet(images, torch.arange(count) % 10)
    few = train.subset(torch.arange(10))
    names = tuple(f"class {index}" for index in range(10))
    return DataSplits(train, few, few, names, torch.full((3,), 0.5), torch.full((3,), 0.25))


def epoch_form(num_shots: int, batch: int, simplex_every: int, place: Place) -> Form:
    """An epoch of `STEPS` dictionary steps, with a simplex step after each `simplex_every` of them if K is above 1."""
    settings = TrainingSettings(
        epochs=_EPOCHS,
        batch_size=batch,
        precision="float32" if place.precision == "tf32" else place.precision,
        warmup_epochs=0,
    )
    splits = _random_splits(batch, settings)
    space = create_space("nas-bench-macro", image_shape=splits.image_shape, num_classes=splits.num_classes)
    own, codes = KShotSettings(simplex_every=simplex_every), CodeSettings(perturbation=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # equal copies do stay equal
        loop = begin_training(own, space, splits.to(place.device), settings, shots=num_shots, codes=codes)

    def run() -> tuple[Tensor, ...]:
        return (torch.tensor(loop.train_epoch().loss),)

    return Form(f"training loop, K = {num_shots}", run)


def epoch_contest(num_shots: int, batch: int, simplex_every: int, place: Place = CPU) -> Contest:
    ours = epoch_form(num_shots, batch, simplex_every, place)
    # Training parts by rounding what is equal by the equations, a little more with each step.
    return Contest([ours], {"K = 1": [epoch_form(1, batch, simplex_every, place)]}, tolerance=0.1)


def supernet_training_rows(layers: LayerSet) -> list[Row]:
    """Two rows: dictionary steps alone, and with as many simplex steps as there are by default."""
    geometry = f"K = {layers.num_shots}, batch {layers.batch}, {STEPS} steps"
    every = KShotSettings().simplex_every
    return [
        Row(name, kind, geometry, 1, partial(epoch_contest, layers.num_shots, layers.batch, simplex_every))
        for name, kind, simplex_every in (
            ("dictionary steps", "training", 10**9),
            (f"and a simplex step after each {every}", "training with simplex steps", every),
        )
    ]
