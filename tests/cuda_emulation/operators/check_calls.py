"""Run by test_operators.py under plugin.py, and on a GPU: every layout, dtype and width, and what surrounds a call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from calls import DTYPES, Call, assert_matches_reference, results
from cases import CONV1D_CASES, CONV2D_CASES, CONV3D_CASES, LAYOUTS, ConvCase, lay_out, with_algorithm
from torch import Tensor
from torch.nn import functional as F

import kshot_ext
from kshot_ext import functional, reference
from kshot_ext.nn import KShotBatchNorm2d, KShotConv2d, KShotLinear
from kshot_ext.ops import autotune
from kshot_ext.optim import KShotSGD

SHOTS = 3


def on_gpu() -> bool:
    return torch.get_default_device().type == "cuda"


@pytest.mark.parametrize("code_per_sample", [False, True])
@pytest.mark.parametrize("case", CONV2D_CASES, ids=str)
def test_conv2d_cases(case: ConvCase, code_per_sample: bool) -> None:
    """The layouts take turns."""
    layout = LAYOUTS[(CONV2D_CASES.index(case) + code_per_sample) % len(LAYOUTS)]
    call = lay_out(case.call(code_per_sample=code_per_sample).to(torch.float32), layout)
    assert_matches_reference(functional.kshot_conv2d, reference.kshot_conv2d, call)


@pytest.mark.parametrize("algorithm", ["auto", "mix_then_conv"])
@pytest.mark.parametrize("code_per_sample", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_conv2d_dtypes(dtype: torch.dtype, code_per_sample: bool, algorithm: str) -> None:
    for case in (ConvCase("dense", padding=1, gate="per_sample"), ConvCase("depthwise", out_channels=5, groups=5)):
        call = with_algorithm(case.call(code_per_sample=code_per_sample).to(dtype), algorithm)
        assert_matches_reference(functional.kshot_conv2d, reference.kshot_conv2d, call)


@pytest.mark.parametrize("code_per_sample", [False, True])
def test_other_ranks_and_linear_maps(code_per_sample: bool) -> None:
    for name, cases in (("kshot_conv1d", CONV1D_CASES), ("kshot_conv3d", CONV3D_CASES)):
        for case in cases:
            call = case.call(code_per_sample=code_per_sample).to(torch.float32)
            assert_matches_reference(getattr(functional, name), getattr(reference, name), call)
    for rows in ((2,), (2, 4)):
        tensors = {
            "input": torch.randn(*rows, 5),
            "weight": torch.randn(SHOTS, 7, 6),
            "code": torch.rand(*((2,) if code_per_sample else ()), SHOTS),
            "bias": torch.randn(SHOTS, 7),
            "gate": torch.rand(7),
        }
        call = Call(tensors, {"out_features": 4})
        assert_matches_reference(functional.kshot_linear, reference.kshot_linear, call)


def test_gated_conv2d() -> None:
    tensors = {"input": torch.randn(2, 5, 6, 6), "weight": torch.randn(8, 6, 3, 3), "gate": torch.rand(2, 8)}
    call = Call(tensors, {"padding": 1, "out_channels": 7})
    assert_matches_reference(functional.gated_conv2d, reference.gated_conv2d, call)


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("code_per_sample", [False, True])
def test_autocast(code_per_sample: bool, groups: int) -> None:
    x, weight = torch.randn(2, 8, 6, 6), torch.randn(SHOTS, 8, 8 // groups, 3, 3)
    code = torch.rand(*((2,) if code_per_sample else ()), SHOTS)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, code)]
    with torch.autocast(x.device.type, torch.bfloat16):
        output = functional.kshot_conv2d(*leaves, padding=1, groups=groups)
    assert output.dtype == torch.bfloat16
    expected = reference.kshot_conv2d(*leaves, padding=1, groups=groups)
    cotangent = torch.randn_like(expected)
    gradients = torch.autograd.grad(output, leaves, cotangent.bfloat16())
    references = torch.autograd.grad(expected, leaves, cotangent)
    for result, right in zip((output, *gradients), (expected, *references)):
        scale = right.abs().max()
        torch.testing.assert_close(result.float() / scale, right / scale, rtol=0, atol=3e-2)
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


@pytest.mark.parametrize("code_per_sample", [False, True])
def test_tf32_where_torch_allows_it(code_per_sample: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = ConvCase("dense", in_channels=32, out_channels=32, padding=1)
    call = with_algorithm(case.call(code_per_sample=code_per_sample).to(torch.float32), "fused")
    exact = results(functional.kshot_conv2d, call)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    rounded = results(functional.kshot_conv2d, call)
    for name, tensor in exact.items():
        error = (rounded[name] - tensor).abs().max() / tensor.abs().max()
        assert error < 5e-3, name
    assert not torch.equal(rounded["output 0"], exact["output 0"])


class Network(torch.nn.Module):
    """A layer of each kind, on whose way are all operators that train a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = KShotConv2d(3, 8, 3, padding=1, num_shots=SHOTS)
        self.norm = KShotBatchNorm2d(8, num_shots=SHOTS)
        self.depthwise = KShotConv2d(8, 8, 3, padding=1, groups=8, num_shots=SHOTS)
        self.head = KShotLinear(8, 5, num_shots=SHOTS)

    def forward(self, images: Tensor, code: Tensor) -> Tensor:
        x = images.contiguous(memory_format=torch.channels_last)
        x = self.norm(self.stem(x, code), code).relu()
        x = x + self.depthwise(x, code)
        return self.head(x.mean((2, 3)), code[0] if code.dim() == 2 else code)


