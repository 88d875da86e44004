"""What the site is built with: links that leave `docs/`, and docstrings in the form that griffe knows."""

from __future__ import annotations

import runpy
import sys
import types
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "docs" / "_tools"
LINKS = runpy.run_path(str(TOOLS / "outside_links.py"))


@pytest.fixture
def as_google(monkeypatch: pytest.MonkeyPatch):
    """The function of the extension, whose base class is needed by builds of the site only."""
    monkeypatch.setitem(sys.modules, "griffe", types.SimpleNamespace(Extension=object))
    return runpy.run_path(str(TOOLS / "docstrings.py"))["as_google"]


@pytest.mark.parametrize(
    ("page", "link", "file"),
    [
        ("ranking.md", "../benchmarks/ranking.toml", "benchmarks/ranking.toml"),
        ("methods/kshot.md", "../../README.md", "README.md"),
        ("methods/kshot.md", "../training.md", None),
    ],
)
def test_the_file_that_a_link_means(page: str, link: str, file: str | None) -> None:
    assert LINKS["file_of"](page, link) == file


def test_links_outside_go_to_the_repository_and_pictures_are_copied() -> None:
    page = (
        "[a](../../examples) [b](../../README.md#limits) [c](../training.md) "
        "![d](../../benchmarks/results/ranking.png) [e](../../none.py)"
    )
    text, missing = LINKS["rewritten"](page, "methods/kshot.md", "https://host/us/it/")
    assert text == (
        "[a](https://host/us/it/tree/main/examples) [b](https://host/us/it/blob/main/README.md#limits) "
        "[c](../training.md) ![d](../benchmarks/results/ranking.png) [e](https://host/us/it/blob/main/none.py)"
    )
    assert missing == ["none.py"]


def test_docstrings_become_googles(as_google) -> None:
    text = (
        "Sum of :class:`~torch.Tensor` and ``b``.\n\nArgs:\n    a, b: numbers\n        of any kind.\n    c: another.\n"
        "\nReturns:\n    x, y: sums.\n\nExample:\n    >>> 1\n    1"
    )
    assert as_google(text) == (
        "Sum of `torch.Tensor` and `b`.\n\nArgs:\n    a: numbers\n        of any kind.\n    b: numbers\n"
        "        of any kind.\n    c: another.\n\nReturns:\n    x, y: sums.\n\nExamples:\n    >>> 1\n    1"
    )
