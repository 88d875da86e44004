"""once-for-all's MobileNetV3 supernet on our layers, beside its own: `python -m benchmarks.sliced_supernets --help`.

The network is the library's own, of a checkout that `--once-for-all` names (github.com/mit-han-lab/once-for-all), whose
code this runs. A work is a pass over some random sub-networks of it, forward and backward in training, or forward in
evaluation: with the layers as they come, after `kshot_ext.nn.sliced.adopt`, and with ours one by one
(`kshot_ext.unfuse`), each in both memory formats, all in turn, on one thread. Before, results are compared.
"""

from __future__ import annotations

import copy
import importlib
import random
import statistics
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

import kshot_ext
from benchmarks.forms import LAYOUTS, Form, in_layout
from benchmarks.measuring.check import WrongValuesError
from benchmarks.measuring.environment import environment
from benchmarks.measuring.machine import Host
from benchmarks.measuring.timing import interleave, ratio_of
from benchmarks.place import CPU
from benchmarks.reporting.results import write_json
from kshot_ext.nn import sliced

NETWORK = "ofa.imagenet_classification.elastic_nn.networks.ofa_mbv3"
ELASTIC = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
NOT_NEEDED = "ofa.utils.my_dataloader"  # imports names that torch has no more
EXACT, TIMES, NEGLIGIBLE = 1e-9, 10, 1e-3
"""Ours may differ by so much in float64, and in float32 by so many times what theirs do. Differences are relative to
the largest value of a tensor; of gradients at least to so much of the largest of all, as some are but rounding."""


def network(once_for_all: Path) -> nn.Module:
    """The library's supernet, with random weights and no dropout."""
    if not (once_for_all / "ofa" / "imagenet_classification").is_dir():
        raise typer.BadParameter(
            f"{once_for_all} is no checkout of once-for-all: it has no ofa/imagenet_classification"
        )
    sys.path.insert(0, str(once_for_all))
    sys.modules.setdefault(NOT_NEEDED, types.ModuleType(NOT_NEEDED))
    torch.manual_seed(0)
    return importlib.import_module(NETWORK).OFAMobileNetV3(dropout_rate=0.0, **ELASTIC)


def adopted(net: nn.Module) -> nn.Module:
    net = copy.deepcopy(net)
    sliced.adopt(net)
    return net


def unfused(net: nn.Module) -> nn.Module:
    net = adopted(net)
    kshot_ext.unfuse(net)
    return net


SIDES: dict[str, Callable[[nn.Module], nn.Module]] = {"theirs": copy.deepcopy, "unfused": unfused, "adopted": adopted}


def sub_networks(net: nn.Module, count: int) -> list[dict[str, list[int]]]:
    """Settings of random sub-networks, as the library draws them."""
    random.seed(0)
    return [net.sample_active_subnet() for _ in range(count)]


