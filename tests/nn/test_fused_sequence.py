"""Batch norm and the activation behind it as one operation, and a residual with them."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import kshot_ext
from kshot_ext.nn.fused_sequence import FusedSequence, plus_residual

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")
CODE = torch.tensor([0.25, 0.75])
ACTIVATIONS = [nn.ReLU(inplace=True), nn.ReLU6(), nn.SiLU(), nn.Hardswish(inplace=True)]


def network(activation: nn.Module | None = ACTIVATIONS[0]) -> nn.Sequential:
    layers = [nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)]
    return nn.Sequential(*layers, *([] if activation is None else [activation]))


def converted(model: nn.Module) -> nn.Module:
    kshot = kshot_ext.convert(model, 2, generator=torch.Generator().manual_seed(0))
    for norm in kshot.modules():
        if isinstance(norm, kshot_ext.nn.KShotBatchNorm2d):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    kshot_ext.set_code(kshot, CODE)
    return kshot


def images(memory_format: torch.memory_format = torch.channels_last, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, channels, 7, 6, generator=generator).contiguous(memory_format=memory_format)


def operators(run: Callable[[], object]) -> list[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return [event.name for event in profile.events()]


def outcome(model: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    output = model(x)
    weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), [x, *parameters])]


def one_by_one(sequence: nn.Sequential) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        for layer in sequence:
            x = layer(x)
        return x

    return run


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_is_what_the_layers_are(activation: nn.Module, training: bool, memory_format: torch.memory_format) -> None:
    fused = converted(network(activation)).train(training)
    parameters = list(fused.parameters())
    for one, other in zip(
        outcome(fused, images(memory_format), parameters),
        outcome(one_by_one(fused), images(memory_format), parameters),
    ):
        torch.testing.assert_close(one, other)


def test_is_one_operation() -> None:
    fused, x = converted(network()), images()
    assert "aten::clamp_min_" in operators(lambda: one_by_one(fused)(x))
    assert not {"aten::clamp_min_", "aten::relu_", "aten::relu", "aten::clamp_min"} & {*operators(lambda: fused(x))}


@pytest.mark.parametrize("position", [1, 2])
@pytest.mark.parametrize("kind", ["forward", "backward", "backward_pre"])
def test_hooks_see_what_lies_between(kind: str, position: int) -> None:
    kshot = converted(network())
    plain = kshot_ext.merge(kshot)
    seen: dict[str, list[Tensor]] = {"kshot": [], "plain": []}
    for name, model in (("kshot", kshot), ("plain", plain)):
        register = {
            "forward": model[position].register_forward_hook,
            "backward": model[position].register_full_backward_hook,
            "backward_pre": model[position].register_full_backward_pre_hook,
        }[kind]
        model[2].inplace = False  # what a backward hook looks at must not be written to

        def note(module: nn.Module, *values: object, name: str = name) -> None:
            value = values[-1]
            seen[name].append((value if isinstance(value, Tensor) else value[0]).detach().clone())

        register(note)
        output = model(images().requires_grad_())
        (output * torch.linspace(-1, 1, output.numel()).reshape(output.shape)).sum().backward()
    assert len(seen["kshot"]) == len(seen["plain"]) == 1
    torch.testing.assert_close(seen["kshot"][0], seen["plain"][0], rtol=1e-4, atol=1e-4)


def test_a_forward_of_ones_own_is_called() -> None:
    kshot = converted(network())
    kshot[2].forward = lambda x: x + 1
    torch.testing.assert_close(kshot(images()), kshot[1](kshot[0](images())) + 1)


def test_parts_names_and_print_stay() -> None:
    model = network()
    kshot = converted(model)
    assert [type(layer) for layer in kshot] == [kshot_ext.nn.KShotConv2d, kshot_ext.nn.KShotBatchNorm2d, nn.ReLU]
    assert list(kshot.state_dict()) == list(model.state_dict())
    assert repr(kshot).startswith("Sequential(\n  (0): KShotConv2d(")
    torch.testing.assert_close(kshot[:2](images()), kshot[1](kshot[0](images())))
    assert type(kshot_ext.merge(kshot)) is nn.Sequential


def test_copies_and_pickles_are_fused() -> None:
    kshot = converted(network()).eval()
    file = io.BytesIO()
    torch.save(kshot, file)
    file.seek(0)
    for other in (copy.deepcopy(kshot), torch.load(file, weights_only=False)):
        kshot_ext.set_code(other, CODE)
        assert isinstance(other, FusedSequence)
        assert type(other) is type(kshot)
        assert torch.equal(other(images()), kshot(images()))


class _Doubling(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class _Named(nn.Sequential):
    """A sequence with the usual forward, as torchvision's convolution, norm and activation."""


def test_kinds_of_sequences() -> None:
    own, usual = converted(_Doubling(*network())), converted(_Named(*network()))
    assert type(own) is _Doubling
    torch.testing.assert_close(own(images()), 2 * one_by_one(own)(images()))
    assert isinstance(usual, _Named)
    assert isinstance(usual, FusedSequence)
    assert type(kshot_ext.merge(usual)) is _Named


def test_layers_used_elsewhere_too() -> None:
    """An activation that several sequences share, and a norm whose output is read apart."""
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), relu, nn.Conv2d(5, 5, 1), nn.BatchNorm2d(5), relu)
    kshot = converted(model).eval()
    torch.testing.assert_close(kshot(images()), kshot_ext.merge(kshot)(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_residual(training: bool, nested: bool) -> None:
    plain = nn.Sequential(nn.ReLU(), network(None)) if nested else network(None)
    kshot = converted(plain).train(training)
    residual = images(channels=5)[:, :, 1:-1, 1:-1].contiguous(memory_format=torch.channels_last).requires_grad_()
    parameters = [residual, *kshot.parameters()]

    def apart(x: Tensor) -> Tensor:
        return residual + kshot(x)

    def together(x: Tensor) -> Tensor:
        return plus_residual(kshot, x, residual)

    for one, other in zip(outcome(together, images(), parameters), outcome(apart, images(), parameters)):
        torch.testing.assert_close(one, other)
    assert "aten::add" not in operators(lambda: together(images()))
    assert "aten::add" in operators(lambda: apart(images()))


def test_residual_where_a_hook_looks() -> None:
    kshot, residual = converted(network(None)).eval(), torch.ones(4, 5, 5, 4)
    expected, seen = kshot(images()), []
    for watched in (kshot, kshot[1]):
        handle = watched.register_forward_hook(lambda module, inputs, output: seen.append(output))
        torch.testing.assert_close(plus_residual(kshot, images(), residual), expected + 1)
        handle.remove()
    for output in seen:
        torch.testing.assert_close(output, expected)
    assert len(seen) == 2


def test_residual_behind_an_activation_and_of_plain_layers() -> None:
    residual = torch.ones(4, 5, 5, 4)
    for model in (converted(network()).eval(), network().eval()):
        torch.testing.assert_close(plus_residual(model, images(), residual), model(images()) + 1)


def test_narrow_sequences_are_fused() -> None:
    kshot = converted(network())
    narrow = kshot_ext.narrow(kshot, nn.Sequential(nn.Conv2d(3, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU()))
    kshot_ext.set_code(narrow, CODE)
    assert isinstance(narrow, FusedSequence)
    torch.testing.assert_close(narrow(images()), one_by_one(narrow)(images()))


def test_compiles() -> None:
    kshot = converted(network()).eval()
    compiled = torch.compile(kshot, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images()), kshot(images()))
