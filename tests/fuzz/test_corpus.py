"""Cases worth keeping, replayed first: what failed once, and calls that small faults were found to need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzz.case import Case
from fuzz.check import check

CORPUS = json.loads((Path(__file__).parent / "corpus.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("entry", CORPUS, ids=[entry["why"].rstrip(".") for entry in CORPUS])
def test_as_the_reference(instruction_set: str, one_thread: None, entry: dict) -> None:
    assert check(Case.of_json(json.dumps({**entry["case"], "instruction_set": instruction_set})))
