"""The files that the repository's page reads: the citation, the workflow, the templates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kshot_ext
from kshot_ext.nas.tables import read_toml

ROOT = Path(__file__).parents[2]
PROJECT = read_toml(ROOT / "pyproject.toml")["project"]
CITATION = (ROOT / "CITATION.cff").read_text()


def test_the_citation_is_of_this_version_and_its_addresses_are_the_projects() -> None:
    assert re.search(r"^version: (.*)$", CITATION, re.MULTILINE)[1] == PROJECT["version"]
    assert kshot_ext.__version__ == PROJECT["version"]
    newest, date = re.search(r"^## (\S+), (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).groups()
    assert newest == PROJECT["version"]
    released = re.search(r"^date-released: (.*)$", CITATION, re.MULTILINE)
    assert date == (released[1] if released else "unreleased")
    assert re.search(r"^license: (.*)$", CITATION, re.MULTILINE)[1] == PROJECT["license"]
    assert re.search(r"^repository-code: (.*)$", CITATION, re.MULTILINE)[1] == PROJECT["urls"]["Homepage"]
    site = (ROOT / "mkdocs.yml").read_text()
    assert f"repo_url: {PROJECT['urls']['Homepage']}\n" in site
    assert f"site_url: {PROJECT['urls']['Documentation']}\n" in site


def test_the_workflow_runs_what_contributors_run() -> None:
    assert "- run: .ci/run\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_commands_that_templates_ask_for_exist(path: Path) -> None:
    from typer.main import get_command

    from kshot_ext.cli import app

    command = get_command(app)
    options = {name for parameter in command.params for name in parameter.opts}
    for word in re.findall(r"`kshot-ext (\S+?)`", path.read_text()):
        assert word in command.commands or word in options, f"{path.name}: kshot-ext {word}"
