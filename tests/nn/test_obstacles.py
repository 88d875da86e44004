"""Layers that cannot become K-shot layers stay as they are, by name and reason; all others become K-shot layers."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from conversion import check_conversion
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import kshot_ext

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")


class OwnConv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(input, weight, self.bias, padding=1)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class FrozenNorm(nn.Module):
    """As torchvision's FrozenBatchNorm2d."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((4, 1, 1), 2.0))

    def forward(self, input: Tensor) -> Tensor:
        return input * self.weight


def convolution() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1)


def with_(
    change: Callable[[nn.Module], object], make: Callable[[], nn.Module] = convolution
) -> Callable[[], nn.Module]:
    """A maker, not a layer: a layer that is made as this file is read has weights that no test's seed decides."""

    def made() -> nn.Module:
        layer = make()
        change(layer)
        return layer

    return made


def batch_norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(4)


def untracked_in_training_only(layer: nn.BatchNorm2d) -> None:
    layer.track_running_stats = False  # plain batch norm then keeps using its statistics in eval mode


def forgets_its_statistics(layer: nn.BatchNorm2d) -> None:
    layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None


def pad_more(layer: nn.Conv2d) -> None:
    layer.padding = (2, 2)  # the border of other padding modes was worked out before


def more_channels_than_it_says(layer: nn.Conv2d) -> None:
    layer.in_channels = 3


def clamp_weight(layer: nn.Module, _inputs: tuple) -> None:
    layer.weight.data.clamp_(-0.1, 0.1)


def own_forward(layer: nn.Module) -> None:
    layer.forward = torch.nn.Identity()


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "weight_norm": (with_(weight_norm), "weight is computed by a hook from weight_g, weight_v"),
    "spectral_norm": (with_(spectral_norm), "weight is computed by a hook from weight_orig"),
    "pruned": (with_(lambda c: prune.l1_unstructured(c, "weight", 0.5)), "computed by a hook from weight_orig"),
    "pruned_bias": (with_(lambda c: prune.random_unstructured(c, "bias", 0.5)), "bias is computed by a hook"),
    "parametrised_weight_norm": (with_(parametrizations.weight_norm), r"weight is computed \(torch.nn.utils.param"),
    "parametrised_spectral_norm": (with_(parametrizations.spectral_norm), "weight is computed"),
    "orthogonal": (with_(parametrizations.orthogonal), "weight is computed"),
    "parametrised_without_bias": (
        with_(parametrizations.weight_norm, lambda: nn.Conv2d(4, 4, 3, padding=1, bias=False)),
        "weight is computed",  # it has no tensor of its own left
    ),
    "parametrised": (
        with_(lambda c: parametrize.register_parametrization(c, "bias", Doubled())),
        "bias is computed",
    ),
    "subclass": (lambda: OwnConv2d(4, 4, 3, padding=1), "OwnConv2d is a subclass of Conv2d"),
    "instance_norm": (lambda: nn.InstanceNorm2d(4, affine=True), "InstanceNorm2d has no K-shot form"),
    "buffers_only": (FrozenNorm, r"test_obstacles\.FrozenNorm holds buffers only, so it has nothing to learn"),
    "untracked_in_training_only": (
        with_(untracked_in_training_only, batch_norm),
        r"buffers are .*running_mean.* where a BatchNorm2d of its attributes has \{\}",
    ),
    "forgets_its_statistics": (with_(forgets_its_statistics, batch_norm), "its buffers are"),
    "scale_alone": (with_(lambda n: setattr(n, "bias", None), batch_norm), "its parameters are"),
    "changed_padding": (
        with_(pad_more, lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")),
        "padding was changed",
    ),
    "wrong_attributes": (with_(more_channels_than_it_says), r"\[4, 4, 3, 3\].*\[4, 3, 3, 3\]"),
    "parameter_of_the_user": (with_(lambda c: setattr(c, "scale", nn.Parameter(torch.ones(1)))), "'scale'"),
    "buffer_of_the_user": (with_(lambda c: c.register_buffer("mask", torch.ones(4))), "'mask'"),
    "part_of_the_user": (with_(lambda c: c.add_module("adapter", nn.ReLU())), "modules of its own: adapter"),
    "own_forward": (with_(own_forward, lambda: nn.Conv2d(4, 4, 1)), "holds modules of its own: forward"),
    "hiding_attribute": (with_(lambda c: setattr(c, "check_code", 3)), "attribute 'check_code' would hide"),
    "hook_on_the_weight": (
        with_(lambda c: c.register_forward_pre_hook(clamp_weight)),
        "forward pre-hook that uses the layer",
    ),
    "unseen_hook": (with_(lambda c: c.register_forward_hook(max)), "forward hook that uses the layer"),
    "old_backward_hook": (with_(lambda c: c.register_backward_hook(lambda *_: None)), "backward hook of the old kind"),
    "state_dict_hook": (with_(lambda c: c._register_state_dict_hook(lambda *_: None)), "has a state-dict hook"),
    "load_hook": (
        with_(lambda c: c.register_load_state_dict_pre_hook(lambda *_: None)),
        "has a load-state-dict pre-hook",
    ),
    "gradient_hook": (with_(lambda c: c.weight.register_hook(lambda grad: 2 * grad)), "weight has a gradient hook"),
    "accumulation_hook": (
        with_(lambda c: c.bias.register_post_accumulate_grad_hook(lambda p: None)),
        "bias has a gradient hook",
    ),
    "expanded": (
        with_(lambda c: setattr(c, "bias", nn.Parameter(torch.ones(1).expand(4)))),
        "bias has memory in common .* or is expanded",
    ),
}
NEITHER_RUN_NOR_LOADED = {"unseen_hook", "expanded"}  # by PyTorch itself


