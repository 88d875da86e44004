"""The pages for users: settings and commands in them are legal."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from kshot_ext.cli import app
from kshot_ext.nas.runs.gather_settings import gather_settings
from kshot_ext.nas.runs.settings import RunSettings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = get_command(app)
COMMANDS = COMMAND.commands


def legal(words: list[str]) -> bool:
    """Whether the command exists and has all options; options alone are those of no command."""
    if not words or not (words[0].startswith("-") or words[0] in COMMANDS):
        return False
    command = COMMANDS.get(words[0], COMMAND)
    options = {name for parameter in command.params for name in parameter.opts}
    return all(word in options for word in words if word.startswith("--"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_with_their_options(page: Path) -> None:
    for text in re.findall(r"(?:kshot-ext|-m kshot_ext)((?: [^\s`&]+)*)", page.read_text()):
        words = shlex.split(text, comments=True)
        assert not words or legal(words), f"{page.name}: kshot-ext{text}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_are_legal(page: Path, tmp_path: Path) -> None:
    for settings in re.findall(r"```toml\n(.*?)```", page.read_text(), flags=re.DOTALL):
        (tmp_path / "page.toml").write_text(settings)
        gather_settings(RunSettings(), tmp_path / "page.toml", {})


def test_what_is_not_legal_is_seen() -> None:
    assert legal(["rank", "--truth", "TABLE"])
    assert not legal(["rank", "--widths", "0.5,1"])
    assert not legal(["train"])
    assert legal(["--version"])
    assert not legal(["--verison"])
