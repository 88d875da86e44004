"""The update: from gradients of effective weights to new dictionaries, over all layers of a path."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.forms import Contest, Form
from benchmarks.layers import LayerSet
from benchmarks.place import CPU, Place
from benchmarks.works.path import path_dictionaries
from benchmarks.works.row import FLOAT32_BYTES, Row
from kshot_ext import functional as KF
from kshot_ext.optim import KShotSGD

SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 4e-5, "nesterov": True}


def mix_each(dictionaries: list[Tensor], code: Tensor) -> list[Tensor]:
    return [peers.mix_by_matmul(dictionary, code) for dictionary in dictionaries]


def update_form(name: str, mix: Callable, make_optimizer: Callable, num_shots: int, place: Place) -> Form:
    """Mixing happens off the clock; on it are its backward pass, the step, and dropping the gradients."""
    dictionaries = [nn.Parameter(dictionary) for dictionary in path_dictionaries(num_shots, place)]
    before = [dictionary.detach().clone() for dictionary in dictionaries]
    optimizer = make_optimizer(dictionaries)
    generator = torch.Generator().manual_seed(1)
    code = place.normal(generator, num_shots).softmax(-1)
    grads = [place.normal(generator, *dictionary.shape[1:]) for dictionary in dictionaries]

    def prepare() -> tuple[list[Tensor]]:
        return (mix(dictionaries, code),)

    def run(mixed: list[Tensor]) -> list[Tensor]:
        torch.autograd.backward(mixed, grads)
        optimizer.step()
        optimizer.zero_grad()
        return dictionaries

    def change(result: list[Tensor]) -> list[Tensor]:
        return [after.detach() - start for after, start in zip(result, before)]

    return Form(name, run, prepare, change)


def update_contest(num_shots: int, place: Place = CPU) -> Contest:
    ours, fused_sgd = partial(KShotSGD, **SETTINGS), partial(torch.optim.SGD, **SETTINGS, fused=True)
    return Contest(
        [update_form("mix_weights, KShotSGD", KF.mix_weights, ours, num_shots, place)],
        {"pytorch": [update_form("matmul, SGD(fused=True)", mix_each, fused_sgd, num_shots, place)]},
        place.tolerance,
    )


def update_row(layers: LayerSet, contest: Callable, kept: int) -> Row:
    """All dictionaries of a path, of which so many tensors are kept.

    These and the weights are read and written; of the gradients, one copy is read.
    """
    numbers = sum(dictionary.numel() for dictionary in path_dictionaries(1))
    return Row(
        "path",
        "update",
        f"K = {layers.num_shots}, {numbers / 1e6:.1f} M weights a copy",
        1,
        partial(contest, layers.num_shots),
        traffic=FLOAT32_BYTES * numbers * (2 * (1 + kept) * layers.num_shots + 1),
    )


def sgd_rows(layers: LayerSet) -> list[Row]:
    """One row, with momentum."""
    return [update_row(layers, update_contest, 1)]
