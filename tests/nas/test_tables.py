from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

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
