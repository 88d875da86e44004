"""Batch norm + ReLU in training: against torch's two layers."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.forms import Contest, Form
from benchmarks.layers import LayerSet, NormLayer
from benchmarks.place import CPU, Place
from benchmarks.works.conv_operands import forms_in_layouts
from benchmarks.works.row import FLOAT32_BYTES, Row
from kshot_ext import functional as KF

KINK = 1e-4


def batch_norm_contest(layer: NormLayer, batch: int, place: Place = CPU) -> Contest:
    """Parameters and statistics stay in float32, as under autocast."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, layer.channels, layer.size, layer.size)
    input, grad = (place.normal(generator, *shape) for _ in range(2))
    weight, bias = (place.in_float32.normal(generator, layer.channels) for _ in range(2))
    # Rounding decides on which side of ReLU's kink a value near zero falls: no gradient may depend on it.
    before_relu = F.batch_norm(input.float(), None, None, weight, bias, training=True)
    grad[before_relu.abs() < KINK] = 0

    def forms(name: str, function) -> list[Form]:
        mean, var = torch.zeros_like(weight), torch.ones_like(weight)

        def normalise(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return function(input, weight, bias, mean, var)

        return forms_in_layouts({name: normalise}, (input, weight, bias), grad)

    ours = forms("batch_norm_act", partial(KF.batch_norm_act, activation="relu"))
    return Contest(ours, {"pytorch": forms("batch_norm, relu", peers.batch_norm_relu)}, place.tolerance)


def batch_norm_rows(layers: LayerSet) -> list[Row]:
    """Each batch norm that a ReLU follows."""
    return [
        Row(
            layer.name,
            "batch norm",
            layer.geometry,
            layer.count,
            partial(batch_norm_contest, layer, layers.batch),
            # Forward reads the input for statistics, again to normalise, and writes; backward reads input and
            # gradient twice and writes.
            traffic=8 * FLOAT32_BYTES * layers.batch * layer.channels * layer.size**2,
        )
        for layer in layers.distinct_norms()
    ]
