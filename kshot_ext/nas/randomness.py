"""Explicit randomness for code that only knows torch's global generator, such as layer initialisers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

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
