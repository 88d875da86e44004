"""One training step of a random path of our own supernets, against the plain PyTorch network of that path.

This is what a user of the search runs: modules, not operators called by hand. The rival has one weight a layer, the
effective one, and pays for no mixing at all: it is what training without copies would cost. Widths are those of the
published networks, times the share that the layer set's first convolution has of NAS-Bench-Macro's stem. Candidates off
the path are not built: no step touches them, and building all 274 of MobileNetV2-SE takes longer than measuring.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.forms import LAYOUTS, Contest, Form, in_layout
from benchmarks.layers import LayerSet
from benchmarks.networks import NAS_BENCH_MACRO_STEM
from benchmarks.place import CPU, Place
from benchmarks.works.row import Demand, Row
from benchmarks.works.sgd import SETTINGS
from benchmarks.works.step_demands import step_demands
from kshot_ext import functional as KF
from kshot_ext.nas.networks.export import extract
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import NetworkShape, SearchSpace
from kshot_ext.optim import KShotSGD

CLASSES = 10
SIDE = 32  # of the images
IMAGE_SHAPE = (3, SIDE, SIDE)
PUBLISHED_CHANNELS = {"nas-bench-macro": 32, "nas-bench-201": 16, "shufflenet-v2": 16, "mobilenet-v2-se": 32}


class PathSpace(SearchSpace):
    """The space of one architecture of another space."""

    def __init__(self, space: SearchSpace, path: Architecture) -> None:
        super().__init__(
            space.name,
            image_shape=space.image_shape,
            num_classes=space.num_classes,
            operations=[(operation,) for operation in space.operation_names(path)],
        )
        self.whole, self.only_path = space, Architecture((0,) * space.num_layers)

    def network_shape(self, ratios: Sequence[float]) -> NetworkShape:
        return self.whole.full_shape

    def stem(self, shape: Hashable) -> nn.Module:
        return self.whole.stem(shape)

    def candidate(self, operation: str, shape: Hashable) -> nn.Module:
        return self.whole.candidate(operation, shape)

    def head(self, shape: Hashable) -> nn.Module:
        return self.whole.head(shape)

    def assemble(self, stem: nn.Module, layers: Iterable[nn.Module], head: nn.Module) -> nn.Module:
        return self.whole.assemble(stem, layers, head)


def step_form(
    name: str,
    logits_of: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    first_bias: Callable[[], Tensor],
    batch: int,
    layout: str,
    place: Place,
) -> Form:
    """A step; the forms must agree on loss, class scores, and the gradient that the whole backward pass ends in.

    Args:
        first_bias: the offset of the first batch norm, zero before the first step, which moves it by its gradient.
    """
    generator = torch.Generator().manual_seed(2)
    images = in_layout(place.normal(generator, batch, 3, SIDE, SIDE), layout)
    labels = torch.randint(CLASSES, (batch,), generator=generator).to(place.device)

    def run() -> tuple[Tensor, ...]:
        logits = logits_of(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach(), logits.detach()

    def values(result: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (*result, first_bias().detach().clone())

    return Form(f"{name} ({layout})", run, values=values, layout=layout)


def _drawn_path(space_name: str, channels: int, generator: torch.Generator) -> PathSpace:
    whole = create_space(space_name, image_shape=IMAGE_SHAPE, num_classes=CLASSES, channels=channels)
    return PathSpace(whole, whole.sample(generator))


def own_supernet_demands(space_name: str, num_shots: int, batch: int, channels: int) -> list[Demand]:
    """What the parts of a step take at least."""
    generator = torch.Generator().manual_seed(0)
    space = _drawn_path(space_name, channels, generator)
    plain = extract(Supernet(space, 1, generator), space.only_path, torch.ones(1))
    return step_demands(plain, IMAGE_SHAPE, batch, num_shots)


def own_supernet_contest(space_name: str, num_shots: int, batch: int, channels: int, place: Place = CPU) -> Contest:
    generator = torch.Generator().manual_seed(0)
    space = _drawn_path(space_name, channels, generator)
    code = torch.randn(num_shots, generator=generator).softmax(-1).to(place.device)
    supernet = Supernet(space, num_shots, generator).to(place.device)

    plain = extract(supernet, space.only_path, code).train()

    def plain_form(layout: str) -> Form:
        network = copy.deepcopy(plain).to(memory_format=LAYOUTS[layout])
        optimizer = torch.optim.SGD(network.parameters(), **SETTINGS, fused=True)
        norm = _first_norm(network)
        return step_form("plain network, SGD(fused=True)", network, optimizer, lambda: norm.bias, batch, layout, place)

    def our_form(supernet: Supernet, code: Tensor) -> Form:
        norm = _first_norm(supernet.stem)
        return step_form(
            f"Supernet, KShotSGD, K = {supernet.num_shots}",
            lambda images: supernet(images, space.only_path, code),
            KShotSGD(supernet.parameters(), **SETTINGS),
            # Each copy moves by its share of the gradient, and counts by its share in the mixture.
            lambda: code @ norm.bias / code.square().sum(),
            batch,
            "channels_last",
            place,
        )

    return Contest(
        [our_form(supernet, code)],
        {
            "plain network": [plain_form(layout) for layout in LAYOUTS],
            "ours, K = 1": [our_form(_mixed_once(supernet, code), torch.ones(1, device=place.device))],
        },
        # Rounding decides on which side of ReLU's kink a value near zero falls: the gradients of the plain network's
        # two layouts differ by up to 4 % behind twenty layers, its class scores by 0.01 %.
        100 * place.tolerance,
    )


def _mixed_once(supernet: Supernet, code: Tensor) -> Supernet:
    """The supernet of one copy that computes the same: its weights are the effective ones."""
    single = Supernet(supernet.space, 1, torch.Generator()).to(code.device)
    with torch.no_grad():
        for only, dictionary in zip(single.parameters(), supernet.parameters()):
            only.copy_(KF.effective_weight(dictionary, code)[None])
    return single


def _first_norm(network: nn.Module) -> nn.Module:
    """The first batch norm of a network, or of the first part of one."""
    return next(module for module in network.modules() if hasattr(module, "running_mean"))


def own_supernet_rows(layers: LayerSet) -> list[Row]:
    """One row for each space."""
    share = layers.convolutions[0].out_channels / NAS_BENCH_MACRO_STEM.out_channels
    return [
        Row(
            space_name,
            f"step of {space_name}",
            f"K = {layers.num_shots}, batch {layers.batch}, {SIDE}x{SIDE}, {channels} channels",
            1,
            partial(own_supernet_contest, space_name, layers.num_shots, layers.batch, channels),
            parts=partial(own_supernet_demands, space_name, layers.num_shots, layers.batch, channels),
        )
        for space_name, published in PUBLISHED_CHANNELS.items()
        for channels in [max(1, round(share * published))]
    ]
