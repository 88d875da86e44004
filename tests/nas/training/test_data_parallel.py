"""Real processes, connected by gloo, train one supernet."""

from __future__ import annotations

import copy
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import data_parallel_worker as worker
import pytest
import torch
from torch import nn

from kshot_ext.distributed import synchronize_batch_norm
from kshot_ext.nas.commands.frame import EXIT_ERROR
from kshot_ext.nas.commands.search import search_command
from kshot_ext.nas.methods import METHODS
from kshot_ext.nas.training.data_parallel import DataParallel

WORKER = Path(worker.__file__)


WORKS = 6
SETTINGS = """
rivals = 1
retrain_seeds = 1
shots = 2
channels = 2
max_images = 120
epochs = 2
[training]
warmup_epochs = 0
batch_size = 31
[search]
population = 2
generations = 1
[retrain]
epochs = 1
batch_size = 32
"""


class Ended(NamedTuple):
    """How a process ended, and what it printed."""

    status: int
    output: str
    errors: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes leave their results."""
    path = tmp_path_factory.mktemp("together")
    (path / "settings.toml").write_text(SETTINGS)
    return path


@pytest.fixture(scope="module")
def ended(folder: Path) -> list[Ended]:
    """Two processes, with the environment that torchrun would give them, have done all works; the last one is lost."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(WORKS)]
    ports = [str(free.getsockname()[1]) for free in sockets]
    for free in sockets:
        free.close()
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), *ports],
            env=os.environ | {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        printed = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Ended(process.returncode, *texts) for process, texts in zip(processes, printed)]


def assert_close(one: object, other: object, path: str = "", tolerance: float = 1e-5) -> None:
    """Equal within the tolerance; what is not of floating point is equal to the bit."""
    if isinstance(other, dict):
        assert one.keys() == other.keys(), path
        for key in other:
            assert_close(one[key], other[key], f"{path}.{key}", tolerance)
    elif isinstance(other, (list, tuple)):
        assert len(one) == len(other), path
        for index, value in enumerate(other):
            assert_close(one[index], value, f"{path}[{index}]", tolerance)
    elif isinstance(other, (float, torch.Tensor)):
        within = {"rtol": tolerance, "atol": tolerance}
        torch.testing.assert_close(one, other, **within, msg=lambda text: f"{path}: {text}")
    else:
        assert one == other, path


@pytest.fixture(scope="module")
def alone() -> dict[str, object]:
    """State and reports after all epochs but the last, and the last state."""
    trainer = worker.make_trainer(DataParallel())
    reports = [asdict(trainer.train_epoch()) for _ in range(worker.EPOCHS - 1)]
    before = {"state": copy.deepcopy(trainer.state_dict()), "reports": reports}
    trainer.train_epoch()
    return {"before": before, "state": trainer.state_dict()}


def result(folder: Path, name: str, ended: list[Ended]) -> Any:
    """What the leader saved."""
    assert (folder / name).exists(), "\n".join(process.errors for process in ended)
    return torch.load(folder / name)


def test_a_step_sends_compact_gradients_and_gets_the_joined_batchs(folder: Path, ended: list[Ended]) -> None:
    step = result(folder, "step.pt", ended)
    assert step["dense"] / step["shots"] <= step["sent"] <= 1.2 / step["shots"] * step["dense"]
    assert_close(step["together"], step["alone"])


def test_processes_get_what_one_process_gets_from_the_joined_batch(
    folder: Path, ended: list[Ended], alone: dict[str, object]
) -> None:
    together = result(folder, "trained.pt", ended)
    assert "simplex_loss" in together["reports"][-1]["numbers"]
    assert_close(together, alone["before"])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_as_one_process_does(folder: Path, ended: list[Ended], name: str) -> None:
    """To the same bits in both, as they choose by them. One process adds up in another order, of which four steps on
    noise make up to 1e-10."""
    leader, other = (result(folder, f"{name}-{rank}.pt", ended) for rank in range(2))
    assert_close(leader, other, name, tolerance=0.0)
    assert_close(leader, worker.method_trained(name, DataParallel()), name, tolerance=1e-9)


def test_every_objective_gets_the_joined_batchs_gradient(folder: Path, ended: list[Ended]) -> None:
    together, alone = result(folder, "simplex.pt", ended), worker.simplex_gradients(DataParallel())
    assert alone["balance"][1] == [None] * len(alone["balance"][1])
    for name, (losses, gradients) in alone.items():
        assert name == "balance" or max(float(g.abs().max()) for g in gradients) > 1e-3, name
        assert_close(together[name][0], losses, name)
        if name != "balance":
            for ours, whole in zip(together[name][1], gradients, strict=True):
                torch.testing.assert_close(ours, whole, rtol=1e-6, atol=1e-9, msg=name)


def test_all_processes_stop_where_the_part_of_one_diverges(folder: Path, ended: list[Ended]) -> None:
    files = [folder / f"diverged-{rank}.pt" for rank in range(2)]
    assert all(file.exists() for file in files), "\n".join(process.errors for process in ended)
    leaders, others = (file.read_text() for file in files)
    assert re.match(r"epoch 1, step 2 of 4: the loss of path [012]{8}.* under the code \[.*\] is nan", leaders)
    assert others == leaders


def test_a_search_by_two_processes_has_one_run_folder(folder: Path, ended: list[Ended]) -> None:
    leader, other = ended
    assert leader.output.count("run folder:") == leader.output.count("report:") == 1, leader.errors
    assert other.output == ""
    assert {path.name for path in folder.iterdir() if path.suffix != ".pt"} == {"run", "settings.toml"}
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["stage"] == "supernet"] == [1, 2]


def test_a_lost_process_ends_the_others_and_training_goes_on_from_the_last_state(
    folder: Path, ended: list[Ended], alone: dict[str, object]
) -> None:
    leader, lost = ended
    assert lost.status == 9, lost.errors
    assert leader.status not in (0, 9)
    message = "LostProcessError: another process of this training has ended or did not answer in time"
    assert message in leader.errors
    resumed = worker.make_trainer(DataParallel(), seed=7)
    resumed.load_state_dict(result(folder, "trained.pt", ended)["state"])
    resumed.train_epoch()
    assert resumed.finished
    assert_close(resumed.state_dict(), alone["state"])


def test_a_process_alone_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with DataParallel.from_environment() as processes:
        assert processes.leads
        assert processes.size == 1
        assert processes.from_leader("text") == "text"


def test_a_gpu_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert search_command({"device": "cuda", "out": str(tmp_path / "run")}, None, None) == EXIT_ERROR
    assert "device: expected one of this machine, got 'cuda:1': torch finds no GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_processes_connected_for_another_device_are_an_error() -> None:
    processes = DataParallel()
    assert processes.training_device("cpu") == torch.device("cpu")
    processes.group = object()
    assert processes.training_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"'cuda', but .* did so for 'cpu'; expected --device cuda on"):
        processes.training_device("cuda")


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


def test_batches_of_fewer_images_than_processes_are_refused_before_training() -> None:
    processes = DataParallel()
    processes.size = 14
    with pytest.raises(ValueError, match="at least one image for each of 14 processes, got 13"):
        worker.method_trainer("spos", processes)


def test_batch_norm_of_another_kind_is_refused() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="layer '0': expected a K-shot batch norm, got a BatchNorm2d"):
        synchronize_batch_norm(model, object())
