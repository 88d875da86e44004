"""Importing the package is cheap: it builds nothing and loads only torch."""

import os
import subprocess
import sys
from pathlib import Path

MEASURE = """
import sys
from time import perf_counter
begin = perf_counter()
import torch
middle = perf_counter()
before = set(sys.modules)
import kshot_ext
end = perf_counter()
print(middle - begin, end - middle, *{name.split(".")[0] for name in set(sys.modules) - before})
"""
RUNS = 3
HEAVY = {"PIL", "matplotlib", "ninja", "pymoo", "rich", "scipy", "sklearn", "tensorboard", "typer"}


def test_import_costs_little_more_than_torch(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    environment = {**os.environ, "KSHOT_EXT_CACHE": str(cache)}
    extra = []
    for _ in range(RUNS):
        command = [sys.executable, "-c", MEASURE]
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        _, seconds, *modules = output.split()
        extra.append(float(seconds))
        assert HEAVY.isdisjoint(modules)
    assert min(extra) < 0.2
    assert not cache.exists()
