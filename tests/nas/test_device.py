from __future__ import annotations

import pytest
import torch

from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.device import find_device
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.runs.supernet_job import SupernetJob


def test_the_cpu_is_always_there() -> None:
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:-1", "meta", "cpu:x"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"device: expected cpu, cuda or cuda:N, got '{name}'"):
        find_device(name)


@pytest.mark.parametrize(("available", "count", "name"), [(False, 0, "cuda"), (True, 0, "cuda"), (True, 1, "cuda:1")])
def test_a_gpu_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, available: bool, count: int, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    found = "1 GPUs" if count else "no GPU"
    with pytest.raises(ValueError, match=f"device: expected one of this machine, got '{name}': torch finds {found}"):
        find_device(name)


def test_a_gpu_that_is_there_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_job_trains_and_evaluates_on_the_gpu(tiny_splits: DataSplits) -> None:
    settings = RunSettings(channels=4, shots=2, device="cuda")
    job = SupernetJob(settings, tiny_splits)
    report = job.loop.train_epoch()
    assert report.loss > 0
    assert job.evaluation(job.space.largest()).finite
    assert {parameter.device.type for parameter in job.method.supernet.parameters()} == {"cuda"}
