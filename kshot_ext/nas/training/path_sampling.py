"""Which paths a step of supernet training runs: small strategies, all alike to the trainer.

A strategy is a function of the space and a generator that returns the paths of one step; the step runs them all on the
same images and adds up their gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace

PathSampling = Callable[[SearchSpace, torch.Generator], list[Architecture]]

_SANDWICH_FILLING = 2


def uniform_path(space: SearchSpace, generator: torch.Generator) -> list[Architecture]:
    """One path, each choice drawn independently. (Guo et al., "Single Path One-Shot NAS", ECCV 2020.)"""
    return [space.sample(generator)]


def fair_paths(space: SearchSpace, generator: torch.Generator) -> list[Architecture]:
    """As many paths as a layer has operations, which together take each of a layer's operations once.

    So at any time all operations of a layer have been trained equally often; one that happened to come first gets no
    lead. A layer with fewer operations, and each width, takes its choices as evenly as possible. (Strict fairness of
    Chu et al., "FairNAS", ICCV 2021.)
    """
    count = max(len(space.operations(layer)) for layer in range(space.num_layers))
    columns = [evenly(choices, count, generator) for choices in space.num_choices]
    return [space.from_genes(genes) for genes in zip(*columns)]


def sandwich_paths(space: SearchSpace, generator: torch.Generator) -> list[Architecture]:
    """The largest path, the cheapest one and two random ones between: all others lie between these in accuracy.

    Where the space searches widths, the first two are at full and at least width, with operations drawn at random.
    (The sandwich rule of Yu and Huang, "Universally Slimmable Networks", ICCV 2019; without widths as in Yu et al.,
    "BigNAS", ECCV 2020, but without distillation.)
    """
    bread = [space.largest(), space.cheapest()]
    if space.widths is not None:
        bread = [replace(space.sample(generator), widths=path.widths) for path in bread]
    return bread + [space.sample(generator) for _ in range(_SANDWICH_FILLING)]


def evenly(num_choices: int, count: int, generator: torch.Generator) -> list[int]:
    """`count` choices in random order: whole rounds of all of them, then a part of one."""
    rounds = -(-count // num_choices)
    return [i for _ in range(rounds) for i in torch.randperm(num_choices, generator=generator).tolist()][:count]


PATH_SAMPLINGS: dict[str, PathSampling] = {"uniform": uniform_path, "fair": fair_paths, "sandwich": sandwich_paths}
"""The strategies by the names that settings use."""
