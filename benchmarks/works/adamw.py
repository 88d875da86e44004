"""The update by AdamW: from gradients of effective weights to new dictionaries, over all layers of a path."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.forms import Contest
from benchmarks.layers import LayerSet
from benchmarks.place import CPU, Place
from benchmarks.works.row import Row
from benchmarks.works.sgd import mix_each, update_form, update_row
from kshot_ext import functional as KF
from kshot_ext.optim import KShotAdamW

SETTINGS = {"lr": 1e-3, "weight_decay": 0.05}


def adamw_contest(num_shots: int, place: Place = CPU) -> Contest:
    ours, fused_adamw = partial(KShotAdamW, **SETTINGS), partial(torch.optim.AdamW, **SETTINGS, fused=True)
    return Contest(
        [update_form("mix_weights, KShotAdamW", KF.mix_weights, ours, num_shots, place)],
        {"pytorch": [update_form("matmul, AdamW(fused=True)", mix_each, fused_adamw, num_shots, place)]},
        place.tolerance,
    )


def adamw_rows(layers: LayerSet) -> list[Row]:
    """One row, with both moments."""
    return [update_row(layers, adamw_contest, 2)]
