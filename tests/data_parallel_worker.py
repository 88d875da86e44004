"""One of the processes of test_data_parallel.py: `data_parallel_worker.py FOLDER PORT...`.

It does all works in one go, since to start it takes longer than any of them; each work has connections of its own.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

from kshot_ext.distributed import sum_gradients, synchronize_batch_norm
from kshot_ext.nas.commands.frame import EXIT_DONE
from kshot_ext.nas.commands.search import search_command
from kshot_ext.nas.datasets.image_set import ImageSet
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.methods import METHODS, begin_training
from kshot_ext.nas.methods.kshot import KShotSettings
from kshot_ext.nas.methods.parts import path_method
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.divergence import DivergedError
from kshot_ext.nas.training.loop import TrainingLoop
from kshot_ext.nas.training.settings import TrainingSettings
from kshot_ext.nas.training.simplex_objectives import SIMPLEX_OBJECTIVES
from kshot_ext.nas.training.simplex_objectives.objective import StepTools
from kshot_ext.optim import KShotSGD

EPOCHS = 3
OPTIONS: dict[str, dict[str, Any]] = {
    "kshot": {"simplex_every": 1, "paths_per_simplex_step": 2},
    "cream": {"board_size": 3, "board_after": 0.0, "matching_images": 3, "matching_every": 1},
    "neas": {"judged_ensembles": 6, "shrinks": 1},
    "gold": {"prune_every": 0.5, "prunable_share": 0.3, "pressure": 0.01},
    "darts-pt": {"score_batches": 1},
    "dgconv": {"weights_first": 0.0},
}
"""Under which methods do in few steps all that they ever do."""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def join() -> DataParallel:
    return DataParallel.from_environment(timeout=60)


def noise() -> tuple[SearchSpace, DataSplits]:
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=4, widths=(0.5, 1.0))
    images = torch.randint(256, (40, 1, 8, 8), generator=seeded(0)).to(torch.uint8)
    splits = DataSplits(
        *[ImageSet(images, torch.arange(40) % 3)] * 3, ("one", "two", "three"), torch.tensor([0.5]), torch.tensor([0.3])
    )
    return space, splits


def make_trainer(processes: DataParallel, seed: int = 0, objective: str = "loss") -> TrainingLoop:
    """On noise: 40 images of three classes, batches of 7, which do not divide by 2.

    In float64: on so few images in so narrow layers, training multiplies every rounding error by ten a step, and
    Adam makes a step of any gradient but zero.
    """
    space, splits = noise()
    settings = TrainingSettings(
        epochs=EPOCHS,
        batch_size=7,
        learning_rate=0.01,
        warmup_epochs=1,
        held_out_share=0.25,
    )
    simplex = KShotSettings(simplex_every=2, paths_per_simplex_step=2, simplex_objective=objective)
    codes = CodeSettings(start="cost", spread=0.0 if objective == "loss" else 1.0)
    loop = begin_training(simplex, space, splits, settings, shots=3, codes=codes, seed=seed, processes=processes)
    supernet, simplex_net = loop.method.supernet.double(), loop.method.simplex_net.double()
    read_in_float64(supernet, simplex_net.operation_branch, simplex_net.width_branch)
    return loop


def read_in_float64(*modules: nn.Module) -> None:
    for module in modules:
        module.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(), *inputs[1:]))


def search(folder: Path) -> None:
    """What `torchrun -m kshot_ext search` does."""
    assert search_command({"out": str(folder / "run")}, folder / "settings.toml", None) == EXIT_DONE


def train_and_lose_a_process(folder: Path) -> None:
    """The leader trains from its own state; the others start from another one, which must not matter.

    In the last epoch the last process dies, without a word.
    """
    processes = join()
    trainer = make_trainer(processes, seed=processes.rank)
    if processes.leads:
        reports = [asdict(trainer.train_epoch()) for _ in range(EPOCHS - 1)]
        torch.save({"state": trainer.state_dict(), "reports": reports}, folder / "trained.pt")
        trainer.train_epoch()
    if processes.rank == processes.size - 1:
        optimizer = trainer.method.simplex_training.optimizer
        optimizer.register_step_pre_hook(lambda *_: os._exit(9) if trainer.epoch == EPOCHS - 1 else None)
    processes.follow(trainer)


def simplex_gradients(processes: DataParallel) -> dict[str, list[torch.Tensor]]:
    """What each objective adds up for the simplex-net in two steps, and the losses that it reports."""
    gradients = {}
    for name in SIMPLEX_OBJECTIVES:
        trainer = make_trainer(processes, objective=name)
        training = trainer.method.simplex_training
        net = training.simplex_net
        tools = StepTools(trainer.method.supernet.train(), net, 0.1, trainer.gradient_steps, processes)
        batches, paths = trainer.do.held_out(), seeded(9)
        losses = [
            training.objective.backward([net.space.sample(paths) for _ in range(4)], batches, tools) for _ in range(2)
        ]
        processes.sum_gradients(net.parameters())
        gradients[name] = [losses, [parameter.grad for parameter in net.parameters()]]
    return gradients


def take_simplex_gradients(folder: Path) -> None:
    processes = join()
    found = simplex_gradients(processes)
    if processes.leads:
        torch.save(found, folder / "simplex.pt")
    processes.close(failed=True)  # the other does not listen for more


def method_trainer(name: str, processes: DataParallel) -> TrainingLoop:
    """The training of a method by two copies, if it takes them: four steps on noise.

    Neither batches nor held-out images divide by 2.
    """
    kind = METHODS[name]
    shape = {"image_shape": (1, 8, 8), "num_classes": 3, "channels": 4}
    space = create_space("groupable" if name == "dgconv" else "nas-bench-macro", **shape)
    splits = replace(noise()[1], mean=torch.tensor([0.5]), std=torch.tensor([0.3]))
    training = TrainingSettings(epochs=2, batch_size=13, learning_rate=0.01, warmup_epochs=1, held_out_share=0.275)
    shots = 2 if kind.takes_copies else 1
    settings, codes = kind.Settings(**OPTIONS.get(name, {})), CodeSettings(start="count", free_share_at_start=0.0)
    loop = begin_training(settings, space, splits, training, shots=shots, codes=codes, seed=3, processes=processes)
    if kind.takes_copies:
        read_in_float64(loop.method.simplex_net.operation_branch)
    return loop


def method_trained(name: str, processes: DataParallel) -> dict[str, Any]:
    """What a method reports of its epochs, and the state that it leaves. In float64, as above."""
    processes.announce = lambda trainer: None  # all train of their own accord
    torch.set_default_dtype(torch.float64)
    try:
        loop = method_trainer(name, processes)
        reports = [asdict(loop.train_epoch()) for _ in range(loop.settings.epochs)]
    finally:
        torch.set_default_dtype(torch.float32)
    return {"reports": reports, "state": loop.state_dict()}


def train_methods(folder: Path) -> None:
    processes = join()
    for name in METHODS:
        torch.save(method_trained(name, processes), folder / f"{name}-{processes.rank}.pt")
    processes.close(failed=True)  # the other does not listen for more


def diverge(folder: Path) -> None:
    """The loss of the last process's part is NaN from the second step on; all processes have to stop there."""
    processes = join()
    trainer = make_trainer(processes)
    path_loss, calls = path_method.path_loss, itertools.count(1)

    def diverging(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        loss, logits = path_loss(*arguments)
        return (loss * math.nan if next(calls) > 1 else loss), logits

    if processes.rank == processes.size - 1:
        path_method.path_loss = diverging
    try:
        trainer.train_epoch() if processes.leads else processes.follow(trainer)
    except DivergedError as error:
        (folder / f"diverged-{processes.rank}.pt").write_text(str(error))
    path_method.path_loss = path_loss
    processes.close(failed=True)


def one_step(folder: Path) -> None:
    """Gradients of one dictionary step in float32, and what it hands to all_reduce, batch norm included."""
    processes, sent = join(), [0]
    all_reduce = dist.all_reduce

    def counted(tensor: torch.Tensor, **options: object) -> object:
        sent[0] += tensor.numel() * tensor.element_size()
        return all_reduce(tensor, **options)

    dist.all_reduce = counted
    shots = 8
    space = create_space("nas-bench-macro", image_shape=(3, 8, 8), num_classes=10, channels=16)
    supernet = Supernet(space, shots, seeded(0))
    optimizer = KShotSGD(supernet.parameters(), lr=0.1)
    images, labels = torch.randn(9, 3, 8, 8, generator=seeded(0)), torch.arange(9)
    path = Architecture((2, 1, 0, 2, 1, 0, 2, 1))

    def backward(images: torch.Tensor, labels: torch.Tensor, share: float) -> None:
        logits = supernet(images, path, torch.full((shots,), 1 / shots))
        (share * cross_entropy(logits, labels)).backward()

    def gradients() -> dict[str, torch.Tensor]:
        return {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}

    synchronize_batch_norm(supernet, processes.group)
    backward(*processes.part(images, labels))
    sum_gradients(supernet.parameters(), processes.group)
    together = gradients()
    dist.all_reduce = all_reduce
    processes.close(failed=True)  # the other does not listen for more
    optimizer.zero_grad()
    if processes.leads:
        synchronize_batch_norm(supernet, None)
        backward(images, labels, 1.0)
        dense = sum(gradient.numel() * gradient.element_size() for gradient in together.values())
        result = {"sent": sent[0], "dense": dense, "shots": shots, "together": together, "alone": gradients()}
        torch.save(result, folder / "step.pt")


if __name__ == "__main__":
    folder, *ports = sys.argv[1:]
    torch.set_num_threads(1)
    works = (
        one_step,
        take_simplex_gradients,
        train_methods,
        diverge,
        search,
        train_and_lose_a_process,
    )
    for work, os.environ["MASTER_PORT"] in zip(works, ports, strict=True):
        work(Path(folder))
