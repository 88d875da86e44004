"""The examples in the docstrings of the whole package run."""

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

import kshot_ext


def modules() -> Iterator[ModuleType]:
    yield kshot_ext
    for found in pkgutil.walk_packages(kshot_ext.__path__, "kshot_ext."):
        yield importlib.import_module(found.name)


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for module in modules() for test in finder.find(module) if test.examples]


EXAMPLES = examples()


def test_every_public_operator_has_an_example() -> None:
    names = {example.name.rsplit(".", 1)[-1] for example in EXAMPLES}
    assert set(kshot_ext.functional.__all__) <= names


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example(example: doctest.DocTest, one_thread: None, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)  # an example that writes files writes them here
    example.globs.setdefault("torch", torch)
    report: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=report.append)
    assert results.failed == 0, "".join(report)
