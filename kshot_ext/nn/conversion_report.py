"""What of a model is K-shot, and what is not, and why: as data, and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from kshot_ext.nn.code import KShotModule
from kshot_ext.nn.obstacles import sort_layers
from kshot_ext.nn.routed_conv import RoutedConv2d

_THE_MODEL = "(the model itself)"


@dataclass(frozen=True)
class ConversionReport:
    """What of a model is K-shot, and what is not, and why. Its string is a table.

    Attributes:
        swapped: names of the K-shot layers, and of the plain kind that each stands for.
        left: names of the other modules with parameters or buffers of their own, and the reason of each.
        parameters: names of both, and how many parameters each holds itself: of one copy, if it is K-shot. Those that
            several modules share are counted for the first.
    """

    swapped: Mapping[str, str]
    left: Mapping[str, str]
    parameters: Mapping[str, int]

    def __str__(self) -> str:
        lines = [self._heading("K-shot layers", self.swapped, " of one copy")]
        lines += _table((name or _THE_MODEL, kind, str(self.parameters[name])) for name, kind in self.swapped.items())
        lines += [self._heading("left as they are", self.left, "")]
        lines += _table((name or _THE_MODEL, str(self.parameters[name]), why) for name, why in self.left.items())
        return "\n".join(lines)

    def _heading(self, title: str, layers: Mapping[str, str], whose: str) -> str:
        held, total = sum(self.parameters[name] for name in layers), sum(self.parameters.values())
        share = f" ({held / total:.1%})" if total else ""
        return f"{title}: {len(layers)}, with {held} parameters{whose}{share}"


def report_on(model: nn.Module, by_choice: Mapping[nn.Module, str]) -> ConversionReport:
    """The report on a model as it is now, of whose plain layers some are left by choice, each for a reason."""
    able, left = sort_layers(model, by_choice)
    left = {**left, **dict.fromkeys(able, "it is plain, and convert would swap it")}
    layers = dict(model.named_modules())
    copies = {name: _copies(layer) for name, layer in layers.items() if isinstance(layer, KShotModule | RoutedConv2d)}
    swapped = {name: (layers[name].plain or type(layers[name])).__name__ for name in copies}
    counted: set[nn.Parameter] = set()
    parameters = {}
    for name, layer in layers.items():
        if name in swapped or name in left:
            own = [each for each in layer._parameters.values() if each is not None and each not in counted]
            counted.update(own)
            parameters[name] = sum(each.numel() for each in own) // copies.get(name, 1)
    return ConversionReport(swapped, {name: left[name] for name in layers if name in left}, parameters)


def _copies(layer: KShotModule | RoutedConv2d) -> int:
    return layer.num_shots if isinstance(layer, KShotModule) else layer.num_experts


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of aligned columns, numbers to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  " + "  ".join(c.rjust(w) if c.isdigit() else c.ljust(w) for c, w in zip(row, widths)).rstrip()
        for row in rows
    ]
