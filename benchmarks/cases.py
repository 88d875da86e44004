"""Cases for pytest-benchmark: every form of a row that needs neither compiling nor an optional kernel."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.works import find_row
from benchmarks.works.row import Row


@dataclass(frozen=True)
class Case:
    """A form of a row."""

    row: Row
    form: str

    def __str__(self) -> str:
        return f"{self.row.name}-{self.form}"


def cases(work: str, layer_set: str, *rows: str) -> list[Case]:
    """A case for each form of each named row."""
    found = []
    for name in rows:
        row = find_row(work, layer_set, name)
        forms = row.contest().forms()
        found += [Case(row, form.name) for form in forms if not (form.compiled or form.optional)]
    return found
