"""A search killed by SIGKILL at random moments, each time resumed, ends with the bits of one that never was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SETTINGS = """
rivals = 1
retrain_seeds = 1
shots = 2
channels = 2
max_images = 120
epochs = 3
[method]
simplex_every = 1
paths_per_simplex_step = 1
[training]
warmup_epochs = 1
[search]
population = 2
generations = 2
[retrain]
epochs = 1
batch_size = 32
"""

# All runs are children of one process that has done no work of its own, so that the libraries are imported once. When
# they are killed is counted in lines of their log, not in seconds: the first run may take longer than the others.
ATTEMPTS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
import kshot_ext.nas.searchers.nsga2_generation, jinja2, sklearn.datasets, torch.utils.tensorboard
from kshot_ext.nas.commands.search import search_command

torch.set_num_threads(1)
folder, config, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
moments = random.Random(seed)

def begin(out):
    child = os.fork()
    if child == 0:
        options = {} if out.exists() else {"out": str(out)}
        status = search_command(options, None if out.exists() else config, out if out.exists() else None)
        os._exit(status)
    return child

def lines(run):
    path = folder / run / "metrics.jsonl"
    return path.read_bytes().count(b"\\n") if path.exists() else 0

assert os.waitpid(begin(folder / "whole"), 0)[1] == 0
supernet, later = range(1, 3), range(3, lines("whole") - 1)  # lines after which it is in training, or past it
for line in [moments.choice(supernet), *sorted(moments.sample(later, kills - 1))]:
    child, ended = begin(folder / "killed"), 0
    while lines("killed") < line and not ended:
        time.sleep(0.002)
        ended, _ = os.waitpid(child, os.WNOHANG)
    time.sleep(moments.uniform(0, 0.05))
    if not ended:
        os.kill(child, signal.SIGKILL)
        print("killed", os.waitpid(child, 0)[1] == signal.SIGKILL)
assert os.waitpid(begin(folder / "killed"), 0)[1] == 0
"""
KILLS = 2


def _files(folder: Path) -> dict[str, object]:
    """Everything that must be the same in both."""
    results = json.loads((folder / "results.json").read_text())
    del results["seconds"], results["run"]
    same = ("metrics.jsonl", "architecture.json", "settings.toml", "model.safetensors")
    return {"results": results, **{name: (folder / name).read_bytes() for name in same}}


def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(SETTINGS)
    command = [sys.executable, "-c", ATTEMPTS, str(tmp_path), str(tmp_path / "config.toml"), str(KILLS), "0"]
    attempts = subprocess.run(command, capture_output=True, text=True)
    assert attempts.returncode == 0, attempts.stderr
    assert attempts.stdout.count("killed True") >= 1
    assert _files(tmp_path / "killed") == _files(tmp_path / "whole")
    assert [path.name for path in tmp_path.rglob(".unfinished-*")] == []
