from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kshot_ext.nas import tables
from kshot_ext.nas.tables import SettingsError, as_table, flatten, override, read_toml, to_toml


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    steps: int = 3

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate: expected 0 or more, got {self.rate}")


@dataclass(frozen=True)
class Outer:
    name: str | None = None
    wide: bool = False
    inner: Inner = field(default_factory=Inner)


def test_replaces_named_values_only() -> None:
    changed = override(Outer(), {"name": "x", "inner": {"rate": 2}}, "file")
    assert changed == Outer("x", False, Inner(2.0, 3))
    assert type(changed.inner.rate) is float


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nmae": 1}, "here: unknown setting nmae; expected name, wide, inner"),
        ({"inner": {"stesp": 1}}, r"here: unknown setting inner\.stesp; expected rate, steps"),
        ({"inner": 3}, "here: inner: expected a table, got 3"),
        ({"name": 3}, "here: name: expected text, got 3"),
        ({"wide": 1}, "here: wide: expected true or false, got 1"),
        ({"inner": {"steps": 1.5}}, r"here: inner\.steps: expected a whole number, got 1\.5"),
        ({"inner": {"steps": True}}, r"here: inner\.steps: expected a whole number, got True"),
        ({"inner": {"rate": "fast"}}, r"here: inner\.rate: expected a number, got 'fast'"),
        ({"inner": {"rate": -1.0}}, r"here: inner\.rate: expected 0 or more, got -1\.0"),
    ],
)
def test_rejects_illegal_names_and_values(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        override(Outer(), changes, "here")


@pytest.mark.parametrize("name", ["plain", 'quo"te', "back\\slash", "line\nbreak", "ünï😀", "\x7f\x01", None])
def test_toml_round_trip(tmp_path: Path, name: str | None) -> None:
    settings = Outer(name, True, Inner(1e-5, 7))
    path = tmp_path / "settings.toml"
    path.write_text(to_toml(as_table(settings)), encoding="utf-8")
    assert override(Outer(), read_toml(path), "file") == settings


def test_flatten_uses_dotted_names() -> None:
    assert flatten(as_table(Outer())) == {"wide": False, "inner.rate": 0.5, "inner.steps": 3}


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read \(No such file"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(SettingsError, match=r"bad\.toml: not a TOML file \(.*line 1"):
        read_toml(tmp_path / "bad.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"binary\.toml: not a TOML file"):
        read_toml(tmp_path / "binary.toml")


def test_the_order_of_tables_does_not_depend_on_the_hash_seed() -> None:
    """In processes of their own, without the package, which would bring torch."""
    script = (
        "import sys, types; package = types.ModuleType('kshot_ext'); package.__path__ = [sys.argv[1]]; "
        "sys.modules['kshot_ext'] = package; from kshot_ext.nas.tables import to_toml; "
        "print(to_toml({name: {'x': 1} for name in 'gamma alpha delta beta'.split()} | {'last': 2}))"
    )
    expected = "last = 2\n\n" + "\n\n".join(f"[{name}]\nx = 1" for name in ("gamma", "alpha", "delta", "beta"))
    for seed in ("0", "1", "2"):
        command = [sys.executable, "-c", script, str(Path(tables.__file__).parents[1])]
        printed = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True)
        assert printed.stdout.strip() == expected, printed.stderr


def test_settings_may_come_through_a_pipe_but_those_of_a_run_must_not(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match=r"pipe: cannot be read .*expected a file, got a pipe"):
        read_toml(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("a = 1"))
    writer.start()
    assert read_toml(tmp_path / "pipe", pipes=True) == {"a": 1}
    writer.join()