def training_step(code_shape: tuple[int, ...]) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """A step on images, code and labels kept in place; and these, with all that it changes."""
    torch.manual_seed(5)
    model = Network()
    optimizer = KShotSGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True)
    images, target = torch.randn(2, 3, 6, 6), torch.randn(2, 5)
    code = torch.rand(*code_shape, SHOTS).softmax(-1)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = (model(images, code) - target).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, [images, code, target, *model.state_dict().values()]


class Capture:
    """A CUDA graph of a function; elsewhere a stand-in that calls it anew, and keeps results where they were."""

    def __init__(self, function: Callable[[], Tensor]) -> None:
        self.function, self.graph = function, None
        if not on_gpu():
            self.result = function().clone()
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function()  # what is made once is made before
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = function()

    def replay(self) -> Tensor:
        if self.graph is None:
            self.result.copy_(self.function())
        else:
            self.graph.replay()
        return self.result


@pytest.mark.parametrize("code_shape", [(), (2,)])
def test_captured_training_steps_are_training_steps(code_shape: tuple[int, ...]) -> None:
    """New images and codes in the place of the old ones, step by step."""
    step, captured_state = training_step(code_shape)
    twin_step, state = training_step(code_shape)
    captured = Capture(step)
    twin_step()  # the warm-up; capturing runs nothing
    for _ in range(3):
        with torch.no_grad():
            for index in range(3):
                state[index].copy_(torch.rand_like(state[index]))
                captured_state[index].copy_(state[index])
        assert torch.equal(captured.replay(), twin_step())
        for left, right in zip(captured_state, state):
            assert torch.equal(left, right)


@pytest.mark.parametrize("code_shape", [(), (2,)])
def test_training_is_the_same_bits_every_time(code_shape: tuple[int, ...]) -> None:
    runs = []
    for _ in range(2):
        step, state = training_step(code_shape)
        losses = [step() for _ in range(3)]
        runs.append([*losses, *state])
    assert all(torch.equal(left, right) for left, right in zip(*runs))
    assert not torch.equal(runs[0][0], runs[0][2]), "the steps train nothing"


def test_mixing_many_dictionaries_is_the_same_bits_every_time() -> None:
    weights, code = [torch.randn(4, 3 + i, 5, 3, 3).requires_grad_() for i in range(5)], torch.rand(4).requires_grad_()

    def run() -> list[Tensor]:
        mixed = functional.mix_weights(weights, code)
        return [*mixed, *torch.autograd.grad([tensor.square().sum() for tensor in mixed], [code, *weights])]

    assert all(torch.equal(left, right) for left, right in zip(run(), run()))


@pytest.mark.parametrize("groups", [1, 8])
def test_autotune(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    original = autotune._measured
    monkeypatch.setattr(autotune, "_measured", lambda *given: measured.append(original(*given)) or measured[-1])
    x, weight, code = (
        torch.randn(2, 8, 6, 6),
        torch.randn(SHOTS, 8, 8 // groups, 3, 3).requires_grad_(),
        torch.rand(SHOTS),
    )
    expected = F.conv2d(x, (code @ weight.flatten(1)).view(weight.shape[1:]), padding=1, groups=groups)
    kshot_ext.set_autotune(True)
    try:
        for _ in range(3):
            output = functional.kshot_conv2d(x, weight, code, padding=1, groups=groups)
            torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    finally:
        kshot_ext.set_autotune(False)
    assert len(measured) == 1
    assert measured[0] in ("fused", "mix_then_conv")
