"""Writes `docs/settings.md`: every setting with its default and meaning, by the docstrings of the dataclasses.

    PYTHONPATH=. python docs/_tools/settings_page.py

A test compares the committed page with what this makes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from typer.main import get_command

from kshot_ext.cli import app
from kshot_ext.nas.methods import METHODS
from kshot_ext.nas.runs.settings import RankSettings, RunSettings, SupernetSettings
from kshot_ext.nas.settings_file import about, meanings
from kshot_ext.nas.tables import to_toml, type_names

PAGE = Path(__file__).resolve().parents[1] / "settings.md"

HEAD = """\
# Every setting

<!-- Written by docs/_tools/settings_page.py from the docstrings; edit those. -->

`kshot-ext search` and `kshot-ext rank` read settings from a TOML file (`--config FILE`). The command line wins over the
file, and the file over the defaults. One file may serve both commands: each takes what it has.

`kshot-ext search --print-config` prints such a file, with all that is below. Start from it:

```
kshot-ext search --print-config > settings.toml
kshot-ext search --config settings.toml
```

In a file the settings of the first three sections stand at its top. Those of the other sections stand below the
section's name in brackets. Where the default is "none", leaving the setting out means something of its own.

Some settings have a short name, which stands at the top of a file: `epochs` and `learning_rate` are those of
`[training]`, `retrain_epochs` and `retrain_seeds` those of `[retrain]`, `batch_size` and `precision` those of both.
"""
SHORT = {("training", "epochs"): "epochs", ("training", "learning_rate"): "learning_rate"}
SHORT |= {("training", name): name for name in ("batch_size", "precision")}
SHORT |= {("retrain", name): f"retrain_{name}" for name in ("epochs", "seeds")}
SHORT |= {("retrain", name): name for name in ("batch_size", "precision")}


def page() -> str:
    """The text of the page."""
    shared = {field.name for field in dataclasses.fields(SupernetSettings)}
    parts = [
        HEAD,
        "## Both commands\n",
        *table(SupernetSettings(), "", "search"),
        "\n## `kshot-ext search` only\n",
        *table(RunSettings(), "", "search", without=shared),
        "\n## `kshot-ext rank` only\n",
        *table(RankSettings(), "", "rank", without=shared),
    ]
    for name, value in tables(RunSettings()):
        if name != "method":
            parts += ["", *section(f"`[{name}]`", value, name)]
    parts.append(
        "\n## `[method]`\n\n`name` is the method; the other settings are its own. [Search methods](methods.md) "
        "explains them, and each method has a page."
    )
    for name, method in METHODS.items():
        own = list(table(method.Settings(), "method", "search", without={"name"}))
        summary = method.summary[0].upper() + method.summary[1:]
        parts += [f"\n### `{name}`\n", f"{summary}. See [its page](methods/{name}.md).\n"]
        parts += own if len(own) > 2 else ["It has no settings of its own."]
    return "\n".join(parts) + "\n"


def tables(settings: Any) -> Iterator[tuple[str, Any]]:
    """The fields that are tables of a file."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield field.name, value


def section(title: str, settings: Any, name: str) -> list[str]:
    """A table of a file, with what it is for."""
    only = "" if name in (field.name for field in dataclasses.fields(RankSettings)) else " For `kshot-ext search` only."
    return [f"## {title}\n", f"{about(type(settings))}{only}\n", *table(settings, name, "search")]


def table(settings: Any, place: str, command: str, without: set[str] = frozenset()) -> Iterator[str]:
    """Rows of a table: a setting, its default, its meaning, and its option if it has one."""
    told, hints = meanings(type(settings)), get_type_hints(type(settings))
    yield "| setting | default | meaning |"
    yield "| --- | --- | --- |"
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in without or dataclasses.is_dataclass(value):
            continue
        default = f"none ({type_names(hints[field.name])})" if value is None else f"`{shown(value)}`"
        option = option_of(place, field.name, command)
        names = f"`{field.name}`" + (f"<br>`{option}`" if option else "")
        meaning = told[field.name].replace("|", r"\|")
        yield f"| {names} | {default} | {meaning} |"


def shown(value: Any) -> str:
    """A value as a file has it."""
    return to_toml({"value": value}).partition("=")[2].strip()


def option_of(place: str, name: str, command: str) -> str | None:
    """The option of the command that sets a setting, if there is one."""
    name = SHORT.get((place, name), None if place else name)
    options = {parameter.name: parameter.opts[0] for parameter in get_command(app).commands[command].params}
    return options.get(name)


if __name__ == "__main__":
    PAGE.write_text(page())
