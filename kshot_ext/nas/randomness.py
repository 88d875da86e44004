"""Explicit randomness for code that only knows torch's global generator, such as layer initialisers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def draw_seed(generator: torch.Generator) -> int:
    """A seed for another library's random numbers, drawn from ``generator``."""
    return int(torch.randint(2**31, (), generator=generator))


def named_generator(seed: int, purpose: str) -> torch.Generator:
    """A generator of its own for one purpose, so that no part of a run disturbs another's random numbers.

    Example:
        >>> first, second = named_generator(0, "data"), named_generator(0, "search")
        >>> first.initial_seed() == second.initial_seed()
        False
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


@contextmanager
def seeded_by(generator: torch.Generator) -> Iterator[None]:
    """Seeds torch's global CPU generator from ``generator`` inside the context; afterwards it is as before.

    Example:
        >>> with seeded_by(torch.Generator().manual_seed(0)):
        ...     first = torch.nn.Linear(2, 2)
        >>> with seeded_by(torch.Generator().manual_seed(0)):
        ...     second = torch.nn.Linear(2, 2)
        >>> torch.equal(first.weight, second.weight)
        True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw_seed(generator))
        yield


@contextmanager
def everything_seeded(seed: int) -> Iterator[None]:
    """Seeds the global CPU generators of torch, numpy and Python inside the context; afterwards they are as before.

    Args:
        seed: 0 or more, below 2^32.

    Example:
        >>> with everything_seeded(3):
        ...     first = random.random(), np.random.rand(), float(torch.rand(()))
        >>> with everything_seeded(3):
        ...     (random.random(), np.random.rand(), float(torch.rand(()))) == first
        True
    """
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        seed_everything(seed)
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def seed_everything(seed: int) -> None:
    """Seeds the global CPU generators of torch, numpy and Python, in a process that nothing else draws in."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
