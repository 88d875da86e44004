"""Each method's page against the code: every option with its default and where it comes from."""

from __future__ import annotations

import re
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import pytest

from kshot_ext.nas.methods import METHODS
from kshot_ext.nas.runs.gather_settings import gather_settings
from kshot_ext.nas.runs.settings import RunSettings

DOCS = Path(__file__).parents[3] / "docs"
ROW = re.compile(r"^\| (`.*?) \| (.*?) \| (.*) \|$", flags=re.MULTILINE)


def page_of(name):
    return (DOCS / "methods" / f"{name}.md").read_text()


def section(page, title):
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def options(name):
    """The table of options: by name what the page says of the default, and where it comes from."""
    told = {}
    for names, defaults, source in ROW.findall(section(page_of(name), "Options")):
        given = [option for option in re.findall(r"`([^`]+)`", names) if not option.startswith("--")]
        shown = defaults.split(", ") if "," in defaults else len(given) * [defaults]
        told |= {option: (default, source) for option, default in zip(given, shown, strict=True)}
    return told


def default_of(name, option):
    """Of an option of the method's table, or of a run's by its dotted name."""
    option = option.removeprefix("method.")
    if option in {field.name for field in fields(METHODS[name].Settings)}:
        return getattr(METHODS[name].Settings(), option)
    value = RunSettings()
    for part in option.split("."):
        value = getattr(value, part)
    return value


def says(text, value):
    """Whether a page's words are those of a default; of one that is not set, any but a number."""
    text = text.strip('`"')
    if value is None:
        return not re.match(r"[\d.]", text)
    if isinstance(value, bool):
        return text == str(value).lower()
    if isinstance(value, str):
        return text == value
    return float(Fraction(text.split()[0])) == pytest.approx(value)


@pytest.mark.parametrize("name", METHODS)
def test_a_page_has_every_option_with_its_default_and_its_source(name):
    told = options(name)
    own = {field.name for field in fields(METHODS[name].Settings)} - {"name"}
    assert own <= {option.removeprefix("method.") for option in told}
    for option, (default, source) in told.items():
        assert says(default, default_of(name, option)), f"{option}: {default_of(name, option)!r}, the page: {default}"
        assert source


@pytest.mark.parametrize("name", METHODS)
def test_a_page_has_what_every_page_has(name):
    page = page_of(name)
    assert page.startswith(f"# {name}\n")
    for title in ("The equation", "Options", "What was chosen, and deviations", "Measured"):
        assert section(page, title).strip(), title
    [authors] = re.findall(r"^\w+", METHODS[name].paper)
    assert authors in page
    assert f"(methods/{name}.md)" in (DOCS / "methods.md").read_text()


@pytest.mark.parametrize("name", METHODS)
def test_the_settings_files_of_a_page_are_settings_of_its_method(name, tmp_path):
    for number, table in enumerate(re.findall(r"```toml\n(.*?)```", page_of(name), flags=re.DOTALL)):
        (tmp_path / f"{number}.toml").write_text(table)
        settings = gather_settings(RunSettings(), tmp_path / f"{number}.toml", {})
        assert settings.method.name == name
        assert METHODS[name].refusal(settings.method, settings.training, 1, settings.codes) is None


def test_defaults_are_read_as_they_are_written():
    assert says("`loss`", "loss")
    assert says('`"loss"`', "loss")
    assert says("1/6 of the steps", 1 / 6)
    assert says("0.00001", 1e-5)
    assert says("true", True)
    assert says("half of all epochs", None)
    for wrong in (("0.02", 0.01), ("16", None), ("`loss`", "accuracy"), ("false", True), ("1/5 of the steps", 1 / 6)):
        assert not says(*wrong)
