"""Pages from the templates of this package: one file each that needs nothing else, all text in it escaped."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kshot_ext.nas.extras import require
from kshot_ext.nas.messages import visible
from kshot_ext.nas.reporting.axes import Drawn
from kshot_ext.nas.strict_json import strict_json

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Args:
        heads: of the columns.
        rows: of cells.
        texts: how many of the first columns are text; the others are numbers.
        keys: of the architectures that rows stand for; empty if they stand for none.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1
    keys: Sequence[str] = ()


def render(template: str, **values: Any) -> str:
    """Return the page that a template makes of values.

    Args:
        template: name of a file in ``templates/`` that extends ``base.html``.
        values: what it names. Text is escaped wherever it ends up; a name without a value is an error.
    """
    return _environment().get_template(template).render(values)


def rehearse() -> None:
    """Read all templates, so that what keeps pages from being made shows before there is much to lose."""
    for name in _environment().list_templates(extensions=["html"]):
        _environment().get_template(name)


@functools.cache
def _environment() -> Environment:
    jinja2 = require("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, program = ((_TEMPLATES / name).read_text(encoding="utf-8").strip() for name in ("style.css", "page.js"))
    environment.policies["json.dumps_function"] = strict_json
    environment.policies["json.dumps_kwargs"] = {}
    environment.globals |= {
        "style": require("markupsafe").Markup(style),
        "program": require("markupsafe").Markup(program),
        "policy": f"default-src 'none'; style-src {_allowed(style)}; script-src {_allowed(program)}; "
        "base-uri 'none'; form-action 'none'",
        "draw": Drawn,
    }
    return environment


def _shown(value: Any) -> Any:
    """Names may hold any bytes and control characters; what is markup already is made of shown text."""
    return visible(value) if type(value) is str else value


def _allowed(text: str) -> str:
    """How a policy names the one style, or program, that a page may have: whatever else gets into it is not run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
