"""timm's CondConv network with our kernels in the place of its routed convolutions, beside the network as it comes.

`kshot_ext.convert(network, include=...)` replaces the 24 of them; all else stays plain. A pass in evaluation, or a pass
forward and backward in training, of images of 224x224. Without timm there is no row.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
from functools import partial

import torch
from torch import Tensor, nn

import kshot_ext
from benchmarks.forms import LAYOUTS, Contest, Form, in_layout
from benchmarks.layers import LayerSet
from benchmarks.place import CPU, Place
from benchmarks.works.row import Row

NETWORK, KIND, SIDE = "tf_efficientnet_cc_b0_4e", "CondConv2d", 224
BATCHES = 8, 32
KINDS = {"evaluation": False, "forward and backward": True}
"""What a row runs, and whether gradients are made."""


def pass_form(name: str, network: nn.Module, batch: int, training: bool, layout: str, place: Place) -> Form:
    images = in_layout(place.normal(torch.Generator().manual_seed(2), batch, 3, SIDE, SIDE), layout)
    network = network.to(memory_format=LAYOUTS[layout]).train(training)

    def run() -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(training):
            scores = network(images)
        if training:
            scores.square().mean().backward()
            network.zero_grad()
        return (scores.detach(),)

    return Form(f"{name} ({layout})", run, layout=layout)


def routed_contest(batch: int, training: bool, place: Place = CPU) -> Contest:
    torch.manual_seed(0)
    plain = importlib.import_module("timm").create_model(NETWORK, num_classes=10).to(place.device)
    ours = kshot_ext.convert(plain, include=lambda name, layer: type(layer).__name__ == KIND)

    def forms(name: str, network: nn.Module) -> list[Form]:
        return [pass_form(name, copy.deepcopy(network), batch, training, layout, place) for layout in LAYOUTS]

    return Contest(forms("convert(network)", ours), {"timm's network": forms("network", plain)}, 100 * place.tolerance)


def routed_rows(layers: LayerSet) -> list[Row]:
    """Rows of both batches in evaluation and training, if timm is installed; else a line says so."""
    if importlib.util.find_spec("timm") is None:
        print(f"routed: no row of {NETWORK}, since timm is not installed", file=sys.stderr)
        return []
    rows = []
    for batch in BATCHES:
        for kind, training in KINDS.items():
            contest = partial(routed_contest, batch, training)
            rows.append(Row(f"{kind}, batch {batch}", kind, f"{NETWORK}, {SIDE}x{SIDE}", 1, contest))
    return rows
