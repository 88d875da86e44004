"""Whole converted models under the transforms of `torch.func`; right values come from ordinary calls, one by one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, func, nn

import kshot_ext

pytestmark = pytest.mark.usefixtures("native_backend", "one_thread")
SHOTS = 3
Tensors = dict[str, Tensor]


def network(seed: int = 0) -> nn.Module:
    """All kinds of layers, with images in the memory format that the kernels are made for."""
    plain = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU6(),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=4),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    model = kshot_ext.convert(plain, SHOTS, generator=torch.Generator().manual_seed(seed)).double()
    return model.to(memory_format=torch.channels_last)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(count: int) -> Tensor:
    return draw(count, 2, 6, 6).contiguous(memory_format=torch.channels_last)


def state_of(model: nn.Module) -> tuple[Tensors, Tensors]:
    """Parameters, and buffers of their own."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return parameters, {name: buffer.clone() for name, buffer in model.named_buffers()}


def outputs(model: nn.Module, parameters: Tensors, buffers: Tensors, input: Tensor, code: Tensor) -> Tensor:
    kshot_ext.set_code(model, code)
    return func.functional_call(model, (parameters, buffers), (input,))


def loss(*arguments: nn.Module | Tensors | Tensor) -> Tensor:
    return outputs(*arguments).square().sum()


def gradients(model: nn.Module, parameters: Tensors, buffers: Tensors, input: Tensor, code: Tensor) -> Tensors:
    """By an ordinary backward pass."""
    leaves = {name: parameter.clone().requires_grad_() for name, parameter in parameters.items()}
    found = torch.autograd.grad(loss(model, leaves, buffers, input, code), list(leaves.values()))
    return dict(zip(leaves, found))


@pytest.mark.parametrize("training", [True, False])
def test_grad(training: bool) -> None:
    model, input, code = network().train(training), images(4), draw(SHOTS)
    (parameters, buffers), (_, ordinary_buffers) = state_of(model), state_of(model)
    found = func.grad(loss, 1)(model, parameters, buffers, input, code)
    expected = gradients(model, parameters, ordinary_buffers, input, code)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(buffers, ordinary_buffers)  # running statistics move alike
    assert torch.equal(buffers["1.running_mean"], model[1].running_mean) != training


def test_gradients_per_sample() -> None:
    model, input, code = network().eval(), images(3), draw(SHOTS)
    parameters, buffers = state_of(model)

    def of_one(parameters: Tensors, image: Tensor) -> Tensor:
        return loss(model, parameters, buffers, image[None], code)

    found = func.vmap(func.grad(of_one), (None, 0))(parameters, input)
    for n in range(3):
        expected = gradients(model, parameters, buffers, input[n : n + 1], code)
        torch.testing.assert_close({name: gradient[n] for name, gradient in found.items()}, expected)


def test_vmap_over_codes() -> None:
    model, input, codes = network().eval(), images(2), draw(3, SHOTS)
    parameters, buffers = state_of(model)
    found = func.vmap(lambda code: outputs(model, parameters, buffers, input, code))(codes)
    expected = torch.stack([outputs(model, parameters, buffers, input, code) for code in codes])
    torch.testing.assert_close(found, expected)


def test_vmap_over_models_in_training() -> None:
    """An ensemble: parameters, buffers and codes of several models, each with running statistics of its own."""
    models, input, codes = [network(seed).train() for seed in range(2)], images(3), draw(2, SHOTS)
    parameters, buffers = func.stack_module_state(models)
    found = func.vmap(lambda *state: outputs(models[0], *state[:2], input, state[2]))(parameters, buffers, codes)
    for n, model in enumerate(models):
        kshot_ext.set_code(model, codes[n])
        torch.testing.assert_close(found[n], model(input))
        ordinary = dict(model.named_buffers())
        torch.testing.assert_close({name: buffer[n] for name, buffer in buffers.items()}, ordinary)


def test_hessian_of_the_code() -> None:
    model, input, code, step = network().eval(), images(2), draw(SHOTS), 1e-5
    parameters, buffers = state_of(model)

    def gradient(code: Tensor) -> Tensor:
        leaf = code.clone().requires_grad_()
        return torch.autograd.grad(loss(model, parameters, buffers, input, leaf), leaf)[0]

    found = func.hessian(lambda code: loss(model, parameters, buffers, input, code))(code)
    steps = step * torch.eye(SHOTS, dtype=torch.float64)
    differences = [(gradient(code + ahead) - gradient(code - ahead)) / (2 * step) for ahead in steps]
    torch.testing.assert_close(found, torch.stack(differences), rtol=1e-6, atol=1e-6)


def test_tangent_of_all_parameters() -> None:
    model, input, code, step = network().eval(), images(2), draw(SHOTS), 1e-5
    parameters, buffers = state_of(model)
    tangents = {name: draw(*parameter.shape, seed=n) for n, (name, parameter) in enumerate(parameters.items())}

    def moved(step: float) -> Tensor:
        return outputs(model, {n: p + step * tangents[n] for n, p in parameters.items()}, buffers, input, code)

    found = func.jvp(lambda at: outputs(model, at, buffers, input, code), (parameters,), (tangents,))[1]
    torch.testing.assert_close(found, (moved(step) - moved(-step)) / (2 * step), rtol=1e-6, atol=1e-6)


def test_gates_and_widths_under_vmap() -> None:
    layer = kshot_ext.nn.GatedConv2d(2, 4, 3, padding=1, padding_mode="reflect").double()
    input, gates = images(2), draw(3, 4)
    found = func.vmap(lambda gate: layer(input, gate, out_channels=3))(gates)
    torch.testing.assert_close(found, torch.stack([layer(input, gate, out_channels=3) for gate in gates]))


def test_the_page_says_what_its_code_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "transforms.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(code, {})
    (expected,) = re.findall(r"prints `(.*)`", page)
    assert capsys.readouterr().out == expected + "\n"
