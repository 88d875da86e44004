"""Every definition says its equation, its shapes and an example, and has the signature of the operator it defines."""

from __future__ import annotations

import inspect
import re

import pytest

from kshot_ext import functional, reference

FUNCTIONS = [name for name in reference.__all__ if inspect.isfunction(getattr(reference, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_definition_says_its_equation_every_argument_and_an_example(name: str) -> None:
    function = getattr(reference, name)
    text = inspect.getdoc(function)
    assert text, f"{name} has no docstring"
    assert re.search(r"^    \S.* = ", text, re.MULTILINE), f"{name} has no equation"
    entries = re.findall(
        r"^    (\w+(?:, \w+)*):", text.partition("Args:\n")[2].partition("\nReturns:")[0], re.MULTILINE
    )
    assert [one for entry in entries for one in entry.split(", ")] == list(inspect.signature(function).parameters)
    assert "\nExample:\n" in text


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name in functional.__all__])
def test_operator_and_definition_have_the_same_arguments(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (functional, reference))
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]
