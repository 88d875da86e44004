"""Raw operators under arguments that are wrong in some place: an error or a result, never a dead process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

FUZZER = Path(__file__).with_name("raw_operator_fuzzer.py")
CASES = 1500


def test_wrong_operands_do_not_kill_the_process(native_backend: None) -> None:
    run = subprocess.run([sys.executable, str(FUZZER), "0", str(CASES)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, f"exit {run.returncode} in {run.stdout.splitlines()[-1:]}: {run.stderr[-2000:]}"
    outcomes = ast.literal_eval(run.stdout.splitlines()[-1])
    assert sum(outcomes.values()) == CASES
    # Good arguments are drawn as well, and most spoilt ones are refused.
    assert outcomes["returned"] > CASES / 4
    assert outcomes["RuntimeError"] > CASES / 4
