"""CUDA's glue and kernels together, on the emulator: in a process of their own, where they replace the CPU's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize("checks", ["check_operators.py", "check_calls.py"])
def test_operators_on_the_emulator(checks: str) -> None:
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "cuda_emulation.operators.plugin", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, str(HERE / "operators" / checks)],
        capture_output=True,
        text=True,
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout
