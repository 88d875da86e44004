"""One whole training step of the dictionaries: forward, loss, backward, update.

Parameters are float32; in another precision, forward and loss run under autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.forms import LAYOUTS, Contest, Form, in_layout
from benchmarks.layers import LayerSet
from benchmarks.networks import layer_sets
from benchmarks.place import CPU, Place
from benchmarks.works.path import CLASSES, PathOperators, path_dictionaries, path_layers, run_path
from benchmarks.works.row import Row
from benchmarks.works.sgd import SETTINGS
from kshot_ext import functional as KF
from kshot_ext.optim import KShotSGD


def _torch_norm(input: Tensor, weight: Tensor, bias: Tensor, activation: str, residual: Tensor | None) -> Tensor:
    output = F.batch_norm(input, None, None, weight, bias, training=True)
    if residual is not None:
        output = output + residual
    return F.relu(output) if activation == "relu" else output


def _our_norm(input: Tensor, weight: Tensor, bias: Tensor, activation: str, residual: Tensor | None) -> Tensor:
    return KF.batch_norm_act(input, weight, bias, None, None, activation=activation, residual=residual)


def _autocast(place: Place) -> AbstractContextManager:
    return nullcontext() if place.dtype == torch.float32 else torch.autocast(place.device, place.dtype)


TORCH_OPERATORS = PathOperators(conv=peers.convolve, norm=_torch_norm, linear=F.linear)


def our_operators(code: Tensor) -> PathOperators:
    def conv(input, dictionary, layer):
        return KF.kshot_conv2d(input, dictionary, code, None, layer.stride, layer.padding, groups=layer.groups)

    def linear(input, dictionary):
        return KF.kshot_linear(input, dictionary, code)

    return PathOperators(conv=conv, norm=_our_norm, linear=linear)


def step_form(
    name: str,
    operators: PathOperators,
    parameters: list[Tensor],
    weights_of: Callable[[list[Tensor]], list[Tensor]],
    make_optimizer: Callable,
    batch: int,
    layout: str,
    place: Place,
) -> Form:
    """A step; the forms must agree on the loss, and in float32 on how the norms' weights move.

    Args:
        parameters: leaves to be trained beside the norms' weights and biases.
        weights_of: what `run_path` gets of them.
    """
    norms = [
        (
            torch.ones(layer.out_channels, device=place.device, requires_grad=True),
            torch.zeros(layer.out_channels, device=place.device, requires_grad=True),
        )
        for layer in path_layers()
    ]
    leaves = [*parameters, *(leaf for norm in norms for leaf in norm)]
    optimizer = make_optimizer(leaves, **SETTINGS)
    generator = torch.Generator().manual_seed(2)
    images = in_layout(place.in_float32.normal(generator, batch, 3, 32, 32), layout)
    labels = torch.randint(CLASSES, (batch,), generator=generator).to(place.device)

    def run() -> tuple[Tensor, ...]:
        with _autocast(place):
            logits = run_path(operators, weights_of(parameters), norms, images)
            loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return (loss.detach(), *(weight.detach() for weight, _ in norms))

    def loss_and_changes(result: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        loss, *norm_weights = result
        if place.dtype != torch.float32:
            return (loss,)
        return (loss, *(weight - 1 for weight in norm_weights))

    return Form(f"{name} ({layout})", run, values=loss_and_changes, layout=layout)


def _our_form(num_shots: int, batch: int, layout: str, place: Place) -> Form:
    operators = our_operators(_code(num_shots, place))
    dictionaries = _path_parameters(num_shots, layout, place)
    return step_form(f"KShotSGD, K = {num_shots}", operators, dictionaries, list, KShotSGD, batch, layout, place)


def _our_single_form(num_shots: int, batch: int, layout: str, place: Place) -> Form:
    """K = 1, its only copy being the mixture of the K copies, so that the first step computes the same."""
    code = _code(num_shots, place)
    dictionaries = path_dictionaries(num_shots, place.in_float32)
    mixed = [peers.mix_by_matmul(dictionary, code)[None] for dictionary in dictionaries]
    copies = [nn.Parameter(in_layout(copy, layout)) for copy in mixed]
    operators = our_operators(torch.ones(1, device=place.device))
    return step_form("KShotSGD, K = 1", operators, copies, list, KShotSGD, batch, layout, place)


def _mixed_path_form(num_shots: int, batch: int, layout: str, place: Place) -> Form:
    code = _code(num_shots, place)

    def mix(dictionaries: list[Tensor]) -> list[Tensor]:
        return [peers.mix_by_matmul(dictionary, code) for dictionary in dictionaries]

    sgd = partial(torch.optim.SGD, fused=True)
    dictionaries = _path_parameters(num_shots, layout, place)
    return step_form("mix the path", TORCH_OPERATORS, dictionaries, mix, sgd, batch, layout, place)


def _merged_supernet_form(num_shots: int, batch: int, layout: str, place: Place) -> Form:
    """All weights of the supernet are one parameter `[K, P]`, mixed by one product."""
    code = _code(num_shots, place)
    path = path_dictionaries(num_shots, place.in_float32)
    shapes = [dictionary.shape[1:] for dictionary in path]
    path_size = sum(shape.numel() for shape in shapes)
    linear_size = shapes[-1].numel()
    supernet = layer_sets()["nas_bench_macro"].convolutions
    supernet_size = sum(torch.Size(layer.weight_shape).numel() for layer in supernet) + linear_size
    others = torch.zeros(num_shots, supernet_size - path_size, device=place.device)
    flat = torch.cat([*(dictionary.flatten(1) for dictionary in path), others], dim=1).requires_grad_()

    def merge(parameters: list[Tensor]) -> list[Tensor]:
        parts = (code @ parameters[0]).split([*(shape.numel() for shape in shapes), others.shape[1]])
        return [part.view(shape) for part, shape in zip(parts, shapes)]

    sgd = partial(torch.optim.SGD, fused=True)
    return step_form("merge the supernet", TORCH_OPERATORS, [flat], merge, sgd, batch, layout, place)


def _path_parameters(num_shots: int, layout: str, place: Place) -> list[Tensor]:
    dictionaries = path_dictionaries(num_shots, place.in_float32)
    return [nn.Parameter(in_layout(dictionary, layout)) for dictionary in dictionaries]


def _code(num_shots: int, place: Place) -> Tensor:
    return place.in_float32.normal(torch.Generator().manual_seed(1), num_shots).softmax(-1)


def training_step_contest(num_shots: int, batch: int, place: Place = CPU) -> Contest:
    def in_layouts(form: Callable[[int, int, str, Place], Form]) -> list[Form]:
        return [form(num_shots, batch, layout, place) for layout in LAYOUTS]

    return Contest(
        in_layouts(_our_form),
        {
            "pytorch": in_layouts(_mixed_path_form),
            "merged supernet": in_layouts(_merged_supernet_form),
            "ours, K = 1": in_layouts(_our_single_form),
        },
        # Rounding grows through the batch norms of the path, less so in the loss.
        place.tolerance if place.dtype != torch.float32 else 20 * place.tolerance,
    )


def training_step_rows(layers: LayerSet) -> list[Row]:
    """One row. The code is given and needs no gradient, as in a dictionary step of the search."""
    geometry = f"K = {layers.num_shots}, batch {layers.batch}, {len(path_layers())} convolutions"
    return [Row("path", "step", geometry, 1, partial(training_step_contest, layers.num_shots, layers.batch))]
