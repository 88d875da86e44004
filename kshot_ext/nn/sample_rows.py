"""Where the samples of a batch are in a layer's input, so that each gets its own code.

Networks move their batch: windows and patches make many rows of one sample, and some transformers keep positions before
samples. What a layer's input says of that is a size, and sizes coincide. So a layer is told
(`kshot_ext.find_batch_axes`); one that was not takes a code per sample only where no other reading is possible.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

_HINT = "kshot_ext.find_batch_axes(model, *example) finds out for all layers where their samples are"


class TakesRows(Protocol):
    """A layer that rows are given to: all that this file asks of one."""

    @property
    def forward(self) -> Callable[..., Any]:
        """Of the input and the options of `SampleRows.call`."""

    def row_axes(self, input: Tensor) -> range:
        """The axes of an input that could count samples."""


@dataclass(frozen=True)
class SampleRows:
    """How the rows of a layer's input belong to samples.

    Args:
        axis: of the input, along which samples are told apart.
        together: where a sample has several rows (windows, patches), whether these follow each other; else all samples'
            first rows come first, then all second ones.
    """

    axis: int = 0
    together: bool = True

    def is_first(self, input: Tensor, code: Tensor) -> bool:
        """Whether row n of the input is sample n, as the operators want it."""
        return self.axis == 0 and input.shape[0] == code.shape[0]

    def spread(self, layer: TakesRows, input: Tensor, values: Tensor) -> Tensor:
        """Values `[N, ...]` of samples, such as codes, as those of all rows along the axis.

        Raises:
            ValueError: if the rows are no multiple of N.
        """
        if self.axis >= input.dim():
            raise ValueError(f"{type(layer).__name__}: expected samples on axis {self.axis}, got {list(input.shape)}")
        rows, samples = input.shape[self.axis], values.shape[0]
        each, rest = divmod(rows, samples)
        if rest or not each:
            raise ValueError(
                f"{type(layer).__name__}: a code per sample must have N = {rows} rows like axis {self.axis} of input, "
                f"or a divisor of that where samples have several rows, got {samples}"
            )
        if each == 1:
            return values
        return values.repeat_interleave(each, 0) if self.together else values.repeat(each, *(1,) * (values.dim() - 1))

    def call(self, layer: TakesRows, input: Tensor, code: Tensor | None, **options: Any) -> Tensor:
        """Run a layer on rows that are in the order of their samples' codes, and put the output's rows back."""
        assert code is not None, "rows are set with a code"
        own = self.spread(layer, input, code)
        if (gate := options.get("gate")) is not None and gate.dim() == 2:
            options["gate"] = self.spread(layer, input, gate)
        output: Tensor = layer.forward(input.movedim(self.axis, 0) if self.axis else input, code=own, **options)
        return output.movedim(0, self.axis) if self.axis else output


class UnknownRows(SampleRows):
    """Nobody has told: samples are taken to be on the layer's first axis where no other one could hold them as well."""

    def spread(self, layer: TakesRows, input: Tensor, values: Tensor) -> Tensor:
        samples, axes = values.shape[0], layer.row_axes(input)
        places = [axis for axis in axes if input.shape[axis] == samples]
        if places[:1] == [axes.start] and (len(places) == 1 or samples == 1):
            return values
        if places[:1] == [axes.start]:
            raise ValueError(
                f"{type(layer).__name__}: a code per sample needs to know which axis of input counts samples, as axes "
                f"{places} of {list(input.shape)} are of the code's size; {_HINT}"
            )
        rows = input.shape[axes.start] if input.dim() > axes.start else 0
        raise ValueError(
            f"{type(layer).__name__}: a code per sample must have N = {rows} rows like input, got {samples}; where "
            f"samples have several rows, or are on another axis: {_HINT}"
        )


class MixedRows(SampleRows):
    """No axis keeps samples apart, so no row has a code of its own."""

    why = "its input mixes samples"

    def is_first(self, input: Tensor, code: Tensor) -> bool:
        return False  # whatever its size

    def spread(self, layer: TakesRows, input: Tensor, values: Tensor) -> Tensor:
        raise ValueError(
            f"{type(layer).__name__}: a code per sample needs an input whose rows belong to one sample each, but "
            f"{self.why}, as kshot_ext.find_batch_axes found; give it one code [K]"
        )


class SharedRows(MixedRows):
    """The input is the same for all samples: a position, an entry of a table."""

    why = "its input is the same whatever the samples are"


def rows_that_changed(before: Tensor, after: Tensor, sample: int, samples: int, axes: range) -> SampleRows:
    """How rows belong to samples, by which of them changed when one sample did.

    Args:
        before, after: a layer's input.
        sample, samples: which one of how many changed.
        axes: that could count samples.
    """
    changed = before != after
    if not changed.any():
        return SharedRows()
    of_sample = torch.arange(samples, device=changed.device) == sample
    possible = []
    for axis in axes:
        rows = changed.movedim(axis, 0).reshape(changed.shape[axis], -1).any(dim=1)
        each, rest = divmod(len(rows), samples)
        if rest:
            continue
        orders = {SampleRows(axis): of_sample.repeat_interleave(each)}
        orders |= {} if each == 1 else {SampleRows(axis, together=False): of_sample.repeat(each)}
        possible += [place for place, own in orders.items() if not (rows & ~own).any()]  # padding need not change
    return possible[0] if len(possible) == 1 else MixedRows()
