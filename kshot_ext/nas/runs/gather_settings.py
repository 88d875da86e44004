"""How settings are gathered: from a file, from options, under short names; and whether a run's are those asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from kshot_ext.nas.messages import visible
from kshot_ext.nas.methods import allow_own_method, default_settings
from kshot_ext.nas.own_classes import is_given, is_own, with_absolute_path
from kshot_ext.nas.runs.settings import SETTINGS_BY_COMMAND, AnySettings, SupernetSettings
from kshot_ext.nas.tables import SettingsError, as_table, flatten, override, read_toml
from kshot_ext.nas.task import allow_own_task

_SHORT_NAMES = {
    "epochs": (("training", "epochs"),),
    "retrain_epochs": (("retrain", "epochs"),),
    "retrain_seeds": (("retrain", "seeds"),),
    "batch_size": (("training", "batch_size"), ("retrain", "batch_size")),
    "learning_rate": (("training", "learning_rate"),),
    "precision": (("training", "precision"), ("retrain", "precision")),
}
"""What one may write instead, on the command line and in files; a short name may set what several stages have."""


_FORMER_PLACES = {"training": ("simplex_", "paths_per_simplex_step")}
"""Beginnings of names that a table had before they moved to ``[method]``."""


def gather_settings(
    base: AnySettings, file: Path | Mapping[str, Any] | None, options: Mapping[str, Any], origin: str = "command line"
) -> AnySettings:
    """Settings of a run: :func:`merge_settings`, and what a run's settings have besides.

    Paths are absolute, as a run may be resumed from another working directory. A length of warm-up that nobody set is
    filled in, so that they say what was used.

    Raises:
        SettingsError: as there; or if a text cannot be kept.
    """
    settings = merge_settings(base, file, options, origin)
    files = {name: getattr(settings, name, None) for name in ("data", "truth", "results", "warm_up")}
    absolute: dict[str, Any] = {
        name: str(Path(path).resolve()) for name, path in files.items() if path is not None and not is_given(path)
    }
    training = replace(settings.training, warmup_epochs=settings.training.warm_up)
    own: dict[str, Any] = {name: with_absolute_path(getattr(settings, name)) for name in ("space", "task")}
    settings = replace(settings, **absolute, **own, training=training)
    for name, value in flatten(as_table(replace(settings, out=None))).items():
        if isinstance(value, str) and value != value.encode("utf-8", "ignore").decode():
            raise SettingsError(
                f"{name}: expected text that settings.toml can keep, which is UTF-8, got {visible(value)}; "
                "rename the file, or give a link to it"
            )
    return settings


def merge_settings(
    base: AnySettings, file: Path | Mapping[str, Any] | None, options: Mapping[str, Any], origin: str = "command line"
) -> AnySettings:
    """Merge settings: options win over the file, the file over the base. For short names see :func:`with_table`.

    A file may be for all commands: what only another command has is checked, and left out.

    Args:
        base: what holds where neither says anything.
        file: a TOML file, or its content; or None.
        options: settings by name; those that are None are not given.
        origin: where the options come from, for messages.

    A space, a task or a method of one's own is code, which only the options may ask to run: files of settings come from
    anywhere.

    Raises:
        SettingsError: if the file cannot be read, a name or value is illegal, or the space, the task or the method of
            the file or of the base is one of one's own that the options do not name.
    """
    asked = method_asked_for(options)
    allow_own_method(asked)
    settings = base
    if file is not None:
        table = dict(file) if isinstance(file, Mapping) else read_toml(file, pipes=True)
        place = "settings" if isinstance(file, Mapping) else str(file)
        own_options = table.get("method")
        if asked is not None and isinstance(own_options, Mapping):
            table["method"] = {"name": asked, **own_options}  # those of a table that names none are the asked method's
        settings = with_table(settings, _of_this_command(settings, table, place), place)
    given = {name: value for name, value in options.items() if value is not None}
    settings = with_table(settings, given, origin)
    allow_own_task(given.get("task"))
    for name in ("space", "task"):
        value = getattr(settings, name)
        if is_own(value) and given.get(name) is None:
            raise SettingsError(
                f"{name}: expected --{name} {value} on the command line: it runs that file, "
                f"which settings read from a file must not do by themselves (of nas.search: {name}=...)"
            )
    return settings


def with_table(settings: AnySettings, table: Mapping[str, Any], origin: str) -> AnySettings:
    """Settings with those of a table put in.

    ``epochs`` and ``learning_rate`` are short for those of ``training``, ``retrain_epochs`` and ``retrain_seeds`` for
    those of ``retrain``, ``batch_size`` and ``precision`` for those of both, ``method`` for ``method.name``. A method
    named anew comes with its own defaults.

    Args:
        settings: what holds where the table says nothing.
        table: of a file, or of options.
        origin: where it comes from, for messages.

    Raises:
        SettingsError: if a name or a value is illegal.
    """
    changes = _in_their_places(_without_short_names(settings, table, origin), origin)
    method = changes.get("method")
    if isinstance(method, Mapping) and isinstance(method.get("name"), str):
        name = with_absolute_path(method["name"])  # a run may be resumed from another working directory
        changes["method"] = {**method, "name": name}
        try:
            if name != settings.method.name:
                settings = replace(settings, method=default_settings(name))
        except ValueError as error:
            raise SettingsError(f"{origin}: {error}") from error
    return override(settings, changes, origin)


def method_asked_for(options: Mapping[str, Any]) -> str | None:
    """The name of the method that options ask for, as text or in a table; None if they name none."""
    method = options.get("method")
    return method.get("name") if isinstance(method, Mapping) else method


def check_same(saved: SupernetSettings, asked: SupernetSettings, place: str) -> None:
    """Raise `SettingsError` listing every difference between a run's settings and those asked for now."""
    before, after = flatten(as_table(saved)), flatten(as_table(asked))
    differences = [
        f"{name} is {before.get(name)!r} in the run, {after.get(name)!r} asked"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    if differences:
        raise SettingsError(f"{place}: a run is resumed with its own settings, but {'; '.join(differences)}")


def _of_this_command(settings: SupernetSettings, table: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The table without what another command has, and this one has not; that is checked by itself."""
    own = {name: value for name, value in table.items() if name in _names(settings)}
    left = {name: value for name, value in table.items() if name not in own}
    for kind in SETTINGS_BY_COMMAND.values():
        others = {name: left.pop(name) for name in _names(kind) if name in left}
        if others:
            with_table(kind(), others, origin)
    return {**own, **left}


def _names(settings: SupernetSettings | type[SupernetSettings]) -> list[str]:
    """All names that a table of these settings may have."""
    names = [field.name for field in fields(settings)]
    return names + [short for short, places in _SHORT_NAMES.items() if any(place[0] in names for place in places)]


def _without_short_names(settings: SupernetSettings, changes: Mapping[str, Any], origin: str) -> dict[str, Any]:
    expanded = dict(changes)
    if isinstance(expanded.get("method"), str):
        expanded["method"] = {"name": expanded["method"]}
    for short_name, places in _SHORT_NAMES.items():
        if short_name not in expanded:
            continue
        value = expanded.pop(short_name)
        for table, name in places:
            if not hasattr(settings, table):
                continue
            inner = expanded.get(table, {})
            if not isinstance(inner, Mapping) or name in inner:
                raise SettingsError(f"{origin}: {short_name} is short for {table}.{name}; expected one of them")
            expanded[table] = {**inner, name: value}
    return expanded


def _in_their_places(changes: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Settings of the method that a file has where they were before there were methods."""
    moved = dict(changes)
    for table, beginnings in _FORMER_PLACES.items():
        inner: Any = moved.get(table)
        former = {n: v for n, v in inner.items() if n.startswith(beginnings)} if isinstance(inner, Mapping) else {}
        if not former:
            continue
        method = moved.get("method", {})
        twice = former.keys() & method.keys() if isinstance(method, Mapping) else former.keys()
        if twice:
            raise SettingsError(
                f"{origin}: {', '.join(sorted(twice))}: expected in [method] only, got in [{table}] too"
            )
        moved[table] = {name: value for name, value in inner.items() if name not in former}
        moved["method"] = {**method, **former}
    return moved
