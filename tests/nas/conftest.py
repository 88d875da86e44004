"""A search small enough for unit tests: 48 striped 8x8 images of three classes, two-channel networks."""

from collections.abc import Callable, Collection

import pytest
import torch

from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.datasets.splits import DataSplits, channel_statistics
from kshot_ext.nas.methods import begin_training
from kshot_ext.nas.methods.kshot import KShotSettings
from kshot_ext.nas.runs.run_folder import RunFolder
from kshot_ext.nas.spaces import create_space


def striped_images(count, seed):
    """Grey images whose class is the period of their stripes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    columns = torch.arange(8).expand(count, 1, 8, 8)
    stripes = (columns // (labels + 1).view(-1, 1, 1, 1)) % 2 * 200
    noise = torch.randint(40, stripes.shape, generator=generator)
    return ImageSet((stripes + noise).to(torch.uint8), labels)


@pytest.fixture(scope="session")
def tiny_splits():
    train = striped_images(48, seed=0)
    mean, std = channel_statistics(train.images)
    return DataSplits(train, striped_images(15, seed=1), striped_images(15, seed=2), ("one", "two", "three"), mean, std)


@pytest.fixture(scope="session")
def tiny_space():
    return create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2)


@pytest.fixture
def seeded():
    """Makes generators: ``seeded(3)``."""
    return lambda seed: torch.Generator().manual_seed(seed)


@pytest.fixture
def make_loop(tiny_space, tiny_splits):
    """Makes trainings: ``make_loop(TrainingSettings(...), shots=2, codes=CodeSettings(...), simplex_every=2)``."""

    def make(settings, *, shots=2, codes=None, space=tiny_space, seed=0, **simplex):
        own = KShotSettings(**simplex)
        return begin_training(own, space, tiny_splits, settings, shots=shots, codes=codes, seed=seed)

    return make


@pytest.fixture
def stop_before_saves(monkeypatch: pytest.MonkeyPatch) -> Callable[[Collection[int]], list[int]]:
    """Interrupts a run before it saves: ``saves = stop_before_saves({3, 5})`` does so the third and fifth time.

    The list that it returns grows with each attempt.
    """
    save_checkpoint = RunFolder.save_checkpoint

    def stop(at: Collection[int]) -> list[int]:
        saves: list[int] = []

        def save_or_stop(folder: RunFolder, *arguments: object) -> None:
            saves.append(len(saves) + 1)
            if saves[-1] in at:
                raise KeyboardInterrupt
            save_checkpoint(folder, *arguments)

        monkeypatch.setattr(RunFolder, "save_checkpoint", save_or_stop)
        return saves

    return stop
