"""A row of the result table: one layer, or one step, and the contest over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.forms import Contest

FLOAT32_BYTES = 4


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
    """

    name: str
    kind: str
    geometry: str
    count: int
    contest: Callable[..., Contest]
    traffic: int | None = None
    operations: int = 0
