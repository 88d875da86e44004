"""Nothing but the penalties on codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.training.simplex_objectives.objective import Batch, SimplexObjective, StepTools


class BalanceAlone(SimplexObjective):
    """No term of its own: what is left are the penalties, which keep all copies in use, and widths apart.

    For codes that start from an architecture's structure and shall stay so, but give every copy its share of the
    training: the mean code of random paths says how much of it each copy gets. A step needs no images and no forward
    pass.
    """

    needs_images = False
    parts_equal_codes = False

    def backward(self, paths: Sequence[Architecture], batches: Iterator[Batch], tools: StepTools) -> None:
        return None
