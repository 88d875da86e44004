"""Settings printed as a commented file: it holds all of them, explains each, and reads back."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from kshot_ext.nas.methods import METHODS
from kshot_ext.nas.runs.gather_settings import gather_settings, merge_settings
from kshot_ext.nas.runs.settings import SETTINGS_BY_COMMAND
from kshot_ext.nas.settings_file import commented_toml, meanings
from kshot_ext.nas.tables import SettingsError, as_table, read_toml


def _is_table(value: Any) -> bool:
    return dataclasses.is_dataclass(value)


_KINDS = [
    *SETTINGS_BY_COMMAND.values(),
    *(method.Settings for method in METHODS.values()),
    *(type(table) for kind in SETTINGS_BY_COMMAND.values() for table in vars(kind()).values() if _is_table(table)),
]


@pytest.mark.parametrize("kind", dict.fromkeys(_KINDS), ids=lambda kind: kind.__name__)
def test_every_setting_has_a_meaning(kind: type) -> None:
    told = meanings(kind)
    assert list(told) == [field.name for field in dataclasses.fields(kind)]
    assert all(len(meaning) > 4 for meaning in told.values())


@pytest.mark.parametrize("command", SETTINGS_BY_COMMAND)
def test_the_file_of_the_defaults_reads_back_as_the_defaults(tmp_path: Path, command: str) -> None:
    defaults = SETTINGS_BY_COMMAND[command]()
    file = tmp_path / "settings.toml"
    file.write_text(commented_toml(defaults))
    assert read_toml(file) == as_table(defaults)
    assert gather_settings(defaults, file, {}) == gather_settings(defaults, None, {})


def test_the_file_holds_what_was_changed_and_what_can_be() -> None:
    settings = merge_settings(SETTINGS_BY_COMMAND["search"](), None, {"widths": "0.5,1", "method": "gold", "shots": 1})
    text = commented_toml(settings)
    assert 'widths = "0.5,1"' in text
    assert 'name = "gold"\n' in text
    assert re.search(r"^# [^\n]*\n# prunings = <a whole number>$", text, re.MULTILINE)  # and has a comment
    assert "None" not in text
    assert ":class:" not in text


def test_one_file_serves_both_commands(tmp_path: Path) -> None:
    file = tmp_path / "both.toml"
    file.write_text("shots = 2\nbudget = '40%'\narchitectures = 7\nprecision = 'bfloat16'\n[retrain]\nepochs = 3\n")
    search, rank = (gather_settings(kind(), file, {}) for kind in SETTINGS_BY_COMMAND.values())
    assert (search.shots, search.budget, search.retrain.epochs) == (2, "40%", 3)
    assert (rank.shots, rank.architectures) == (2, 7)
    assert search.training.precision == search.retrain.precision == rank.training.precision == "bfloat16"


@pytest.mark.parametrize(
    ("text", "command", "message"),
    [
        ("architectures = 1", "search", "architectures: expected 2 or more, got 1"),
        ("[search]\npopulation = 1", "rank", "search.population: expected at least 2, got 1"),
        ("bugdet = '40%'", "rank", "unknown setting bugdet; expected data, "),
        ("batch_size = 8\n[training]\nbatch_size = 9", "rank", "batch_size is short for training.batch_size"),
    ],
)
def test_the_other_commands_settings_are_checked(tmp_path: Path, text: str, command: str, message: str) -> None:
    file = tmp_path / "both.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=re.escape(message)):
        gather_settings(SETTINGS_BY_COMMAND[command](), file, {})
