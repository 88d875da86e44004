"""CUDA's glue and kernels together, on the emulator: in a process of their own, where they replace the CPU's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GPU_TESTS = Path(__file__).resolve().parents[1] / "gpu"
HERE = Path(__file__).resolve().parent


# What only tensors on the CPU have, or names it; a generator draws there on purpose, to draw the same everywhere.
ONLY_ON_THE_CPU = re.compile(r"""(?<!Generator\()(["'])cpu\1|\.numpy\(|\.data_ptr\(|torch\.from_numpy""")


@pytest.mark.parametrize(
    "path", [*HERE.glob("operators/check_[!l]*.py"), *GPU_TESTS.glob("*.py")], ids=lambda p: p.name
)
def test_checks_that_a_gpu_runs_name_no_other_device(path: Path) -> None:
    lines = [line.strip() for line in path.read_text().splitlines() if ONLY_ON_THE_CPU.search(line)]
    assert lines == []


@pytest.mark.parametrize(
    "checks", ["check_operators.py", "check_chains.py", "check_calls.py", "check_slices.py", "check_launches.py"]
)
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
