"""Planned norms, linear maps and links: what a second call enters, and that it gives what the first gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from calls import Call, draw, frames, results
from cases import lay_out
from torch import Tensor

import kshot_ext
from kshot_ext import backend, reference
from kshot_ext import functional as KF
from kshot_ext.ops import plans
from kshot_ext.optim import KShotSGD

CHANNELS_LAST = torch.channels_last


@pytest.fixture(autouse=True)
def _no_plans() -> Iterator[None]:
    plans.forget()
    yield
    plans.forget()


def images(*, channels: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, channels, 3, 7, generator=generator).contiguous(memory_format=CHANNELS_LAST)


def code_of(shots: int = 3) -> Tensor:
    return torch.linspace(-1, 1, shots).softmax(0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("given_code", [True, False])
def test_a_call_of_a_norm_enters_three_functions(training: bool, given_code: bool) -> None:
    """The module's forward, the operator and its autograd function."""
    layer, x = kshot_ext.nn.KShotBatchNorm2d(5, num_shots=3).train(training), images().requires_grad_()
    arguments = (x, code_of()) if given_code else (x,)
    kshot_ext.set_code(layer, None if given_code else code_of())
    options = {"activation": "relu", "residual": images()}
    layer(*arguments, **options)
    assert frames(lambda: layer(*arguments, **options)) == ["forward", "batch_norm_act", "_forward"]
    with torch.no_grad():
        layer(*arguments, **options)
        assert frames(lambda: layer(*arguments, **options)) == ["forward", "batch_norm_act", "unrecorded"]


@pytest.mark.parametrize(("bias", "mixing"), [(True, "_pair_forward"), (False, "_forward")])
def test_a_call_of_a_linear_layer_enters_three_functions(bias: bool, mixing: str) -> None:
    x, layer = torch.randn(4, 5, requires_grad=True), kshot_ext.nn.KShotLinear(5, 6, bias=bias, num_shots=3)
    kshot_ext.set_code(layer, code_of())
    layer(x)
    assert frames(lambda: layer(x)) == ["forward", "kshot_linear", mixing]


def test_calls_of_a_chain_enter_two_functions_each() -> None:
    x, dictionary, code = images().requires_grad_(), torch.randn(3, 6, 5, 1, 1), code_of()
    norm = KF.ChannelNorm(torch.zeros(6), torch.ones(6), torch.ones(6), activation="relu")

    def link() -> Tensor:
        return KF.chained_conv2d(x, dictionary, code).raw

    raw = link()
    assert frames(link) == ["chained_conv2d", "_forward"]
    KF.chained_norm_act(raw, norm, raw)
    assert frames(lambda: KF.chained_norm_act(raw, norm, raw)) == ["chained_norm_act", "_forward"]