def gradients(net: nn.Module, setting: dict[str, list[int]], images: Tensor) -> list[Tensor]:
    """The class scores of a sub-network and the gradients of all parameters that it has."""
    net.set_active_subnet(**setting)
    scores = net(images)
    scores.square().mean().backward()
    found = [p.grad for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    return [scores.detach(), *found]


def largest_difference(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Of the scores, which come first, and of gradients."""
    if len(found) != len(wanted):
        raise WrongValuesError(f"{len(found)} gradients, where theirs has {len(wanted)}")
    least = NEGLIGIBLE * max(float(each.abs().max()) for each in wanted[1:])
    scales = [max(float(each.abs().max()), least if index else 0.0) for index, each in enumerate(wanted)]
    return max(float((a - b).abs().max()) / scale for a, b, scale in zip(found, wanted, scales))


def compare(net: nn.Module, settings: list[dict[str, list[int]]]) -> None:
    """Print the largest differences from theirs in float64, of ours and of theirs in channels_last, in both precisions.

    A deep network in training makes much of rounding, and the latter say how much is none.

    Raises:
        WrongValuesError: if ours differ by more than `EXACT` in float64, or than `TIMES` as much as theirs in float32.
    """
    images = torch.randn(4, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first = copy.deepcopy(net).double().train()
    wanted = [gradients(first, setting, images) for setting in settings]
    for dtype in (torch.float64, torch.float32):
        worst = dict.fromkeys(SIDES, 0.0)
        for name, side in SIDES.items():
            other = side(net).to(dtype=dtype, memory_format=torch.channels_last).train()
            for setting, expected in zip(settings, wanted):
                found = gradients(other, setting, images.to(dtype))
                worst[name] = max(worst[name], largest_difference(found, expected))
        told = ", ".join(f"{name} {error:.1e}" for name, error in worst.items())
        print(f"largest differences of scores and gradients in {dtype}: {told}", flush=True)
        limit = EXACT if dtype == torch.float64 else TIMES * worst["theirs"]
        if not max(worst.values()) <= limit:
            raise WrongValuesError(f"ours differ by more than {limit:.1e} in {dtype}: {told}")


def form(
    name: str, net: nn.Module, settings: list[dict[str, list[int]]], images: Tensor, layout: str, training: bool
) -> Form:
    images, net = in_layout(images, layout), net.to(memory_format=LAYOUTS[layout]).train(training)

    def run() -> tuple[Tensor, ...]:
        scores = []
        for setting in settings:
            net.set_active_subnet(**setting)
            with torch.set_grad_enabled(training):
                scores.append(net(images))
            if training:
                scores[-1].square().mean().backward()
                net.zero_grad()
        return tuple(each.detach() for each in scores)

    return Form(f"{name}, {layout}", run, layout=layout)


def main(
    once_for_all: Annotated[Path, typer.Option(help="a checkout of the library, whose code is run")],
    batch: Annotated[int, typer.Option(min=1, help="images of a pass")] = 8,
    image_size: Annotated[int, typer.Option(min=32, help="their height and width")] = 224,
    count: Annotated[int, typer.Option(min=1, help="random sub-networks of a pass")] = 2,
    pairs: Annotated[int, typer.Option(min=1, help="rounds in which all forms run in turn")] = 5,
    evaluation: Annotated[bool, typer.Option(help="time evaluation instead of training")] = False,
    out: Annotated[Path | None, typer.Option(help="file to write times to, as JSON")] = None,
) -> None:
    """Compare, then time; prints a table."""
    torch.set_num_threads(1)
    net = network(once_for_all)
    settings = sub_networks(net, count)
    compare(net, settings)
    images = torch.randn(batch, 3, image_size, image_size, generator=torch.Generator().manual_seed(2))
    forms = [
        form(name, side(net), settings, images, layout, not evaluation)
        for name, side in SIDES.items()
        for layout in LAYOUTS
    ]
    samples = dict(zip((each.name for each in forms), interleave(forms, pairs, 1, Host().clock)))
    medians = {name: statistics.median(times) for name, times in samples.items()}
    best = min((name for name in medians if name.startswith("theirs")), key=medians.__getitem__)
    what = "evaluation" if evaluation else "training"
    print(f"{what}, batch {batch}, {image_size}x{image_size}, {count} sub-networks, one thread, {pairs} rounds")
    print(f"| form | ms | best of theirs ({best}) over it | quartiles |\n| --- | --- | --- | --- |")
    for name, times in samples.items():
        ratio = ratio_of(samples[best], times)
        print(f"| {name} | {1e3 * medians[name]:.0f} | {ratio.median:.2f} | {ratio.low:.2f} to {ratio.high:.2f} |")
    if out is not None:
        shape = {"batch": batch, "image_size": image_size, "evaluation": evaluation, "settings": settings}
        write_json(out, {"environment": environment(CPU), **shape, "seconds": samples})


if __name__ == "__main__":
    typer.run(main)
