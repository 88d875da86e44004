"""One self-contained HTML page about a run."""

from __future__ import annotations

import base64
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch

from kshot_ext.nas.results import RunResult

_STYLE = """
:root { color-scheme: light; --ink: #24292f; --soft: #6b7280; --line: #e5e7eb; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 2rem auto; padding: 2.5rem 3rem; background: white; border-radius: 12px;
       box-shadow: 0 1px 4px rgb(0 0 0 / 12%); }
h1 { margin: 0; font-size: 1.7rem; }
h2 { margin: 2.4rem 0 .6rem;
     padding-bottom: .3rem; font-size: 1.15rem; border-bottom: 1px solid var(--line); }
p.lead { margin: .3rem 0 0; color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1rem;
         margin-top: 1.6rem; }
.tile { border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.6rem; color: var(--accent); font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .85rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid var(--line);
         font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; }
td.number, th.number { text-align: right; }
figure { margin: 1rem 0; text-align: center; }
figure img { max-width: 100%; max-height: 36rem; }
figcaption { color: var(--soft); font-size: .85rem; }
pre { background: #f6f7f9; padding: .8rem 1rem; border-radius: 8px; overflow-x: auto; }
details summary { cursor: pointer; color: var(--soft); }
@media (max-width: 40rem) { main { margin: 0; padding: 1.2rem; border-radius: 0; } }
"""

_LOADING = """import torch
# Plain torch.nn layers: this needs torch alone. architecture.json tells how images are normalised.
network = torch.load("model.pt", weights_only=False)"""


@dataclass(frozen=True)
class Picture:
    """A PNG file of the run folder with its heading and one line about it."""

    path: Path
    heading: str
    caption: str


def render_report(
    title: str,
    facts: Mapping[str, str],
    result: RunResult,
    pictures: Sequence[Picture],
    settings: Mapping[str, Any],
) -> str:
    """Return the page; all text is escaped, and pictures are part of it.

    Args:
        title: heading.
        facts: what was run, one row each.
        result: what was found.
        pictures: figures, in order.
        settings: settings by dotted name.
    """
    figures = "".join(f"<h2>{escape(picture.heading)}</h2>{_figure(picture)}" for picture in pictures)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body><main>
<h1>{escape(title)}</h1>
<p class="lead">{escape("; ".join(facts.values()))}</p>
{_tiles(result)}
<h2>Winner against random</h2>
{_comparison(result)}
{figures}
<h2>Use the network</h2>
<pre>{escape(_LOADING)}</pre>
<h2>Details</h2>
<details open><summary>What was run</summary>{_rows(facts)}</details>
<details><summary>Settings</summary>{_rows(settings)}</details>
<details><summary>Seconds by stage</summary>{_rows(_seconds(result))}</details>
<details><summary>Environment</summary>{_rows(_environment())}</details>
</main></body>
</html>
"""


def _tiles(result: RunResult) -> str:
    winner = result.winner
    tiles = {
        "test accuracy of the winner": f"{winner.test_accuracy:.2%}",
        "multiply-accumulates": f"{winner.macs / 1e6:,.2f} M",
        "parameters": f"{winner.parameters:,}",
        "seconds in all": f"{sum(result.seconds.values()):,.0f}",
    }
    cells = (f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in tiles.items())
    return f'<div class="tiles">{"".join(cells)}</div>'


def _comparison(result: RunResult) -> str:
    names = ("test accuracy", "validation accuracy in the supernet", "multiply-accumulates", "parameters")
    heads = "".join(f'<th class="number">{name}</th>' for name in names)
    rows = ""
    for network in result.networks:
        values = (
            f"{network.test_accuracy:.2%}",
            f"{network.supernet_accuracy:.2%}",
            f"{network.macs:,}",
            f"{network.parameters:,}",
        )
        cells = "".join(f'<td class="number">{value}</td>' for value in values)
        rows += f"<tr><td>{escape(network.title)}</td>{cells}</tr>"
    note = (
        "Both were trained from scratch in the same way and tested on images that no stage had seen. "
        f"The budget was {result.max_macs:,} multiply-accumulates for one image."
    )
    return f"<table><tr><th>network</th>{heads}</tr>{rows}</table><p class='lead'>{note}</p>"


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode()
    image = f'<img alt="{escape(picture.heading)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _rows(values: Mapping[str, Any]) -> str:
    rows = (f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in values.items())
    return f"<table>{''.join(rows)}</table>"


def _seconds(result: RunResult) -> dict[str, str]:
    return {stage: f"{seconds:,.1f}" for stage, seconds in result.seconds.items()}


def _environment() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "Python": platform.python_version(),
        "system": platform.platform(),
    }