LINKS: dict[str, dict[str, Any]] = {
    "pointwise": {"weight": (3, 6, 5, 1, 1)},
    "depthwise": {"weight": (3, 5, 1, 3, 3), "groups": 5, "padding": 1},
    "per_sample": {"weight": (3, 5, 1, 3, 3), "code": (4, 3), "groups": 5, "padding": 1},
}


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_planned_chains_are_those_of_the_reference(link: dict[str, Any], waits: bool) -> None:
    """A link with and without a norm before it, and the end of the chain, which takes its moments."""
    generator = torch.Generator().manual_seed(1)
    window = {name: link[name] for name in ("groups", "padding") if name in link}
    tensors = {"input": images(), "weight": draw(generator, *link["weight"]).float()}
    tensors |= {"code": draw(generator, *link.get("code", (3,))).float(), "scale": draw(generator, 5).float()}
    tensors["offset"] = draw(generator, link["weight"][1]).float()

    def chain(module: Any) -> Callable[..., Tensor]:
        def run(input: Tensor, weight: Tensor, code: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
            norm = KF.ChannelNorm(torch.zeros(5), torch.ones(5), scale, None, 1e-3, "silu") if waits else None
            raw, mean, variance = module.chained_conv2d(input, weight, code, norm=norm, **window)
            end = KF.ChannelNorm(mean, variance, None, offset, 1e-3, "silu")
            output = module.chained_norm_act(raw, end, raw)
            return output if waits else output + scale.sum()

        return run

    call = Call(tensors)
    results(chain(KF), call)
    assert len(plans.kept) == 2
    planned, expected = results(chain(KF), call), results(chain(reference), call)
    assert len(plans.kept) == 2
    for name, value in expected.items():
        torch.testing.assert_close(planned[name], value, rtol=1e-3, atol=1e-4)


def test_links_are_planned_anew_for_another_autocast_type() -> None:
    x, dictionary = images().bfloat16(), torch.randn(3, 6, 5, 1, 1)
    for dtype in (torch.bfloat16, torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype):
            assert KF.chained_conv2d(x, dictionary, code_of()).raw.dtype == dtype


NORMS: dict[str, dict[str, Any]] = {
    "dictionaries": {"weight": (3, 5), "bias": (3, 5), "code": (3,)},
    "code_per_sample": {"weight": (3, 5), "bias": (3, 5), "code": (4, 3)},
    "plain_bias": {"weight": (3, 5), "bias": (5,), "code": (3,)},
    "plain": {"weight": (5,), "bias": (5,)},
    "no_bias": {"weight": (3, 5), "code": (3,)},
    "no_affine": {},
}


@pytest.mark.parametrize("activation", ["identity", "silu"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shapes", NORMS.values(), ids=NORMS)
def test_planned_norms_are_those_of_the_reference(shapes: dict[str, Any], training: bool, activation: str) -> None:
    """Values, gradients of all operands, and the running statistics."""
    generator = torch.Generator().manual_seed(1)
    tensors = {"input": images(), "residual": images().flip(0).contiguous(memory_format=CHANNELS_LAST)}
    tensors |= {name: draw(generator, *shape).float() for name, shape in shapes.items()}
    options = {"training": training, "activation": activation, "momentum": 0.25}
    options |= {name: None for name in ("weight", "bias") if name not in shapes}
    state = {"running_mean": draw(generator, 5).float(), "running_var": draw(generator, 5).float().square() + 1}
    call = Call(tensors, options, state)
    first = results(KF.batch_norm_act, call)
    assert len(plans.kept) == 1
    planned, expected = results(KF.batch_norm_act, call), results(reference.batch_norm_act, call)
    assert len(plans.kept) == 1
    for name, value in expected.items():
        torch.testing.assert_close(planned[name], value, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: name + text)
        torch.testing.assert_close(planned[name], first[name], rtol=1e-6, atol=1e-6)


LINEARS: dict[str, dict[str, Any]] = {
    "bias_dictionary": {"bias": (3, 6)},
    "plain_bias": {"bias": (6,)},
    "gate": {"gate": (6,), "bias": (3, 6)},
    "no_bias": {},
}


@pytest.mark.parametrize("rows", [(4,), (4, 3)], ids=str)
@pytest.mark.parametrize("shapes", LINEARS.values(), ids=LINEARS)
def test_planned_linear_maps_are_those_of_the_reference(shapes: dict[str, Any], rows: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = {"input": (*rows, 5), "weight": (3, 6, 5), "code": (3,), **shapes}
    call = Call({name: draw(generator, *shape).float() for name, shape in shapes.items()})
    results(KF.kshot_linear, call)
    assert len(plans.kept) == 1
    planned, expected = results(KF.kshot_linear, call), results(reference.kshot_linear, call)
    assert len(plans.kept) == 1
    for name, value in expected.items():
        torch.testing.assert_close(planned[name], value, rtol=1e-4, atol=1e-4)


UNPLANNED_NORMS: dict[str, Callable[[Call], Call]] = {
    "narrow": lambda call: replace(
        call,
        tensors={**call.tensors, "input": call.tensors["input"][:, :4], "residual": call.tensors["residual"][:, :4]},
    ),
    "contiguous": lambda call: replace(call, tensors={n: t.contiguous() for n, t in call.tensors.items()}),
    "double_code": lambda call: replace(call, tensors={**call.tensors, "code": call.tensors["code"].double()}),
    "half_residual": lambda call: replace(call, tensors={**call.tensors, "residual": call.tensors["residual"].half()}),
    "half_statistics": lambda call: replace(call, state={name: s.half() for name, s in call.state.items()}),
    "vectors": lambda call: lay_out(
        replace(call, tensors={n: t[:, :, 0, 0] if t.dim() == 4 else t for n, t in call.tensors.items()}), "contiguous"
    ),
}


@pytest.mark.parametrize("change", UNPLANNED_NORMS.values(), ids=UNPLANNED_NORMS)
def test_norms_with_something_to_cast_or_cut_have_no_plan(change: Callable[[Call], Call]) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = {"input": images(), "residual": images(), "weight": draw(generator, 3, 5).float(), "code": code_of()}
    state = {"running_mean": torch.zeros(5), "running_var": torch.ones(5)}
    call = change(Call(tensors, {"bias": None}, state))
    for _ in range(2):
        results(KF.batch_norm_act, call)
    assert plans.kept == {}


def test_gradients_of_owned_dictionaries_stay_compact_and_train_as_dense_ones() -> None:
    """A step of KShotSGD, planned and not, moves scales, offsets and weights alike."""
    outcomes = []
    for planned in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            kshot_ext.nn.KShotBatchNorm2d(5, num_shots=3),
            torch.nn.Flatten(),
            kshot_ext.nn.KShotLinear(105, 2, num_shots=3),
        )
        kshot_ext.set_code(model, code_of())
        optimizer = KShotSGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            model(images()).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if not planned:
                plans.forget()
        assert bool(plans.kept) is planned
        outcomes.append([parameter.detach().clone() for parameter in model.parameters()])
    for one, other in zip(*outcomes):
        torch.testing.assert_close(one, other)


def test_second_derivatives_of_planned_norms_are_refused() -> None:
    x, weight = images().requires_grad_(), torch.ones(3, 5, requires_grad=True)

    def output() -> Tensor:
        return KF.batch_norm_act(x, weight, None, None, None, code=code_of(), activation="silu")

    output()
    gradient = torch.autograd.grad(output().square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="no derivative"):
        gradient.square().sum().backward()


def test_other_backends_and_modes_pass_the_plan_by() -> None:
    x, code, calls = images(), code_of(), []
    weight = torch.randn(3, 5)
    planned = KF.batch_norm_act(x, weight, None, None, None, code=code)
    with backend.use_reference():
        torch.testing.assert_close(KF.batch_norm_act(x, weight, None, None, None, code=code), planned)

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            calls.append(function)
            return function(*args, **(kwargs or {}))

    with Mode():
        KF.batch_norm_act(x, weight, None, None, None, code=code)
    assert calls
    batched = torch.func.vmap(lambda row: KF.batch_norm_act(x, weight, None, None, None, code=row))(code[None])
    torch.testing.assert_close(batched[0], planned)