@pytest.mark.filterwarnings("ignore:convert left:UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", LEFT)
def test_stays_as_it_is_among_others(name: str) -> None:
    make, reason = LEFT[name]
    model = nn.Sequential(convolution(), make(), nn.BatchNorm2d(4))
    if name in NEITHER_RUN_NOR_LOADED:
        report = kshot_ext.conversion_report(kshot_ext.convert(model, 2))
    else:
        model(torch.randn(2, 4, 5, 5))  # a hook may have made a weight with a graph
        report = check_conversion(model, torch.randn(2, 4, 5, 5))
    assert report.swapped == {"0": "Conv2d", "2": "BatchNorm2d"}
    assert list(report.left) == ["1"]
    assert re.search(reason, report.left["1"]), report.left


class Table(nn.Embedding):
    """A subclass has no K-shot form."""


class Tied(nn.Module):
    """Two layers, one of which shares its weight with something that has no K-shot form."""

    def __init__(self, tie: Callable[[Tied], object]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.table = Table(4, 4)
        tie(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.table(x.argmax(-1)) + x).tanh())


def to_a_table(model: Tied) -> None:
    model.first.weight = model.table.weight


def to_the_parent(model: Tied) -> None:
    model.weight = model.first.weight


def to_a_list(model: Tied) -> None:
    model.regularised = {"weights": [model.first.weight]}


def to_an_optimiser(model: Tied) -> None:
    model.optimiser = torch.optim.SGD([model.first.weight], lr=0.1)


def by_memory(model: Tied) -> None:
    model.table.weight = nn.Parameter(model.first.weight[:2])


def by_a_view(model: Tied) -> None:
    model.column = model.first.weight.detach()[:, 0]


def to_one_that_is_left(model: Tied) -> None:
    model.third = nn.Linear(4, 4, bias=False)
    model.third.weight = model.first.weight
    model.third.register_forward_pre_hook(clamp_weight)


@pytest.mark.filterwarnings("ignore:convert left:UserWarning")
@pytest.mark.parametrize(
    ("tie", "reason"),
    [
        (to_a_table, "its weight is also table.weight, which stays as it is"),
        (to_the_parent, "its weight is also weight, which stays as it is"),
        (to_a_list, "its weight is also regularised, which stays as it is"),
        (to_an_optimiser, "its weight is also optimiser, which stays as it is"),
        (by_memory, "its weight has memory in common with another tensor, or is expanded"),
        (by_a_view, "its weight has memory in common with another tensor, or is expanded"),
        (to_one_that_is_left, "its weight is also third.weight, which stays as it is"),
    ],
)
def test_ties_to_what_has_no_kshot_form_hold(tie: Callable, reason: str) -> None:
    model = Tied(tie)
    x = torch.randn(5, 4) if tie is not by_memory else torch.randn(5, 4)[:, :2].repeat(1, 2).sort(descending=True)[0]
    report = check_conversion(model, x)
    assert report.left["first"] == reason
    assert set(report.swapped) == {"second"}
    kshot = kshot_ext.convert(model, 2)
    with torch.no_grad():
        kshot.first.weight.zero_()
    ties = {to_a_table: lambda: kshot.table.weight, by_memory: lambda: kshot.table.weight}
    ties |= {to_the_parent: lambda: kshot.weight, to_a_list: lambda: kshot.regularised["weights"][0]}
    ties |= {by_a_view: lambda: kshot.column}
    ties |= {to_an_optimiser: lambda: kshot.optimiser.param_groups[0]["params"][0]}
    assert not ties.get(tie, lambda: kshot.third.weight)().any()
    assert model.first.weight.any()


def test_a_layer_that_stays_keeps_those_tied_to_it_from_going() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight = model[1].weight
    model[1].bias = model[2].bias
    model.scale = model[2].weight
    with pytest.warns(UserWarning, match="convert left some layers"):
        report = kshot_ext.conversion_report(kshot_ext.convert(model, 2))
    assert report.swapped == {"3": "Linear"}
    assert report.left["0"] == "its weight is also 1.weight, which stays as it is"
    assert report.left["1"] == "its bias is also 2.bias, which stays as it is"


def test_a_lazy_layer_asks_for_a_call_first() -> None:
    with pytest.warns(UserWarning, match="1: LazyLinear does not know its shapes yet: call the model once before"):
        kshot_ext.convert(nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(3)), 2)


@pytest.mark.filterwarnings("error")
def test_a_lazy_layer_that_was_called_is_converted() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))
    x = torch.randn(2, 2, 5, 5)
    model(x)
    report = check_conversion(model, x)
    assert report.swapped == {"0": "Conv2d", "1": "BatchNorm2d", "3": "Linear"}


def test_a_compiled_model_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"_orig_mod\.0: is inside a OptimizedModule: compile the model after convert"):
        kshot_ext.convert(torch.compile(nn.Sequential(nn.Linear(4, 4))), 2)
