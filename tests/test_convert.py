"""From plain models to K-shot models and back."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import kshot_ext
from kshot_ext.nn import KShotLinear, KShotModule

SHOTS = 3
FIRST = torch.eye(SHOTS)[0]
CODE = torch.tensor([0.5, 0.3, 0.2])
pytestmark = [
    pytest.mark.usefixtures("native_backend", "one_thread"),
    pytest.mark.filterwarnings("ignore:convert left some layers:UserWarning"),
]


class Residual(nn.Module):
    """Inverted bottleneck: pointwise, depthwise, grouped, with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(4, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.project = nn.Conv2d(8, 4, (1, 3), padding="same", groups=2)
        self.norm_out = nn.BatchNorm2d(4, momentum=None, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.norm(self.expand(x)).relu())
        return x + self.norm_out(self.project(y))


class SequenceAndVolume(nn.Module):
    """One- and three-dimensional convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.sequence = nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular")
        self.volume = nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.sequence(x.flatten(2))
        return self.volume(y.reshape(x.shape[0], 2, 3, *x.shape[2:]))


class TiedPerceptron(nn.Module):
    """A layer used twice, and another one that shares its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(self.again(self.first(x.mean((2, 3))).tanh()).tanh())


class Transformer(nn.Module):
    """Attention reads its layers' weights itself, past their forward."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(4, 8, 2, stride=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.feed_forward = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).mT
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        return tokens + self.feed_forward(self.norm(tokens))


def plain_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.0), nn.Flatten(), nn.Linear(48, 5)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain_network,
    "residual": Residual,
    "sequence_and_volume": SequenceAndVolume,
    "tied_perceptron": TiedPerceptron,
    "transformer": Transformer,
}
ALL_NETWORKS = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
TRAINING = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, 4, 6, 8, generator=torch.Generator().manual_seed(5)).to(dtype)


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """A network whose batch norm buffers have moved."""
    model = make()
    model(images())
    return model


def converted(model: nn.Module, code: Tensor) -> nn.Module:
    kshot = kshot_ext.convert(model, SHOTS, generator=torch.Generator().manual_seed(0))
    kshot_ext.set_code(kshot, code)
    return kshot


@TRAINING
@ALL_NETWORKS
def test_first_copy_is_the_model(make: Callable[[], nn.Module], training: bool) -> None:
    model = trained(make).train(training)
    kshot = converted(model, FIRST)
    assert any(isinstance(layer, KShotModule) for layer in kshot.modules())
    torch.testing.assert_close(kshot(images()), model(images()), rtol=1e-5, atol=1e-5)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(kshot.get_buffer(name), buffer)


@TRAINING
@ALL_NETWORKS
def test_merged_model_is_plain_and_gives_what_the_kshot_model_gives(
    make: Callable[[], nn.Module], training: bool
) -> None:
    kshot = converted(trained(make).train(training), CODE)
    merged = kshot_ext.merge(kshot, CODE)
    assert not any(isinstance(layer, KShotModule) for layer in merged.modules())
    torch.testing.assert_close(merged(images()), kshot(images()), rtol=1e-5, atol=1e-5)
    for name, buffer in kshot.named_buffers():
        torch.testing.assert_close(merged.get_buffer(name), buffer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@ALL_NETWORKS
def test_round_trip_is_the_model(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    """Types, structure, state and dtype; the state to the last bit."""
    model = trained(make).to(dtype).eval()
    back = kshot_ext.merge(kshot_ext.convert(model, SHOTS), FIRST)
    assert repr(back) == repr(model)
    state, state_back = model.state_dict(), back.state_dict()
    assert list(state) == list(state_back)
    assert all(state[name].dtype == state_back[name].dtype for name in state)
    assert all(torch.equal(state[name], state_back[name]) for name in state)
    assert torch.equal(back(images(dtype)), model(images(dtype)))


@ALL_NETWORKS
def test_neither_way_touches_its_argument(make: Callable[[], nn.Module]) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    kshot = converted(model, CODE)
    kshot_before = copy.deepcopy(kshot.state_dict())
    merged = kshot_ext.merge(kshot, CODE)
    for tensor in [*kshot.parameters(), *merged.parameters()]:
        nn.init.zeros_(tensor)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    again = converted(model, CODE)
    assert all(torch.equal(kshot_before[name], tensor) for name, tensor in again.state_dict().items())


@ALL_NETWORKS
def test_gradients_reach_every_copy(make: Callable[[], nn.Module]) -> None:
    kshot = converted(make(), CODE)
    kshot(images()).square().sum().backward()
    for module in kshot.modules():
        if isinstance(module, KShotModule):
            assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
            assert all(p.shape[0] == SHOTS for p in module.parameters())


def test_other_copies_are_perturbed_by_the_size_of_the_weight() -> None:
    model = nn.Sequential(nn.Linear(200, 300))
    kshot = kshot_ext.convert(model, 4, perturbation=0.25)
    weight, copies = model[0].weight, kshot[0].weight
    assert torch.equal(copies[0], weight)
    for k in range(1, 4):
        size = (copies[k] - weight).square().mean().sqrt() / weight.square().mean().sqrt()
        assert 0.24 < size < 0.26
    assert not torch.equal(copies[1], copies[2])


def test_same_generator_same_copies() -> None:
    model = plain_network()
    first, second = converted(model, CODE), converted(model, CODE)
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters()))


def test_no_perturbation_gives_equal_copies() -> None:
    weight = kshot_ext.convert(nn.Sequential(nn.Linear(4, 2)), 3, perturbation=0)[0].weight
    assert torch.equal(weight[0], weight[2])


def test_shared_layers_and_tied_weights_stay_shared() -> None:
    kshot = converted(TiedPerceptron(), CODE)
    assert kshot.first is kshot.again
    assert kshot.tied.weight is kshot.first.weight
    merged = kshot_ext.merge(kshot, CODE)
    assert merged.first is merged.again
    assert merged.tied.weight is merged.first.weight


class Halved(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


def test_what_stays_is_warned_of_and_reported_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.InstanceNorm2d(4, affine=True), Halved(6, 2))
    with pytest.warns(UserWarning, match=r"as they are\n  2: \S+Halved is a subclass of Linear") as seen:
        kshot = kshot_ext.convert(model, SHOTS)
    assert seen[0].filename == __file__
    assert "InstanceNorm" not in str(seen[0].message)  # nobody expects K copies of it
    report = kshot_ext.conversion_report(kshot)
    assert report.swapped == {"0": "Conv2d"}
    assert list(report.left) == ["1", "2"]
    assert report.left["1"] == "InstanceNorm2d has no K-shot form"
    assert type(kshot[2]) is Halved
    with pytest.raises(AttributeError):
        report.swapped = {}


def test_a_report_is_of_the_model_as_it_is_now() -> None:
    kshot = kshot_ext.convert(plain_network(), SHOTS)
    kshot[0] = nn.Conv2d(4, 8, 3, stride=2)
    kshot.append(nn.PReLU(5))
    report = kshot_ext.conversion_report(copy.deepcopy(kshot))
    assert report.swapped == {"1": "BatchNorm2d", "5": "Linear"}
    assert report.left == {"0": "it is plain, and convert would swap it", "6": "PReLU has no K-shot form"}
    assert list(kshot_ext.conversion_report(kshot_ext.convert(kshot, 2)).swapped) == ["0", "1", "5"]


def test_hooks_that_do_not_use_the_layer_are_carried_over() -> None:
    layer, calls = nn.Linear(4, 4), []

    def double(_layer: nn.Module, inputs: tuple, kwargs: dict) -> tuple:
        return (2 * inputs[0],), kwargs

    layer.register_forward_pre_hook(double, with_kwargs=True)
    handle = layer.register_forward_hook(lambda _layer, _inputs, output: output + 1)
    layer.register_forward_hook(lambda *_: calls.append("forward"), always_call=True)
    layer.register_full_backward_hook(lambda _layer, grads, _outputs: (3 * grads[0],))
    layer.register_full_backward_pre_hook(lambda *_: calls.append("backward"))
    kshot = converted(layer, FIRST)
    assert isinstance(kshot, KShotLinear)
    results = []
    for each in (layer, kshot, kshot_ext.merge(kshot)):
        x = torch.ones(2, 4, requires_grad=True)
        output = each(x)
        output.square().sum().backward()
        assert calls == ["forward", "backward"]
        calls.clear()
        with pytest.raises((RuntimeError, ValueError)):
            each(torch.ones(2, 5))
        assert calls == ["forward"]  # always, also after an error
        calls.clear()
        results.append((output, x.grad))
    for output, gradient in results[1:]:
        torch.testing.assert_close(output, results[0][0])
        torch.testing.assert_close(gradient, results[0][1])
    handle.remove()  # of the model's own layer: the copy keeps its hook, as a deep copy does
    torch.testing.assert_close(kshot(torch.ones(2, 4)), results[0][0])
    torch.testing.assert_close(layer(torch.ones(2, 4)) + 1, results[0][0])


def test_attributes_of_layers_and_parameters_are_kept() -> None:
    model = plain_network()
    model[0].role, model[0].weight.no_decay, model[5].weight.scale = "stem", True, 2.0
    kshot = converted(model, CODE)
    for each in (kshot, kshot_ext.merge(kshot)):
        assert each[0].role == "stem"
        assert each[0].weight.no_decay
        assert each[5].weight.scale == 2.0
    assert vars(kshot_ext.merge(kshot)[0]).keys() == vars(model[0]).keys()


def test_an_optimiser_takes_nothing_from_layers_and_parameters() -> None:
    """`KShotSGD` changes the class of the parameters that it owns."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight.no_decay = model[1].weight.no_decay = True
    kshot = kshot_ext.convert(model, SHOTS, include="0")
    kshot_ext.optim.KShotSGD(kshot.parameters(), lr=0.1)
    assert kshot_ext.conversion_report(kshot).left == {"1": "it is plain, and convert would swap it"}
    for each in (kshot_ext.merge(kshot, CODE), kshot_ext.convert(kshot, SHOTS)):
        assert [vars(each[index].weight) for index in (0, 1)] == [{"no_decay": True}] * 2


class Listed(nn.Module):
    """Its forward takes the layers from a list that modules know nothing of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.order = [(self.second, torch.tanh), (self.first, torch.relu)]

    def forward(self, x: Tensor) -> Tensor:
        for layer, activation in self.order:
            x = activation(layer(x))
        return x


def test_layers_in_plain_lists_are_converted_too() -> None:
    kshot = converted(Listed(), CODE)
    x = torch.randn(2, 4)
    kshot(x).sum().backward()
    assert kshot.order[0][0] is kshot.second
    assert all(p.grad is not None for p in kshot.parameters())
    torch.testing.assert_close(kshot_ext.merge(kshot)(x), kshot(x))


def test_a_layer_that_stays_keeps_the_gradient_hook_that_a_deep_copy_loses() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].weight.register_hook(lambda gradient: gradient * 0)
    for each in (converted(model, FIRST), kshot_ext.merge(converted(model, FIRST))):
        each(torch.ones(1, 4)).sum().backward()
        assert not each[0].weight.grad.any()
        assert each[0].bias.grad.any()


@pytest.mark.parametrize("order", ["gaps", "part", "transposed"])
def test_weights_with_gaps_and_of_any_order(order: str) -> None:
    weight = {"gaps": torch.randn(4, 8)[:, ::2], "part": torch.randn(6, 4)[1:5], "transposed": torch.randn(4, 4).mT}
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(weight[order])
    kshot = kshot_ext.convert(layer, SHOTS, perturbation=0)
    assert all(torch.equal(copy, layer.weight) for copy in kshot.weight)
    with torch.no_grad():
        kshot.weight[0].zero_()  # copies must have no memory in common
    assert torch.equal(kshot.weight[1], layer.weight)
    assert torch.equal(kshot_ext.merge(kshot, FIRST.flip(0)).weight, layer.weight)


def test_a_meta_model_stays_on_the_meta_device() -> None:
    kshot = kshot_ext.convert(plain_network().to("meta"), SHOTS)
    assert {tensor.device.type for tensor in kshot.state_dict().values()} == {"meta"}
    loaded = kshot.to_empty(device="cpu")
    loaded.load_state_dict(converted(plain_network(), CODE).state_dict())
    kshot_ext.set_code(loaded, CODE)
    assert loaded(images()).isfinite().all()


def test_a_lone_layer_is_converted_itself() -> None:
    kshot = kshot_ext.convert(nn.Linear(4, 2), 3)
    assert isinstance(kshot, KShotLinear)
    assert isinstance(kshot_ext.merge(kshot, CODE), nn.Linear)


def test_frozen_parameters_stay_frozen() -> None:
    model = plain_network()
    model[0].requires_grad_(False)
    kshot = converted(model, CODE)
    assert [p.requires_grad for p in kshot[0].parameters()] == [False, False]
    assert [p.requires_grad for p in kshot[5].parameters()] == [True, True]
    merged = kshot_ext.merge(kshot, CODE)
    assert not merged[0].weight.requires_grad
    assert merged[5].weight.requires_grad


def test_training_flags_are_kept_layer_by_layer() -> None:
    model = plain_network()
    model[1].eval()
    kshot = converted(model, CODE)
    assert not kshot[1].training
    assert kshot[0].training
    merged = kshot_ext.merge(kshot, CODE)
    assert not merged[1].training
    assert merged[0].training


@pytest.mark.parametrize("when", ["before", "after"])
def test_channels_last(when: str) -> None:
    model = trained(plain_network).eval()
    expected = model(images())
    if when == "before":
        model = model.to(memory_format=torch.channels_last)
    kshot = converted(model, FIRST)
    if when == "after":
        kshot = kshot.to(memory_format=torch.channels_last)
    assert kshot[0].weight[2].is_contiguous(memory_format=torch.channels_last)
    features = kshot[0](images().to(memory_format=torch.channels_last))
    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(kshot(images().to(memory_format=torch.channels_last)), expected)
    assert kshot_ext.merge(kshot, FIRST)[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_state_dict_goes_from_one_converted_model_to_another() -> None:
    first, second = converted(plain_network(), CODE), converted(plain_network(), CODE)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first.eval()(images()), second.eval()(images()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_shots": 0}, "num_shots must be an int >= 1, got 0"),
        ({"num_shots": 2.0}, "num_shots must be an int >= 1, got 2.0"),
        ({"perturbation": -0.1}, "perturbation must be >= 0, got -0.1"),
    ],
)
def test_convert_rejects(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kshot_ext.convert(plain_network(), **arguments)


def test_convert_needs_a_layer_to_convert() -> None:
    with pytest.raises(ValueError, match="ReLU has no layer to convert: expected a Conv2d, a Linear, a norm"):
        kshot_ext.convert(nn.ReLU())


def test_merge_takes_the_code_that_each_layer_holds() -> None:
    """Layers of one model may have different codes, even if they share a dictionary."""
    kshot = converted(TiedPerceptron(), CODE)
    with torch.no_grad():
        kshot.first.weight.copy_(torch.randn(3, 4, 4))
    kshot_ext.set_code(kshot.first, FIRST)
    kshot_ext.set_code(kshot.tied, CODE)
    merged = kshot_ext.merge(kshot)
    torch.testing.assert_close(merged.first.weight, kshot.first.weight[0])
    expected = torch.einsum("k,koi->oi", CODE, kshot.tied.weight)
    torch.testing.assert_close(merged.tied.weight, expected)
    kshot_ext.set_code(kshot, None)
    with pytest.raises(ValueError, match="KShotLinear needs a code of 3 entries"):
        kshot_ext.merge(kshot)


def test_merge_keeps_ties_under_equal_codes_in_different_tensors() -> None:
    kshot = converted(TiedPerceptron(), CODE)
    kshot_ext.set_code(kshot.tied, CODE.clone())
    merged = kshot_ext.merge(kshot)
    assert merged.tied.weight is merged.first.weight


def test_merge_of_a_parametrised_kshot_layer_holds_the_effective_weight() -> None:
    kshot = converted(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2)), CODE)
    nn.utils.parametrizations.weight_norm(kshot[0])
    kshot[0].parametrizations.weight.original0.data.mul_(3)
    merged = kshot_ext.merge(kshot)
    assert type(merged[0]) is nn.Linear
    torch.testing.assert_close(merged[0].weight, torch.einsum("k,koi->oi", CODE, kshot[0].weight))
    torch.testing.assert_close(merged(torch.ones(1, 4)), kshot(torch.ones(1, 4)))
    assert merged[0].weight.requires_grad
    assert list(merged.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert kshot_ext.conversion_report(kshot).swapped == {"0": "Linear", "1": "Linear"}


class OwnLinear(KShotLinear):
    pass


def test_merge_refuses_by_name_what_has_no_plain_form() -> None:
    kshot = converted(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), CODE)
    with pytest.raises(ValueError, match="layer '2': merge knows no plain form of OwnLinear"):
        kshot_ext.merge(kshot.append(OwnLinear(4, 2, num_shots=SHOTS)))
    pruned = converted(nn.Sequential(nn.Linear(4, 4)), CODE)
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    with pytest.raises(ValueError, match=r"layer '0': expected the parameters .*weight_orig.*prune.remove"):
        kshot_ext.merge(pruned)
    tied = converted(nn.Sequential(nn.Linear(4, 4)), CODE)
    tied.regularised = tied[0].weight
    with pytest.raises(ValueError, match=r"0\.weight is also regularised, which would keep all copies"):
        kshot_ext.merge(tied)


def test_merge_rejects() -> None:
    kshot = converted(plain_network(), CODE)
    with pytest.raises(
        ValueError, match=r"layer '0': code must have shape \[K\]: a plain layer has one weight; got \[2, 3\]"
    ):
        kshot_ext.merge(kshot, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"code must have K = 3 entries.*got shape \[2\]"):
        kshot_ext.merge(kshot, torch.zeros(2))
    with pytest.raises(ValueError, match="Sequential holds no K-shot layer to merge"):
        kshot_ext.merge(plain_network(), CODE)
