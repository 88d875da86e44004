"""How good the rule of `algorithm="auto"` is, row by row and in both memory formats: `python -m benchmarks.choices`.

The forms of a row are timed in turn. What "auto" loses is the time of the form that it chose over that of the fastest.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.compare import SetName
from benchmarks.forms import LAYOUTS, Contest, Form
from benchmarks.measuring.check import available
from benchmarks.measuring.choice import chosen_algorithm
from benchmarks.measuring.clocks import HostClock
from benchmarks.measuring.timing import HOPELESS, interleave, ratio_of, repeats_for
from benchmarks.networks import layer_sets
from benchmarks.works import WORKS
from benchmarks.works.row import Row

CONVOLUTIONS = ("shared_code", "per_sample_code")
AFFORDABLE = 1.05  # of the fastest form's time


@dataclass(frozen=True)
class Choice:
    """What "auto" took for one row in one memory format.

    Args:
        seconds: median of each form, by its algorithm.
        loss: median ratio of the chosen form's time over the fastest form's.
    """

    row: Row
    layout: str
    chosen: str
    fastest: str
    seconds: dict[str, float]
    loss: float


def choice(row: Row, layout: str, pairs: int) -> Choice:
    """Time the forms that "auto" chooses between."""
    clock = HostClock()
    contest = row.contest()
    contest = available(Contest(contest.ours, {"algorithm": contest.rivals["algorithm"]}), compiled=False)
    auto = _in_layout(contest.ours, layout)["auto"]
    forms = _in_layout(contest.rivals["algorithm"], layout)
    chosen = chosen_algorithm(auto)
    if chosen not in forms:  # no algorithm by name: all copies applied to all samples
        forms[chosen] = auto
    first = {name: min(clock.seconds(form) for _ in range(2)) for name, form in forms.items()}
    shortest = min(first.values())
    forms = {name: form for name, form in forms.items() if first[name] < HOPELESS * shortest or name == chosen}
    samples = dict(zip(forms, interleave(list(forms.values()), pairs, repeats_for(shortest), clock)))
    seconds = {name: statistics.median(times) for name, times in samples.items()}
    fastest = min(seconds, key=seconds.__getitem__)
    return Choice(row, layout, chosen, fastest, seconds, ratio_of(samples[chosen], samples[fastest]).median)


def _in_layout(forms: list[Form], layout: str) -> dict[str, Form]:
    """Forms of that memory format by the name of their algorithm."""
    return {form.name.split()[0]: form for form in forms if form.layout == layout}


def choice_table(title: str, choices: list[Choice]) -> Table:
    """A line for each row and memory format."""
    table = Table("row", "geometry", "memory format", "auto takes", "fastest", "loss", "ms", title=title)
    for made in choices:
        loss = f"{made.loss - 1:.0%}"
        times = ", ".join(f"{name} {1e3 * seconds:.3g}" for name, seconds in made.seconds.items())
        head = (made.row.name, made.row.geometry, made.layout, made.chosen, made.fastest)
        table.add_row(*head, loss if made.loss <= AFFORDABLE else f"[red]{loss}[/]", times)
    return table


def main(
    work: Annotated[list[str] | None, typer.Option(help=f"Only these works: {', '.join(CONVOLUTIONS)}.")] = None,
    set_: Annotated[list[SetName] | None, typer.Option("--set", help="Only these layer sets.")] = None,
    row: Annotated[str, typer.Option(help="Only rows whose name or geometry has this in it.")] = "",
    pairs: Annotated[int, typer.Option(min=1, help="Interleaved rounds per row.")] = 7,
) -> None:
    """Print, for each row, the form that "auto" takes, the fastest one, and what the choice loses."""
    console = Console()
    for name in work or CONVOLUTIONS:
        if name not in CONVOLUTIONS:
            raise typer.BadParameter(f"work must be one of {', '.join(CONVOLUTIONS)}, got {name!r}")
        asked = [choice.value for choice in set_ or SetName]
        for set_name in (found for found in asked if set_ or found in WORKS[name].sets):
            rows = [
                found for found in WORKS[name].rows(layer_sets()[set_name]) if row in f"{found.name} {found.geometry}"
            ]
            choices = [choice(found, layout, pairs) for found in rows for layout in LAYOUTS]
            if not choices:
                continue
            console.print(choice_table(f"{name}, {set_name}", choices))
            lost = sum(made.loss > AFFORDABLE for made in choices)
            console.print(
                f"{lost} of {len(choices)} lose more than {AFFORDABLE - 1:.0%}; {torch.get_num_threads()} threads"
            )


if __name__ == "__main__":
    typer.run(main)
