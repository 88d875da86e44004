"""Every mutant still fits the sources: a mutation run would otherwise silently lose it."""

import pytest
from mutants.catalogue import MUTANTS
from mutants.mutant import ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_applies(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert mutant.applied_to(text) != text
    assert all((ROOT / test.split("::")[0]).is_file() for test in mutant.tests if test.startswith("tests/"))


def test_names_are_unique_and_many() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 45


@pytest.mark.parametrize("old", ["absent", "twice"])
def test_a_mutant_that_does_not_fit_is_an_error(old: str) -> None:
    with pytest.raises(ValueError, match="expected its old text once in any file"):
        Mutant("any", "any file", old, "new", (), "").applied_to("twice twice")
