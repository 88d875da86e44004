"""Mutation run: puts small faults into operators and search methods, and sees whether the narrow tests fail.

    python -m tests.mutants [--list] [--only NAME]... [--fresh] [--folder FOLDER]

Works on a copy of the repository, one mutant after the other. What was killed before is not run again, so a run that
was ended goes on where it was. The table of a whole run goes to tests/mutants/results.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kshot_ext._native import cache

from .catalogue import MUTANTS
from .mutant import ROOT
from .report import page
from .runner import Runner


def main() -> int:
    """Run what was asked for; 0 if every mutant is killed or known to be equivalent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="names and faults, without running any")
    parser.add_argument("--only", action="append", metavar="NAME", choices=[mutant.name for mutant in MUTANTS])
    parser.add_argument("--fresh", action="store_true", help="run those that were killed before, too")
    parser.add_argument("--no-control", action="store_true", help="do not first run the tests on the unchanged sources")
    parser.add_argument("--folder", type=Path, default=cache.default_folder() / "mutants", help="to work in")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if not options.only or mutant.name in options.only]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name:48} {mutant.file:40} {mutant.fault}")
        return 0
    runner = Runner(options.folder)
    if not options.no_control and (control := runner.control(chosen)).result != "survived":
        print(f"a test fails on the unchanged sources: {control.by}", file=sys.stderr)
        return 2
    outcomes = []
    for outcome in runner.run(chosen, options.fresh):
        outcomes.append(outcome)
        print(f"{outcome.result:10} {outcome.seconds:5.0f} s  {outcome.name:48} {outcome.by}", flush=True)
    if not options.only:
        (ROOT / "tests" / "mutants" / "results.md").write_text(page(MUTANTS, outcomes), encoding="utf-8")
    return 0 if all(outcome.result in ("killed", "equivalent") for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
