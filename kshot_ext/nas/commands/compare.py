"""What ``kshot-ext compare`` does: two runs side by side, on the terminal and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kshot_ext.nas.charts import curves_chart
from kshot_ext.nas.commands.frame import CommandError, exit_status, tell, users_errors
from kshot_ext.nas.files import check_can_write, is_there, write_text
from kshot_ext.nas.findings import Curve, Figure
from kshot_ext.nas.messages import file_name, visible
from kshot_ext.nas.methods import allow_own_method
from kshot_ext.nas.reporting import page
from kshot_ext.nas.reporting.comparison import Comparison, compare_runs


def compare_command(first: Path, second: Path, out: Path | None = None, own_methods: Sequence[str] = ()) -> int:
    """Compare two runs; writes a page and prints tables.

    Args:
        first, second: run folders.
        out: HTML file to write, which must not exist; None for one of the runs' names in the working directory.
        own_methods: ``FILE.py:CLASS`` of runs whose method is one of the user's own; this runs the file.

    Returns:
        Exit status: 0 done, 2 an error that the user can mend, 130 interrupted.
    """

    def body(console: Console) -> None:
        with users_errors("jinja2"):
            for method in own_methods:
                allow_own_method(method)
            comparison = compare_runs(first, second)
        runs = (file_name(run.resolve().name) for run in (first, second))
        file = out or Path(f"compare-{'-'.join(runs)}.html")
        if is_there(file):
            raise CommandError(f"{file}: exists already; choose another --out")
        check_can_write(file.parent, (file.name,))
        write_text(file, _page(comparison))
        _print(console, "settings that differ", comparison.names, comparison.settings)
        _print(console, "results", comparison.names, comparison.results)
        tell(console, f"page: {file}")

    return exit_status(body, lambda: "nothing was written")


def _page(comparison: Comparison) -> str:
    first, second = comparison.names

    def table(values: Mapping[str, tuple[str, str]]) -> page.Table:
        return page.Table(("", first, second), [(name, *pair) for name, pair in values.items()])

    return page.render(
        "compare.html",
        title=f"{first} and {second}",
        lead="two runs side by side",
        settings=table(comparison.settings),
        results=table(comparison.results),
        figures=[_figure(curve, runs) for curve, runs in comparison.curves.items()],
    )


def _figure(curve: Curve, runs: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    return Figure(curve.heading, "", curves_chart(runs, "epoch or generation", curve.label, curve.least))


def _print(console: Console, title: str, names: tuple[str, str], values: Mapping[str, tuple[str, str]]) -> None:
    table = Table(title=title)
    table.add_column("")
    for name in names:
        table.add_column(Text(name), justify="right", overflow="fold")
    for name, pair in values.items():
        table.add_row(Text(visible(name)), *(Text(visible(text)) for text in pair))
    console.print(table)
