"""Gradients exchanged between two processes, by hand, by torch and by us: KShotSGD trains as torch's SGD does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable

import distributed_worker as worker
import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two processes connected by gloo found, for each optimiser and way of exchanging gradients."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    command = [sys.executable, worker.__file__, str(folder)]
    processes = [subprocess.Popen(command, env=os.environ | where | {"RANK": rank}) for rank in "01"]
    try:
        assert [process.wait(timeout=200) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


WAYS = ["average_by_hand", "average_flat", "gather_by_hand", "ddp", "ddp_view", "ddp_unused", "fsdp"]


@pytest.mark.parametrize("way", WAYS)
def test_processes_train_as_with_sgd(results: list[dict], way: str) -> None:
    for found in results:
        torch.testing.assert_close(found["KShotSGD"][way], found["SGD"][way], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("way", ["ddp_hook", "ddp_hook_view"])
@pytest.mark.parametrize("optimizer", ["KShotSGD", "SGD"])
def test_a_hook_of_ddp_changes_nothing(results: list[dict], optimizer: str, way: str) -> None:
    for found in results:
        torch.testing.assert_close(found[optimizer][way], found["SGD"]["ddp"], rtol=1e-6, atol=1e-9)


def test_a_hook_of_ddp_where_processes_differ(results: list[dict]) -> None:
    """By their codes, or by how often they use the model."""
    for found in results:
        torch.testing.assert_close(*found["different_codes"].values(), rtol=1e-6, atol=1e-9)


def test_a_hook_of_ddp_sends_one_copy(results: list[dict]) -> None:
    from alike import make

    model, _ = make(torch.optim.SGD)
    whole = sum(parameter.nbytes for parameter in model.parameters())
    agreement = 4 * 4 + 4 * 2 * 3 * 8  # a float32 for each parameter; bounds of a code of three in float64 for each
    assert [found["bytes"] for found in results] == 2 * [{False: whole, True: whole // 3 + agreement}]


@pytest.mark.parametrize("optimizer", ["AdamW", "KShotAdamW"])
def test_ddp_with_adamw(results: list[dict], optimizer: str) -> None:
    expected = trained_by_one(lambda parameters: torch.optim.AdamW(parameters, lr=0.1))
    for found in results:
        torch.testing.assert_close(found["adamw"][optimizer], expected, rtol=1e-6, atol=1e-9)


def test_fsdp_equals_training_on_all_images(results: list[dict]) -> None:
    expected = trained_by_one(lambda parameters: torch.optim.SGD(parameters, lr=0.5, momentum=0.5))
    for found in results:
        torch.testing.assert_close(found["SGD"]["fsdp"], expected, rtol=1e-6, atol=1e-9)


def trained_by_one(make_optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Three steps on all images, from the mean of what the two processes' gradients are."""
    from alike import loss_of, make

    model, _ = make(torch.optim.SGD)
    optimizer = make_optimizer(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        (loss_of(model) / 2).backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("way", ["sum_ours", "sum_after_one_has_looked"])
def test_summing_equals_summing_by_hand(results: list[dict], way: str) -> None:
    for found in results:
        torch.testing.assert_close(found["KShotSGD"][way], found["SGD"]["average_by_hand"], rtol=1e-6, atol=1e-9)


def test_summing_by_hand_equals_training_on_all_images(results: list[dict]) -> None:
    from alike import loss_of, make

    model, optimizer = make(torch.optim.SGD)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    for found in results:
        torch.testing.assert_close(found["SGD"]["average_by_hand"], model.state_dict(), rtol=1e-6, atol=1e-9)
