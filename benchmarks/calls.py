"""What a call costs, against torch's convolution with one plain weight: `python -m benchmarks.calls --help`.

Around small tensors calls take longer than kernels; the layers here are so small that little else is timed. One thread,
channels_last, one code for the batch, all forms in turn.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.forms import Form, in_layout
from benchmarks.layers import ConvLayer
from benchmarks.measuring.check import check_values
from benchmarks.measuring.environment import environment
from benchmarks.measuring.machine import Host
from benchmarks.measuring.timing import interleave, noise, repeats_for
from benchmarks.place import CPU
from benchmarks.reporting.results import write_json
from benchmarks.works.conv_operands import conv_operands
from benchmarks.works.shared_code import kshot_conv
from kshot_ext import functional as KF

RESULTS = Path(__file__).resolve().parent / "results" / "calls.json"
LAYOUT = "channels_last"
BATCH, SHOTS = 8, 8
LAYERS = (
    ConvLayer("depthwise", 8, 8, 3, 4, groups=8),
    ConvLayer("depthwise", 32, 32, 3, 14, groups=32),
    ConvLayer("pointwise", 16, 16, 1, 1),
    ConvLayer("pointwise", 8, 8, 1, 4),
    ConvLayer("pointwise", 16, 16, 1, 4),
    ConvLayer("pointwise", 64, 16, 1, 4),
    ConvLayer("pointwise", 32, 32, 1, 7),
    ConvLayer("pointwise", 64, 64, 1, 7),
    ConvLayer("pointwise", 24, 72, 1, 14),
    ConvLayer("dense", 16, 16, 3, 4),
)
# Of "auto" against one weight; against the product it is 1 for all.
AIMS = {"3x3 8->8 at 4x4": 1.15, "1x1 16->16 at 4x4": 1.3, "1x1 64->64 at 7x7": 1.3}

FORMS = ("one weight", "product", "auto", "fused", "mix_then_conv")  # the last two of convolutions
Function = Callable[..., Tensor]


def product_then_conv(input: Tensor, dictionary: Tensor, code: Tensor, layer: ConvLayer) -> Tensor:
    """What a user writes by hand; of a contiguous dictionary nothing is copied."""
    return peers.convolve(input, (code @ dictionary.flatten(1)).view(dictionary.shape[1:]), layer)


def functions(layer: ConvLayer) -> dict[str, tuple[Function, tuple[Tensor, ...]]]:
    """Each form of a layer, with its operands."""
    input, dictionary, code, _ = conv_operands(layer, BATCH, (SHOTS,))
    input, laid_out = in_layout(input, LAYOUT), in_layout(dictionary, LAYOUT)
    weight = in_layout(peers.mix_by_matmul(dictionary, code), LAYOUT)
    forms: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
        "one weight": (peers.convolve, (input, weight)),
        "product": (product_then_conv, (input, dictionary, code)),
    }
    for algorithm in ("auto", "fused", "mix_then_conv"):
        forms[algorithm] = (partial(kshot_conv, algorithm=algorithm), (input, laid_out, code))
    return {name: (partial(function, layer=layer), operands) for name, (function, operands) in forms.items()}


def norm_functions(channels: int, size: int) -> dict[str, tuple[Function, tuple[Tensor, ...]]]:
    """Batch norm with ReLU in training."""
    generator = torch.Generator().manual_seed(0)
    images, code = CPU.normal(generator, BATCH, channels, size, size), CPU.normal(generator, SHOTS)
    weight, bias = CPU.normal(generator, SHOTS, channels), CPU.normal(generator, SHOTS, channels)
    images, statistics = in_layout(images, LAYOUT), (torch.zeros(channels), torch.ones(channels))

    def plain(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.relu(F.batch_norm(images, *statistics, weight, bias, training=True))

    def product(images: Tensor, weight: Tensor, bias: Tensor, code: Tensor) -> Tensor:
        return plain(images, code @ weight, code @ bias)

    def ours(images: Tensor, weight: Tensor, bias: Tensor, code: Tensor) -> Tensor:
        return KF.batch_norm_act(images, weight, bias, *statistics, code=code)

    operands = images, weight, bias, code
    mixed = images, code @ weight, code @ bias
    return {"one weight": (plain, mixed), "product": (product, operands), "auto": (ours, operands)}


def linear_functions(inputs: int, outputs: int) -> dict[str, tuple[Function, tuple[Tensor, ...]]]:
    """A linear map with a bias."""
    generator = torch.Generator().manual_seed(0)
    rows, code = CPU.normal(generator, BATCH, inputs), CPU.normal(generator, SHOTS)
    weight, bias = CPU.normal(generator, SHOTS, outputs, inputs), CPU.normal(generator, SHOTS, outputs)

    def product(rows: Tensor, weight: Tensor, bias: Tensor, code: Tensor) -> Tensor:
        return F.linear(rows, (code @ weight.flatten(1)).view(weight.shape[1:]), code @ bias)

    def ours(rows: Tensor, weight: Tensor, bias: Tensor, code: Tensor) -> Tensor:
        return KF.kshot_linear(rows, weight, code, bias)

    operands = rows, weight, bias, code
    mixed = rows, torch.einsum("k,koi->oi", code, weight), code @ bias
    return {"one weight": (F.linear, mixed), "product": (product, operands), "auto": (ours, operands)}


def link_functions(channels: int, size: int) -> dict[str, tuple[Function, tuple[Tensor, ...]]]:
    """A link of a chain: norm and ReLU of known moments, 1x1 convolution, moments of what it puts out."""
    generator = torch.Generator().manual_seed(0)
    images = in_layout(CPU.normal(generator, BATCH, channels, size, size), LAYOUT)
    dictionary, code = CPU.normal(generator, SHOTS, channels, channels, 1, 1), CPU.normal(generator, SHOTS)
    weight, bias = CPU.normal(generator, channels), CPU.normal(generator, channels)
    mean, variance = torch.zeros(channels), torch.ones(channels)

    def plain(images: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        normalised = torch.relu(F.batch_norm(images, mean, variance, weight, bias))
        output = F.conv2d(normalised, kernel)
        torch.var_mean(output.detach(), (0, 2, 3), correction=0)
        return output

    def product(images: Tensor, dictionary: Tensor, weight: Tensor, bias: Tensor, code: Tensor) -> Tensor:
        kernel = (code @ dictionary.flatten(1)).view(dictionary.shape[1:])
        return plain(images, kernel, weight, bias)

    def ours(images: Tensor, dictionary: Tensor, weight: Tensor, bias: Tensor, code: Tensor) -> Tensor:
        norm = KF.ChannelNorm(mean, variance, weight, bias, activation="relu")
        return KF.chained_conv2d(images, dictionary, code, norm=norm).raw

    operands = images, dictionary, weight, bias, code
    mixed = images, peers.mix_by_matmul(dictionary, code), weight, bias
    return {"one weight": (plain, mixed), "product": (product, operands), "auto": (ours, operands)}


def passes(function: Function, operands: Iterable[Tensor]) -> dict[str, Callable[[], Any]]:
    """The ways to run a form: without a graph, forward, and forward and backward."""
    plain = tuple(operands)
    leaves = [operand.detach().requires_grad_() for operand in plain]
    grad = torch.ones_like(function(*plain))

    def forward_and_backward() -> tuple[Tensor, ...]:
        output = function(*leaves)
        return (output.detach(), *torch.autograd.grad(output, leaves, grad))

    return {
        "inference": lambda: (function(*plain),),
        "forward": lambda: (function(*leaves).detach(),),
        "forward + backward": forward_and_backward,
    }


class Call(NamedTuple):
    """What is called: a convolution of `LAYERS`, or another operator."""

    name: str
    geometry: str
    functions: Callable[[], dict[str, tuple[Function, tuple[Tensor, ...]]]]


CALLS = (
    *(Call(layer.name, layer.geometry, partial(functions, layer)) for layer in LAYERS),
    Call("batch norm, ReLU", "16 at 4x4", partial(norm_functions, 16, 4)),
    Call("batch norm, ReLU", "64 at 7x7", partial(norm_functions, 64, 7)),
    Call("linear", "16->16", partial(linear_functions, 16, 16)),
    Call("linear", "256->10", partial(linear_functions, 256, 10)),
    Call("link, 1x1", "16->16 at 4x4", partial(link_functions, 16, 4)),
    Call("link, 1x1", "64->64 at 7x7", partial(link_functions, 64, 7)),
)


def row(call: Call, pairs: int) -> dict[str, dict[str, float]]:
    """Median microseconds of each form of a call, by pass.

    Raises:
        WrongValuesError: a form computes something else than the plain weight does.
    """
    runs = {name: passes(*form) for name, form in call.functions().items()}
    clock, found = Host().clock, {}
    for way in runs["one weight"]:
        forms = [Form(name, runs[name][way]) for name in runs]
        expected = forms[0].result()[:2]  # gradients of one weight and of a dictionary are different things
        for form in forms:
            check_values(form.name, form.result()[: len(expected)], expected, CPU.tolerance)
        repeats = repeats_for(min(clock.seconds(form, 10) for form in forms))
        samples = interleave(forms, pairs, repeats, clock)
        found[way] = {form.name: 1e6 * statistics.median(times) for form, times in zip(forms, samples)}
    return found


def main(
    pairs: Annotated[int, typer.Option(min=1, help="Interleaved rounds per layer.")] = 51,
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS,
) -> None:
    """Time small layers in one thread; print and write microseconds."""
    torch.set_num_threads(1)
    spread = noise(pairs, CPU, Host().clock).spread
    rows = []
    table = Table("layer", "pass", *FORMS, "auto / one", "aim")
    for call in CALLS:
        for way, times in row(call, pairs).items():
            rows.append({"layer": call.name, "geometry": call.geometry, "pass": way, "microseconds": times})
            shown = [f"{times[form]:.1f}" if form in times else "" for form in FORMS]
            ratio, aim = times["auto"] / times["one weight"], AIMS.get(call.geometry, "")
            table.add_row(f"{call.name} {call.geometry}", way, *shown, f"{ratio:.2f}", str(aim))
    console = Console(width=140)
    console.print(table)
    console.print(f"a workload against itself: quartiles {spread:.0%} apart")
    settings = {"pairs": pairs, "batch": BATCH, "shots": SHOTS, "layout": LAYOUT}
    write_json(out, {"environment": environment(CPU), "settings": settings, "noise": spread, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
