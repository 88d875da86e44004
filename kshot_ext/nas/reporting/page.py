"""Pages from the templates of this package: one file each that needs nothing else, all text in it escaped."""

from __future__ import annotations

import base64
import functools
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kshot_ext.nas.extras import require

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Picture:
    """A figure as PNG with its heading and one line about it."""

    png: bytes
    heading: str
    caption: str

    @property
    def source(self) -> str:
        """The picture as an address that holds it."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Args:
        heads: of the columns.
        rows: of cells.
        texts: how many of the first columns are text; the others are numbers.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


def render(template: str, **values: Any) -> str:
    """Return the page that a template makes of values.

    Args:
        template: name of a file in ``templates/`` that extends ``base.html``.
        values: what it names. Text is escaped wherever it ends up; a name without a value is an error.
    """
    return _environment().get_template(template).render(values)


def environment() -> dict[str, str]:
    """Return what results and times may depend on."""
    return {
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "Python": platform.python_version(),
        "system": platform.platform(),
    }


@functools.cache
def _environment() -> Environment:
    jinja2 = require("jinja2")
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
