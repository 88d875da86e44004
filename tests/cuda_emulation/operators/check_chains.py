"""Run by test_operators.py under plugin.py, and on a GPU: links and ends of chains, and whole chains."""

from __future__ import annotations

import random

import pytest
import torch
from cuda_emulation.operators.check_operators import inner_channels_last, leaf
from torch import Tensor

import kshot_ext
from kshot_ext import functional as KF
from kshot_ext import reference
from kshot_ext.nn import KShotChain, KShotConvNormAct
from kshot_ext.reference.batch_norm_act import ACTIVATIONS

# Of the largest value, or of one. Gradients by moments nearly cancel, and half types round what is left.
NARROW = {torch.float32: 2e-4, torch.bfloat16: 8e-2, torch.float16: 1e-2}


def assert_close(name: str, result: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert result.shape == expected.shape, name
    error = (result.double() - expected).abs().max() / max(1.0, expected.abs().max())
    assert error <= NARROW[dtype], f"{name}: error {error}"


def compare(results: tuple, expected: tuple, leaves: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """Results and the gradients of a random sum of them, against those in float64."""
    pairs = [(a, b) for a, b in zip(results, expected, strict=True) if a is not None]
    grads = [torch.randn_like(right) for _, right in pairs]
    total = sum((result.double() * grad).sum() for (result, _), grad in zip(pairs, grads))
    right = sum((value * grad).sum() for (_, value), grad in zip(pairs, grads))
    for (result, value), name in zip(pairs, ("output", "mean", "variance")):
        assert_close(name, result.detach(), value.detach(), pairs[0][0].dtype)
    gradients = torch.autograd.grad(total, list(leaves.values()))
    references = torch.autograd.grad(right, [exact[name] for name in leaves])
    for name, gradient, value in zip(leaves, gradients, references):
        assert gradient.dtype == leaves[name].dtype, name
        assert_close(name, gradient, value, max(pairs[0][0].dtype, gradient.dtype, key=NARROW.get))


def doubles(tensors: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {
        name: None if t is None else t.detach().double().requires_grad_(t.requires_grad) for name, t in tensors.items()
    }


def norm_of(tensors: dict[str, Tensor | None], activation: str) -> KF.ChannelNorm | None:
    if tensors["mean"] is None:
        return None
    parts = (tensors[name] for name in ("mean", "variance", "norm_weight", "norm_bias"))
    return KF.ChannelNorm(*parts, eps=1e-3, activation=activation)


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("kind", ["depthwise", "pointwise", "dense"])
def test_links(kind: str, seed: int) -> None:
    """Whatever the kernels take, and some calls that come as sequences of layers."""
    draw = random.Random(100 * seed)
    torch.manual_seed(seed)
    dtype = draw.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16])
    batch, shots = draw.choice([1, 2, 3]), draw.choice([1, 2, 5])
    kernel = 1 if kind == "pointwise" else draw.choice([3, 3, 5])
    channels, total_out = draw.choice([4, 8, 13]), draw.choice([4, 9, 16])
    width, width_out = draw.choice([channels, (channels + 1) // 2]), draw.choice([None, (total_out + 1) // 2])
    if kind == "depthwise":
        total_out, width_out = channels, None
    out = width if kind == "depthwise" else width_out or total_out
    per_sample = kind == "depthwise" and draw.random() < 0.4
    weight = leaf(shots, total_out, 1 if kind == "depthwise" else channels, kernel, kernel, dtype=dtype)
    tensors: dict[str, Tensor | None] = {
        "input": leaf(batch, width, 7, 6, dtype=dtype, channels_last=draw.random() < 0.7),
        "weight": inner_channels_last(weight) if draw.random() < 0.5 else weight,
        "code": leaf(*((batch,) if per_sample else ()), shots),
        "gate": draw.choice([None, leaf(out)]),
        **dict.fromkeys(("mean", "variance", "norm_weight", "norm_bias")),
    }
    if draw.random() < 0.8:
        each = draw.choice([(), (batch,)])
        tensors |= {"mean": leaf(width), "variance": (torch.rand(width) + 0.5).requires_grad_()}
        tensors |= {"norm_weight": draw.choice([None, leaf(*each, width)]), "norm_bias": leaf(*each, width)}
    if draw.random() < 0.3 and tensors["mean"] is not None:  # running statistics
        tensors["mean"], tensors["variance"] = tensors["mean"].detach(), tensors["variance"].detach()
    # Smooth, or exact in float64 for values that half types round: slopes must not jump between the two.
    activation = draw.choice(list(ACTIVATIONS) if dtype == torch.float32 else ["identity", "silu"])
    settings = {
        "stride": draw.choice([1, 2]),
        "padding": kernel // 2,
        "dilation": draw.choice([1, 1, 2]) if kernel == 3 else 1,
        "groups": channels if kind == "depthwise" else 1,
        "out_channels": width_out,
        "moments": draw.random() < 0.8,
    }
    exact = doubles(tensors)
    operands = ("input", "weight", "code")
    results = KF.chained_conv2d(
        *(tensors[name] for name in operands), norm=norm_of(tensors, activation), gate=tensors["gate"], **settings
    )
    expected = reference.chained_conv2d(
        *(exact[name] for name in operands), norm=norm_of(exact, activation), gate=exact["gate"], **settings
    )
    compare(results, expected, {n: t for n, t in tensors.items() if t is not None and t.requires_grad}, exact)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("per_sample", [False, True])
def test_ends(per_sample: bool, activation: str) -> None:
    torch.manual_seed(1)
    each = (3,) if per_sample else ()
    tensors = {
        "input": leaf(3, 13, 5, 6, channels_last=True),
        "mean": leaf(13),
        "variance": (torch.rand(13) + 0.5).requires_grad_(),
        "norm_weight": leaf(*each, 13),
        "norm_bias": leaf(*each, 13),
        "residual": leaf(3, 13, 5, 6),
    }
    exact = doubles(tensors)
    output = KF.chained_norm_act(tensors["input"], norm_of(tensors, activation), tensors["residual"])
    expected = reference.chained_norm_act(exact["input"], norm_of(exact, activation), exact["residual"])
    compare((output,), (expected,), tensors, exact)


def test_a_whole_chain_in_training() -> None:
    """An inverted residual by its module, against its layers in float64."""
    torch.manual_seed(2)

    def block() -> KShotChain:
        return KShotChain(
            KShotConvNormAct(6, 20, 1, activation="silu", num_shots=3),
            KShotConvNormAct(20, 20, 3, padding=1, groups=20, activation="hardswish", num_shots=3),
            KShotConvNormAct(20, 6, 1, activation="identity", num_shots=3),
        )

    ours, exact = block(), block().double()
    exact.load_state_dict(ours.state_dict())
    x = leaf(2, 6, 7, 5, channels_last=True)
    right = x.detach().double().requires_grad_()
    code = torch.rand(3)
    outputs = []
    for chain, image in ((ours, x), (exact, right)):
        kshot_ext.set_code(chain, code.to(image.dtype))
        outputs.append(chain(image, residual=image))
        outputs[-1].square().sum().backward()
    assert_close("output", outputs[0].detach(), outputs[1].detach(), torch.float32)
    assert_close("input", x.grad, right.grad, torch.float32)
    for (name, parameter), twin in zip(ours.named_parameters(), exact.parameters(), strict=True):
        assert_close(name, parameter.grad, twin.grad, torch.float32)
    for (name, buffer), twin in zip(ours.named_buffers(), exact.buffers(), strict=True):
        assert_close(name, buffer, twin, torch.float32)


def test_chain_operators_as_torch_checks_them() -> None:
    torch.manual_seed(4)
    x, weight, code = leaf(2, 6, 5, 5, channels_last=True), leaf(3, 6, 1, 3, 3), leaf(3)
    norm = (leaf(6), (torch.rand(6) + 0.5).requires_grad_(), leaf(6), leaf(6), 1e-3, 1)
    window = ([1, 1], [1, 1, 1, 1], [1, 1], True)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    arguments = (x, *norm, weight, code, None, 6, *window, True)
    torch.library.opcheck(torch.ops.kshot_ext.chained_conv2d.default, arguments, test_utils=tests)
    output, mean, _ = torch.ops.kshot_ext.chained_conv2d(
        *(t.detach() if isinstance(t, Tensor) else t for t in arguments)
    )
    backward = (output, mean, mean, x, *norm, weight, code, None, output, mean, *window, True, True, True, True, False)
    torch.library.opcheck(torch.ops.kshot_ext.chained_conv2d_backward.default, backward, test_utils=tests[:2])
    end = (x, *norm[:4], None, *norm[4:])
    torch.library.opcheck(torch.ops.kshot_ext.chained_norm_act.default, end, test_utils=tests)
    torch.library.opcheck(torch.ops.kshot_ext.chained_norm_act_backward.default, (x, *end, False), test_utils=tests[:2])
