"""What a row is measured with: a place, its clock, its way to measure memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from benchmarks.forms import Form
from benchmarks.measuring import gpu
from benchmarks.measuring.clocks import Clock, HostClock, cuda_clock
from benchmarks.measuring.memory import added_cuda_bytes, peak_bytes
from benchmarks.place import CPU, Place


class Machine(ABC):
    """A place whose forms can be timed."""

    def __init__(self, place: Place, clock: Clock) -> None:
        self.place, self.clock = place, clock

    @abstractmethod
    def peak_bytes(self, work: str, set_name: str, row: str, forms: Sequence[Form]) -> dict[str, int | None]:
        """Bytes that one run of each form of a row adds at most, by the form's name; None where unknown."""


class Host(Machine):
    """The CPU."""

    def __init__(self, place: Place = CPU) -> None:
        super().__init__(place, HostClock())

    def peak_bytes(self, work: str, set_name: str, row: str, forms: Sequence[Form]) -> dict[str, int | None]:
        names = [form.name for form in forms]
        return peak_bytes(work, set_name, row, names, torch.get_num_threads(), self.place)


class Gpu(Machine):
    """The current CUDA device."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, cuda_clock())

    def peak_bytes(self, work: str, set_name: str, row: str, forms: Sequence[Form]) -> dict[str, int | None]:
        return {form.name: added_cuda_bytes(form) for form in forms}


def machine(place: Place) -> Machine:
    """The machine of a place.

    Raises:
        RuntimeError: the place is a GPU, and torch sees none.
    """
    if place.device == "cpu":
        return Host(place)
    if not gpu.available():
        raise RuntimeError(f"expected a CUDA device that torch {torch.__version__} can use, got none")
    return Gpu(place)
