"""Encoders of views, each for one thing to perceive: the copies of a K-shot network.

    features_k(view) = network(view) under the code that is 1 at k and 0 elsewhere

Under such codes, one for each sample, all of them learn in one pass (`kshot_conv2d`). They are trained on random views
to give back what the simulator knows, through decoders that are thrown away afterwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch import Tensor, nn

from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.randomness import draw_seed, seeded_by
from kshot_ext.nn import KShotConv2d
from parts.common import train
from parts.rooms import CRATE, VIEW, Rooms, Scenes, Surfaces

TARGETS = {"depth": 1, "normals": 3, "edges": 1, "mask": 1, "autoencoder": 3}  # channels of what is to be perceived
WIDTH, CHANNELS, CELLS = 16, 4, 8  # channels of the trunk and of features; positions along a side of features
RATE, NOISE, EPSILON = 4e-3, 0.3, 1e-8  # of noise on standardised features: it leaves room for what is needed only
BEND = 0.03


class Perception(nn.Module):
    """A K-shot network from views ``[N, 3, VIEW, VIEW]`` to features ``[N, CHANNELS, CELLS, CELLS]``."""

    def __init__(self, shots: int, generator: torch.Generator) -> None:
        super().__init__()
        self.shots = shots
        with seeded_by(generator):
            self.layers = nn.ModuleList(
                [
                    KShotConv2d(3, WIDTH // 2, 3, stride=2, padding=1, num_shots=shots),
                    KShotConv2d(WIDTH // 2, WIDTH, 3, stride=2, padding=1, num_shots=shots),
                    KShotConv2d(WIDTH, WIDTH, 3, padding=2, dilation=2, num_shots=shots),
                    KShotConv2d(WIDTH, CHANNELS, 3, padding=1, num_shots=shots),
                ]
            )

    def forward(self, images: Tensor, copies: Sequence[int]) -> Tensor:
        """Features of some copies, ``[N, copies, CHANNELS, CELLS, CELLS]``."""
        codes = torch.eye(self.shots)[list(copies)]
        # One code serves all views where it can, as its weights are then made once.
        codes = codes[0] if len(copies) == 1 else codes.repeat(len(images), 1)
        values = images.repeat_interleave(len(copies), dim=0)
        *hidden, last = self.layers
        for layer in hidden:
            values = layer(values, codes).relu()
        return last(values, codes).unflatten(0, (len(images), len(copies)))

    @torch.no_grad()
    def standardise(self, images: Tensor) -> None:
        """Gives each channel of each copy mean 0 and variance 1 over these images."""
        variance, mean = torch.var_mean(self(images, range(self.shots)), dim=(0, 3, 4))
        scale = (variance + EPSILON).rsqrt()
        last = self.layers[-1]
        last.weight *= scale[..., None, None, None]
        last.bias.sub_(mean).mul_(scale)


def as_inputs(images: NDArray[np.uint8]) -> Tensor:
    """Views in bytes as what encoders take, between -0.5 and 0.5."""
    return torch.from_numpy(images).float().div_(255).sub_(0.5)


def targets(images: Tensor, surfaces: Surfaces) -> dict[str, Tensor]:
    """What is to be perceived in views, ``[N, C, VIEW, VIEW]`` each.

    Depth is its logarithm. Edges are where the inverse depth, which is linear on a plane, bends.
    """
    inverse = np.pad(1 / surfaces.depths, ((0, 0), (1, 1), (1, 1)), mode="reflect", reflect_type="odd")
    bends = (np.abs(np.diff(inverse[:, :, 1:-1], 2, axis=1)), np.abs(np.diff(inverse[:, 1:-1], 2, axis=2)))
    maps = {
        "depth": np.log(surfaces.depths)[:, None],
        "normals": surfaces.normals,
        "edges": np.maximum(*bends)[:, None] > BEND,
        "mask": surfaces.cells[:, None] == CRATE,
    }
    return {**{name: torch.from_numpy(values).float() for name, values in maps.items()}, "autoencoder": images}


def random_views(rooms: Rooms) -> tuple[Tensor, dict[str, Tensor]]:
    """What walkers see first in new episodes, and what is to be perceived there."""
    images = as_inputs(rooms.reset()[0])
    return images, targets(images, rooms.surfaces(np.arange(rooms.num_envs)))


def train_perception(
    scenes: Scenes, steps: int, batch: int, generator: torch.Generator, bar: ConsoleProgress
) -> tuple[Perception, dict[str, float]]:
    """A frozen perception with a copy for each of `TARGETS`, and which part of each target's variance it explains.

    Views for the second are of the same scenes, but other ones.
    """
    perception = Perception(len(TARGETS), generator)
    with seeded_by(generator):
        decoders = nn.ModuleDict({name: decoder(channels) for name, channels in TARGETS.items()})
    everything = range(len(TARGETS))
    rooms, many = (Rooms(scenes, "explore", count) for count in (batch, 16 * batch))
    for each in (rooms, many):
        each.reset(seed=draw_seed(generator))
    images, known = random_views(many)
    variances = {name: values.var() for name, values in known.items()}

    def errors(features: Tensor, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        decoded = (decode(own) for decode, own in zip(decoders.values(), features.unbind(dim=1)))
        return {name: (found - known[name]).square().mean() / variances[name] for name, found in zip(TARGETS, decoded)}

    def loss() -> Tensor:
        images, known = random_views(rooms)
        features = perception(images, everything)
        variance, mean = torch.var_mean(features, dim=(0, 3, 4), keepdim=True)
        noise = NOISE * torch.randn(features.shape, generator=generator)
        return torch.stack([*errors((features - mean) / (variance + EPSILON).sqrt() + noise, known).values()]).sum()

    train(torch.optim.Adam([*perception.parameters(), *decoders.parameters()], RATE), steps, loss, bar, "perception")
    perception.requires_grad_(False).standardise(images)
    images, known = random_views(many)
    with torch.no_grad():
        explained = {name: 1 - float(error) for name, error in errors(perception(images, everything), known).items()}
    return perception, explained


def decoder(channels: int) -> nn.Sequential:
    """From features of one copy to ``[N, channels, VIEW, VIEW]``, position by position."""
    finer = VIEW // CELLS
    return nn.Sequential(
        nn.Conv2d(CHANNELS, 32, 1), nn.ReLU(), nn.Conv2d(32, channels * finer**2, 1), nn.PixelShuffle(finer)
    )


@torch.no_grad()
def distances(perception: Perception, fitted: Tensor, held_out: Tensor) -> NDArray[np.float64]:
    """How far features i are from features j, ``[K, K]``: the part of j's variance that no linear map of i explains.

    Maps are fitted by ridge regression to some images and judged on others, between 0 and 1.
    """
    given, other = (perception(images, range(perception.shots)).flatten(2).unbind(1) for images in (fitted, held_out))
    result = np.zeros((len(given), len(given)))
    for i, j in itertools.permutations(range(len(given)), 2):
        fit = Ridge(alpha=1.0).fit(given[i], given[j])
        explained = r2_score(other[j], fit.predict(other[i]), multioutput="variance_weighted")
        result[i, j] = 1 - min(max(explained, 0), 1)
    return result


def cover_distance(distances: NDArray[np.float64], chosen: Sequence[int]) -> float:
    """``max_j min_i distances[i, j]``, i chosen: how far the worst served of all features is from the nearest one."""
    return float(distances[list(chosen)].min(axis=0).max())


def covering_set(distances: NDArray[np.float64], size: int) -> tuple[int, ...]:
    """The set of this size of the least `cover_distance`, by trying all; of equal ones the one of the least mean.

    Example:
        >>> import numpy as np
        >>> line = np.array([0.0, 1.0, 2.0, 10.0])
        >>> covering_set(abs(line[:, None] - line), 2)
        (1, 3)
    """

    def worst_then_mean(chosen: tuple[int, ...]) -> tuple[float, float]:
        return cover_distance(distances, chosen), float(distances[list(chosen)].min(axis=0).mean())

    return min(itertools.combinations(range(len(distances)), size), key=worst_then_mean)


def greedy_set(distances: NDArray[np.float64], size: int) -> tuple[int, ...]:
    """A set that grows by whatever lowers the `cover_distance` most."""
    chosen: tuple[int, ...] = ()
    while len(chosen) < size:
        others = (i for i in range(len(distances)) if i not in chosen)
        chosen = min(((*chosen, i) for i in others), key=lambda grown: cover_distance(distances, grown))
    return tuple(sorted(chosen))
