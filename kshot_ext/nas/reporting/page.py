"""Parts of self-contained HTML pages: everything that comes from outside is escaped here."""

from __future__ import annotations

import base64
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch

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
.warning { margin: 1.6rem 0 0; padding: .8rem 1rem; border-left: 5px solid #d55e00; border-radius: 6px;
           background: #fdf1e8; }
figure { margin: 1rem 0; text-align: center; }
figure img { max-width: 100%; max-height: 36rem; }
figcaption { color: var(--soft); font-size: .85rem; }
pre { background: #f6f7f9; padding: .8rem 1rem; border-radius: 8px; overflow-x: auto; }
details summary { cursor: pointer; color: var(--soft); }
@media (max-width: 40rem) { main { margin: 0; padding: 1.2rem; border-radius: 0; } }
"""

_NUMBER = ' class="number"'


@dataclass(frozen=True)
class Picture:
    """A figure as PNG with its heading and one line about it."""

    png: bytes
    heading: str
    caption: str


def render_page(title: str, lead: str, body: Iterable[str]) -> str:
    """Return a whole page.

    Args:
        title: heading; escaped here, as ``lead`` is.
        lead: line below it.
        body: parts made by the functions of this module.
    """
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
<p class="lead">{escape(lead)}</p>
{"".join(f"{part}{chr(10)}" for part in body)}</main></body>
</html>
"""


def heading(text: str) -> str:
    """Return the heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def note(text: str) -> str:
    """Return a soft line of text."""
    return f'<p class="lead">{escape(text)}</p>'


def warning(text: str) -> str:
    """Return text that nobody overlooks."""
    return f'<p class="warning" role="alert">{escape(text)}</p>'


def code(text: str) -> str:
    """Return a block of code."""
    return f"<pre>{escape(text)}</pre>"


def tiles(values: Mapping[str, str]) -> str:
    """Return large numbers with a name below each."""
    cells = (f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for k, v in values.items())
    return f'<div class="tiles">{"".join(cells)}</div>'


def figures(pictures: Iterable[Picture]) -> str:
    """Return pictures under their headings."""
    return "".join(f"{heading(picture.heading)}{_figure(picture)}" for picture in pictures)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Return a table whose first ``texts`` columns are text, and the others numbers."""
    return f"<table>{_row('th', heads, texts)}{''.join(_row('td', row, texts) for row in rows)}</table>"


def facts(values: Mapping[str, Any]) -> str:
    """Return a table of names and values."""
    rows = (f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in values.items())
    return f"<table>{''.join(rows)}</table>"


def details(summary: str, content: str, *, is_open: bool = False) -> str:
    """Return content that a click shows."""
    return f"<details{' open' if is_open else ''}><summary>{escape(summary)}</summary>{content}</details>"


def environment() -> dict[str, str]:
    """Return what results and times may depend on."""
    return {
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "Python": platform.python_version(),
        "system": platform.platform(),
    }


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    image = f'<img alt="{escape(picture.heading)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _row(tag: str, cells: Sequence[str], texts: int) -> str:
    parts = (f"<{tag}{'' if i < texts else _NUMBER}>{escape(str(cell))}</{tag}>" for i, cell in enumerate(cells))
    return f"<tr>{''.join(parts)}</tr>"
