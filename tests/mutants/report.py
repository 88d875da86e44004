"""The outcomes of a mutation run as a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .mutant import Mutant
from .runner import Outcome

_HEAD = """\
# Mutation run

Small faults put into operators and search methods on purpose, and the narrow tests that fail.
`python -m tests.mutants`, from the root of the repository, repeats it and writes this page.
"""


def page(mutants: Sequence[Mutant], outcomes: Sequence[Outcome]) -> str:
    """Counts, survivors first, then the table."""
    faults = {mutant.name: mutant for mutant in mutants}
    counts = Counter(outcome.result for outcome in outcomes)
    tally = ", ".join(f"{counts[result]} {result}" for result in ("killed", "equivalent", "survived", "broken"))
    lines = [_HEAD, f"{len(outcomes)} mutants: {tally}.", ""]
    for outcome in outcomes:
        if outcome.result != "killed":
            lines.append(f"* `{outcome.name}`, {outcome.result}: {faults[outcome.name].equivalent or outcome.by}")
    lines += ["", "| mutant | file | fault | outcome | by |", "| --- | --- | --- | --- | --- |"]
    for outcome in outcomes:
        mutant = faults[outcome.name]
        by = outcome.by.replace("|", "\\|") if outcome.result == "killed" else ""
        lines.append(f"| {mutant.name} | `{mutant.file}` | {mutant.fault} | {outcome.result} | {by and f'`{by}`'} |")
    return "\n".join([*lines, ""])
