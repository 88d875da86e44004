"""CUDA's glue and kernels together, on the emulator: in a process of their own, where they replace the CPU's."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def test_operators_on_the_emulator() -> None:
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "cuda_emulation.operators.plugin", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, str(HERE / "operators" / "check_operators.py")],
        capture_output=True,
        text=True,
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout
