"""One training step of torchvision's and timm's networks after `kshot_ext.fuse`, against the networks as they come.

Plain weights, `torch.optim.SGD(fused=True)` on both sides. On the layer set of NAS-Bench-Macro, whose batch is 64 and
whose images have a side of 32, the step is one of 32 images of 128x128. A library that is not installed has no row.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import kshot_ext
from benchmarks.forms import LAYOUTS, Contest, Form, in_layout
from benchmarks.layers import LayerSet
from benchmarks.place import CPU, Place
from benchmarks.works.row import Row
from benchmarks.works.sgd import SETTINGS

CLASSES = 1000
NETWORKS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "MobileNetV2": ("torchvision", lambda: importlib.import_module("torchvision").models.mobilenet_v2(dropout=0.0)),
    "EfficientNet-B0": ("timm", lambda: importlib.import_module("timm").create_model("efficientnet_b0")),
}


def step_form(name: str, network: nn.Module, batch: int, side: int, layout: str, place: Place) -> Form:
    """A step; the forms must agree on the loss and on what all passes before it made of the class scores."""
    generator = torch.Generator().manual_seed(2)
    images = in_layout(place.normal(generator, batch, 3, side, side), layout)
    labels = torch.randint(CLASSES, (batch,), generator=generator).to(place.device)
    network = network.to(memory_format=LAYOUTS[layout])
    optimizer = torch.optim.SGD(network.parameters(), **SETTINGS, fused=True)

    def run() -> tuple[Tensor, ...]:
        scores = network(images)
        loss = F.cross_entropy(scores, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach(), scores.detach()

    return Form(f"{name} ({layout})", run, layout=layout)


def fuse_contest(network_name: str, batch: int, side: int, place: Place = CPU) -> Contest:
    torch.manual_seed(0)
    plain = NETWORKS[network_name][1]().to(place.device).train()
    fused = copy.deepcopy(plain)
    kshot_ext.fuse(fused)
    return Contest(
        [step_form("fuse(network), SGD(fused=True)", fused, batch, side, "channels_last", place)],
        {
            "plain network": [
                step_form("network, SGD(fused=True)", copy.deepcopy(plain), batch, side, layout, place)
                for layout in LAYOUTS
            ]
        },
        100 * place.tolerance,  # as for `own_supernets`: behind tens of layers rounding decides on which side of a kink
    )


def fuse_rows(layers: LayerSet) -> list[Row]:
    """One row for each network whose library is installed; of the others a line says so."""
    batch, side = max(8, layers.batch // 2), max(64, 4 * layers.convolutions[0].size)
    rows = []
    for name, (library, _) in NETWORKS.items():
        if importlib.util.find_spec(library) is None:
            print(f"fuse: no row of {name}, since {library} is not installed", file=sys.stderr)
            continue
        contest = partial(fuse_contest, name, batch, side)
        rows.append(Row(name, f"step of {name}", f"batch {batch}, {side}x{side}", 1, contest))
    return rows
