"""Real processes, connected by gloo, train one supernet."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import data_parallel_worker as worker
import pytest
import torch
from torch import nn

from kshot_ext.distributed import synchronize_batch_norm
from kshot_ext.nas.data_parallel import DataParallel

WORKER = Path(worker.__file__)


def start(size: int, *arguments: str) -> list[subprocess.Popen]:
    """Processes with the environment that torchrun would give them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    return [
        subprocess.Popen(
            [sys.executable, str(WORKER), *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def outcomes(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit status and messages of each."""
    try:
        messages = [process.communicate(timeout=150)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, message) for process, message in zip(processes, messages)]


def assert_close(one: object, other: object, path: str = "") -> None:
    """Equal within 1e-5; what is not of floating point is equal to the bit."""
    if isinstance(other, dict):
        assert one.keys() == other.keys(), path
        for key in other:
            assert_close(one[key], other[key], f"{path}.{key}")
    elif isinstance(other, (list, tuple)):
        assert len(one) == len(other), path
        for index, value in enumerate(other):
            assert_close(one[index], value, f"{path}[{index}]")
    elif isinstance(other, (float, torch.Tensor)):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=lambda text: f"{path}: {text}")
    else:
        assert one == other, path


@pytest.fixture(scope="module")
def alone() -> dict[str, object]:
    trainer = worker.make_trainer(DataParallel())
    reports = [asdict(trainer.train_epoch()) for _ in range(worker.EPOCHS)]
    return {"state": trainer.state_dict(), "reports": reports}


def test_processes_get_what_one_process_gets_from_the_joined_batch(tmp_path: Path, alone: dict[str, object]) -> None:
    for code, message in outcomes(start(2, "train", str(tmp_path / "result.pt"))):
        assert code == 0, message
    together = torch.load(tmp_path / "result.pt")
    assert together["reports"][-1]["simplex_loss"] is not None
    assert_close(together, alone)


def test_a_step_sends_compact_gradients_and_gets_the_joined_batchs(tmp_path: Path) -> None:
    for code, message in outcomes(start(2, "one_step", str(tmp_path / "step.pt"))):
        assert code == 0, message
    step = torch.load(tmp_path / "step.pt")
    assert step["dense"] / step["shots"] <= step["sent"] <= 1.2 / step["shots"] * step["dense"]
    assert_close(step["together"], step["alone"])


def test_a_lost_process_ends_the_others_and_training_goes_on_from_the_last_state(
    tmp_path: Path, alone: dict[str, object]
) -> None:
    (leader, message), (lost, _) = outcomes(start(2, "lose_a_process", str(tmp_path / "state.pt")))
    assert lost == 9
    assert leader not in (0, 9)
    assert "LostProcessError: another process of this training has ended or did not answer in time" in message
    resumed = worker.make_trainer(DataParallel(), seed=7)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert resumed.epoch == 1
    for _ in range(worker.EPOCHS - 1):
        resumed.train_epoch()
    assert_close(resumed.state_dict(), alone["state"])


def test_a_process_alone_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with DataParallel.from_environment() as processes:
        assert processes.leads
        assert processes.size == 1
        assert processes.from_leader("text") == "text"


def test_parts_share_a_batch_out() -> None:
    images, labels = torch.arange(7.0).view(7, 1, 1, 1), torch.arange(7)
    processes, parts = DataParallel(), []
    processes.size = 3
    for processes.rank in range(3):
        parts.append(processes.part(images, labels))
    assert [len(part) for part, _, _ in parts] == [3, 2, 2]
    assert torch.equal(torch.cat([part for part, _, _ in parts]), images)
    assert torch.equal(torch.cat([part for _, part, _ in parts]), labels)
    assert sum(share for _, _, share in parts) == pytest.approx(1)
    with pytest.raises(ValueError, match="at least one image for each of 3 processes, got 2"):
        processes.part(images[:2], labels[:2])


def test_batch_norm_of_another_kind_is_refused() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="layer '0': expected a KShotBatchNorm2d, got a BatchNorm2d"):
        synchronize_batch_norm(model, object())


SETTINGS = """
shots = 2
channels = 4
max_images = 200
epochs = 2
retrain_epochs = 1
[training]
warmup_epochs = 0
batch_size = 31
[search]
population = 4
generations = 1
[retrain]
batch_size = 32
"""


def test_the_command_under_torchrun(tmp_path: Path) -> None:
    """Two processes, one run folder."""
    (tmp_path / "settings.toml").write_text(SETTINGS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "kshot_ext", "search", "--config", "settings.toml", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder:") == done.stdout.count("report:") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "settings.toml"]
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["stage"] == "supernet"] == [1, 2]
