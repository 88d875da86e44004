"""How cost grows with K, batch and width, ours and PyTorch's best: `python -m benchmarks.growth`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.compare import RESULTS
from benchmarks.forms import Contest
from benchmarks.layers import ConvLayer
from benchmarks.measuring.check import available
from benchmarks.measuring.environment import environment
from benchmarks.measuring.machine import Host
from benchmarks.measuring.timing import interleave, repeats_for, screen
from benchmarks.reporting.plot import save_figure
from benchmarks.reporting.results import write_json
from benchmarks.works.per_sample_code import per_sample_code_contest
from benchmarks.works.shared_code import shared_code_contest
from benchmarks.works.widths import width_contest

LAYERS = (
    ConvLayer("dense", 64, 192, 1, 16),
    ConvLayer("depthwise", 192, 192, 5, 16, groups=192),
)
NUM_SHOTS, BATCH = 8, 32
SHOTS = (1, 2, 4, 8, 16)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
FRACTIONS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)

Curve = dict[str, list[float]]


def curve(values: Iterable[float], contest_at: Callable[[float], Contest], pairs: int) -> Curve:
    """Median milliseconds of ours and of the first rival's best form, at each value."""
    ours, rival = [], []
    clock = Host().clock
    for value in values:
        contest = available(contest_at(value), compiled=False)
        best = [screen(forms, clock)[0] for forms in (contest.ours, next(iter(contest.rivals.values())))]
        repeats = repeats_for(min(duration for _, duration in best))
        samples = interleave([form for form, _ in best], pairs, repeats, clock)
        for times, median in zip((ours, rival), (sorted(times)[pairs // 2] for times in samples)):
            times.append(1e3 * median)
    return {"value": list(values), "ours": ours, "pytorch": rival}


def curves(layer: ConvLayer, pairs: int) -> dict[str, Curve]:
    """All curves of a layer, by title."""

    def shared(num_shots: int, batch: int) -> Contest:
        return shared_code_contest(layer, batch, (num_shots,))

    def per_sample(num_shots: int, batch: int) -> Contest:
        return per_sample_code_contest(layer, batch, (batch, num_shots))

    found = {}
    for name, contest in (("shared code", shared), ("code per sample", per_sample)):
        found[f"{name}, K"] = curve(SHOTS, lambda k, make=contest: make(k, BATCH), pairs)
        found[f"{name}, batch"] = curve(BATCHES, lambda n, make=contest: make(NUM_SHOTS, n), pairs)
    found["one weight, width fraction"] = curve(
        FRACTIONS, lambda fraction: width_contest(layer, layer.at_width(fraction), BATCH), pairs
    )
    return found


def plot_curves(by_layer: dict[str, dict[str, Curve]], path: Path) -> None:
    """A line of panels per layer."""
    columns = max(len(found) for found in by_layer.values())
    figure = Figure(figsize=(4 * columns, 3.5 * len(by_layer)), layout="constrained")
    panels = figure.subplots(len(by_layer), columns, squeeze=False)
    for line, (layer, found) in zip(panels, by_layer.items()):
        for axes, (title, points) in zip(line, found.items()):
            for label in ("ours", "pytorch"):
                axes.plot(points["value"], points[label], marker=".", label=label)
            axes.set_title(f"{layer}: {title}", fontsize=9)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_ylabel("forward + backward, ms")
            axes.legend()
    save_figure(figure, path)


def main(
    pairs: Annotated[int, typer.Option(min=1, help="Interleaved pairs per point.")] = 15,
    out: Annotated[Path, typer.Option(help="Folder for growth.json and growth.png.")] = RESULTS,
) -> None:
    """Measure and plot cost against K = 1..16, batch 1..128 and width fraction 1/8..1."""
    by_layer = {f"{layer.name} {layer.geometry}": curves(layer, pairs) for layer in LAYERS}
    write_json(out / "growth.json", {"environment": environment(Host().place), "milliseconds": by_layer})
    plot_curves(by_layer, out / "growth.png")
    Console().print(f"wrote {out / 'growth.json'} and {out / 'growth.png'}")


if __name__ == "__main__":
    typer.run(main)
