"""The encoders of views, the distances between their features, and sets that cover them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from kshot_ext.nas.progress import ConsoleProgress
from parts.perception import (
    CELLS,
    CHANNELS,
    TARGETS,
    Perception,
    cover_distance,
    covering_set,
    distances,
    greedy_set,
    random_views,
    targets,
    train_perception,
)
from parts.rooms import CRATE, FREE, VIEW, Rooms, Scenes


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes.random(6, 5, np.random.default_rng(0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_copy_is_a_plain_network_of_its_weights() -> None:
    perception = Perception(3, generator())
    images = torch.randn(4, 3, VIEW, VIEW, generator=generator(1))
    together = perception(images, (2, 0))
    assert together.shape == (4, 2, CHANNELS, CELLS, CELLS)
    for place, k in enumerate((2, 0)):
        plain = torch.nn.Sequential()
        for layer in perception.layers:
            plain.extend([list(layer.copies())[k], torch.nn.ReLU()])
        torch.testing.assert_close(together[:, place], plain[:-1](images))
        torch.testing.assert_close(perception(images, (k,))[:, 0], together[:, place])


def test_standardised_features_have_mean_0_and_variance_1() -> None:
    perception = Perception(2, generator())
    images = torch.randn(16, 3, VIEW, VIEW, generator=generator(1))
    before = perception(images, (0, 1))
    perception.standardise(images)
    after = perception(images, (0, 1))
    torch.testing.assert_close(after.mean(dim=(0, 3, 4)), torch.zeros(2, CHANNELS), atol=1e-4, rtol=0)
    torch.testing.assert_close(after.var(dim=(0, 3, 4)), torch.ones(2, CHANNELS), atol=0.02, rtol=0)
    first, second = (values[:, 0, 0].flatten() for values in (before, after))
    assert torch.corrcoef(torch.stack([first, second]))[0, 1] > 0.9999


def test_targets_are_what_the_simulator_knows(scenes: Scenes) -> None:
    rooms = Rooms(scenes, "explore", 64)
    rooms.reset(seed=0)
    images, known = random_views(rooms)
    assert {name: values.shape[1:] for name, values in known.items()} == {
        name: (channels, VIEW, VIEW) for name, channels in TARGETS.items()
    }
    assert known["autoencoder"] is images
    assert images.abs().max() <= 0.5
    assert known["depth"].exp().max() < 20
    # Edges are where surfaces meet; far away some of them bend too little.
    edges, normals = known["edges"][:, 0, 1:-1, 1:-1] == 1, known["normals"]
    turned = [
        (normals[:, :, 2:, 1:-1] - normals[:, :, :-2, 1:-1]),
        (normals[:, :, 1:-1, 2:] - normals[:, :, 1:-1, :-2]),
    ]
    meeting = torch.stack(turned).abs().sum(dim=(0, 2)) > 1e-6
    assert meeting[edges].float().mean() > 0.9
    assert edges[meeting].float().mean() > 0.6
    assert known["edges"][:, :, [0, -1]].mean() < 0.2  # the frame of a view is none
    assert 0 < known["mask"].mean() < 0.2
    rooms.grids[rooms.grids == CRATE] = FREE
    assert (targets(images, rooms.surfaces(np.arange(64)))["mask"] == 0).all()


def test_copies_learn_what_is_to_be_perceived(scenes: Scenes) -> None:
    with ConsoleProgress(Console(quiet=True)) as bar:
        perception, explained = train_perception(scenes, 60, 16, generator(), bar)
    assert list(explained) == list(TARGETS)
    assert explained["depth"] > 0.5
    assert explained["normals"] > 0.3
    assert not any(parameter.requires_grad for parameter in perception.parameters())


def test_features_are_far_where_no_linear_map_leads() -> None:
    perception = Perception(3, generator())
    last = perception.layers[-1]
    with torch.no_grad():
        for layer in perception.layers:
            layer.weight[1], layer.bias[1] = layer.weight[0], layer.bias[0]  # the same
    noise = torch.randn(2, 600, 3, VIEW, VIEW, generator=generator(1))
    perception.standardise(noise[0])
    with torch.no_grad():
        last.weight[1] *= 2  # which is far from nothing for no linear map
    apart = distances(perception, *noise)
    assert np.diag(apart).tolist() == [0, 0, 0]
    assert apart[0, 1] < 0.01
    assert apart[1, 0] < 0.01
    assert apart[0, 2] > 0.3
    assert (apart <= 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_covering_set_is_the_best_of_all_sets(seed: int) -> None:
    apart = np.random.default_rng(seed).uniform(size=(6, 6))
    np.fill_diagonal(apart, 0)
    for size in range(1, 7):
        best = math.inf
        for chosen in itertools.product((False, True), repeat=6):
            if sum(chosen) == size:
                worst = max(min(apart[i][j] for i in range(6) if chosen[i]) for j in range(6))
                best = min(best, worst)
        found = covering_set(apart, size)
        assert len(set(found)) == size
        assert cover_distance(apart, found) == best
        assert best <= cover_distance(apart, greedy_set(apart, size))


def test_greedy_choices_can_be_worse() -> None:
    places = np.array([0.0, 4.0, 5.0, 6.0, 10.0])
    apart = np.abs(places[:, None] - places)
    assert cover_distance(apart, greedy_set(apart, 2)) == 5
    assert cover_distance(apart, covering_set(apart, 2)) == 4


def test_of_equal_sets_the_one_of_the_least_mean_is_taken() -> None:
    apart = np.array([[0.0, 9.0, 9.0, 9.0], [9.0, 0.0, 9.0, 1.0], [9.0, 9.0, 0.0, 2.0], [9.0, 9.0, 9.0, 0.0]])
    assert covering_set(apart, 2) == (0, 1)
    apart[2, 3] = 0.5
    assert covering_set(apart, 2) == (0, 2)
