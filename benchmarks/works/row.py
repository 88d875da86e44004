"""A row of the result table: one layer, or one step, and the contest over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.forms import Contest

FLOAT32_BYTES = 4


class Demand(NamedTuple):
    """What a piece of work takes at least: bytes that cross the memory bus, and floating-point operations."""

    bytes: int
    operations: int


@dataclass(frozen=True)
class Row:
    """What is measured.

    Args:
        name: unique within work and layer set.
        kind: targets select rows by it: "dense", "depthwise", "batch norm", "update", "step" or "training".
        geometry: the shape, for people.
        count: how often the network has it.
        contest: builds operands and forms in a place; on the CPU in float32 unless told otherwise.
        traffic: bytes that must cross the memory bus at least, forward and backward, in float32; None: not modelled.
        operations: floating-point operations, forward and backward.
        parts: in place of the last two, counts what each part of a row takes whose parts run one after the other.
    """

    name: str
    kind: str
    geometry: str
    count: int
    contest: Callable[..., Contest]
    traffic: int | None = None
    operations: int = 0
    parts: Callable[[], Sequence[Demand]] | None = None

    @property
    def is_modelled(self) -> bool:
        """Whether it is known what the row takes at least."""
        return self.traffic is not None or self.parts is not None
