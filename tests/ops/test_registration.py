"""What every operator of the compiled library owes to torch.library, and every public function to its reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from kshot_ext import functional, reference

FREE_OF_TENSORS = {"cpu_isa", "force_cpu_isa"}
WITHOUT_GRADIENT = {"adamw_update", "folded_conv2d", "sgd_update"}


def random(*shape: int, channels_last: bool = False) -> Tensor:
    tensor = torch.randn(shape)
    return tensor.movedim(2, -1).contiguous().movedim(-1, 2) if channels_last else tensor


def mixing_samples() -> Iterator[tuple[Tensor, Tensor, Tensor | None, int, int]]:
    """Arguments of effective_weight: shared and per-sample codes and gates, whole and narrow, both layouts."""
    yield random(3, 5), random(3), None, 4, 1
    for channels_last in (False, True):
        weight = random(3, 5, 4, 2, 3, channels_last=channels_last)
        yield weight, random(3), None, 5, 4
        yield weight, random(3), random(3), 3, 2
        yield weight, random(2, 3), random(3), 3, 4
        yield weight, random(2, 3), random(2, 5), 5, 2


def grouping_samples() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Arguments of dynamic_group_weight: shared and per-sample codes, closed and open gates, and none; both layouts."""
    yield random(3, 5, 7), random(3), random(0)
    for channels_last in (False, True):
        weight = random(3, 4, 12, 2, 3, channels_last=channels_last)
        yield weight, random(3), torch.tensor([0.0, 1.0])
        yield weight, random(2, 3), torch.tensor([0.0, 0.5])


def sgd_samples() -> Iterator[tuple[Any, ...]]:
    weight, uses = random(3, 5, 4, 2, 3), ([random(3)], [random(4)], [random(4, 2, 2, 3)])
    weights, buffers = [weight, random(4)], [torch.zeros_like(weight), torch.zeros(4)]
    yield weights, buffers, [None, torch.ones(4)], [1, 0], *uses, 0.1, 0.9, 0.0, 0.01, True, False
    yield weights, [], [torch.ones_like(weight), random(4)], [0, 0], [], [], [], 0.1, 0.0, 0.0, 0.0, False, True


def adamw_samples() -> Iterator[tuple[Any, ...]]:
    weight, uses = random(3, 5, 4, 2, 3), ([random(3)], [random(4)], [random(4, 2, 2, 3)])
    weights, lists = [weight, random(4)], [[torch.ones_like(weight), torch.ones(4)] for _ in range(3)]
    settings = 0.1, 0.9, 0.99, 1e-3, 0.01
    yield weights, *lists, [1.0, 7.0], [None, torch.ones(4)], [1, 0], *uses, *settings, False
    dense = [torch.ones_like(weight), random(4)]
    yield weights, *lists[:2], [], [1.0, 7.0], dense, [0, 0], [], [], [], *settings, True


WINDOW = ([2, 1], [1, 1, 0, 2], [1, 2])  # stride, padding on four sides, dilation


def pool_samples() -> Iterator[tuple[Any, ...]]:
    images = random(2, 3, 5, 4).contiguous(memory_format=torch.channels_last)
    yield images, [3, 3], [1, 1], [1, 1], False, False, 0
    yield images, [2, 3], [3, 2], [1, 0], True, True, 5


def alignment_samples() -> Iterator[tuple[Any, ...]]:
    """Arguments of dtw_align; the path is no number and has no gradient."""
    lengths = torch.tensor([5, 2]), torch.tensor([3, 4])
    yield random(2, 5, 2), random(2, 4, 2), None, None, -1, 1
    yield random(2, 5, 3), random(2, 4, 3), *lengths, 1, 2


def split_samples() -> Iterator[tuple[Any, ...]]:
    images = random(2, 6, 5, 4).contiguous(memory_format=torch.channels_last)
    yield images, None
    yield images, random(2, 2, 5, 4).contiguous(memory_format=torch.channels_last)


def batch_norm_samples() -> Iterator[tuple[Any, ...]]:
    """Arguments of batch_norm_act: plain and per-sample affine parameters, and dictionaries, in training and with fixed
    statistics."""
    images = random(2, 3, 5, 4).contiguous(memory_format=torch.channels_last)
    fixed = random(3), random(3).square() + 1
    yield images, random(3), random(3), None, torch.randn_like(images), None, None, 1e-5, 1
    yield images, random(2, 3), None, None, None, *fixed, 1e-5, 3
    yield images, random(4, 3), random(4, 5), random(4), None, None, None, 1e-5, 2
    yield images, random(3), random(4, 3), random(2, 4), torch.randn_like(images), *fixed, 1e-5, 0


def convolution_samples() -> Iterator[tuple[Any, ...]]:
    """Arguments of fused_conv2d: dense and depthwise, shared and per-sample codes, gates, biases, narrow widths."""
    images, dense, depthwise = random(2, 3, 7, 8), random(4, 6, 5, 2, 3), random(4, 5, 1, 2, 3)
    for code, gate, bias in (
        (random(4), random(4), None),
        (random(4), None, random(4)),
        (random(2, 4), None, random(2, 4)),
        (random(2, 4, 2, 3), None, random(4)),
    ):
        yield images, dense, code, gate, bias, 4, *WINDOW, False, False
    for code, gate, bias in (
        (random(4), random(3), None),
        (random(2, 4), random(2, 3), random(2, 3)),
        (random(2, 4), None, None),
        (random(2, 4, 2, 3), random(2, 3), None),
    ):
        yield images, depthwise, code, gate, bias, 3, *WINDOW, True, False


def chain_samples() -> Iterator[tuple[Any, ...]]:
    """Arguments of chained_conv2d: dense and depthwise, with and without a norm, per sample, gates, narrow widths."""
    images, dense, depthwise = random(2, 3, 7, 8), random(4, 6, 5, 2, 3), random(4, 5, 1, 2, 3)
    moments = random(3), random(3).square() + 1
    yield images, None, None, None, None, 0.0, 0, dense, random(4), None, 4, *WINDOW, False, True
    yield images, *moments, random(3), None, 1e-3, 3, dense, random(4), random(4), 4, *WINDOW, False, True
    yield images, *moments, random(2, 3), random(3), 1e-3, 3, depthwise, random(2, 4), None, 3, *WINDOW, True, True
    yield images, *moments, None, random(3), 1e-3, 4, depthwise, random(4), random(3), 3, *WINDOW, True, False


def folded_samples() -> Iterator[tuple[Any, ...]]:
    """Arguments of folded_conv2d: dense and depthwise, per sample, narrow widths, norms with and without parameters."""
    images, dense, depthwise = random(2, 3, 7, 8), random(4, 6, 5, 2, 3), random(4, 5, 1, 2, 3)
    for count, weight, code, parameters, is_depthwise in (
        (4, dense, random(4), (random(4), None), False),
        (3, depthwise, random(4), (None, random(3)), True),
        (3, depthwise, random(2, 4), (random(2, 3), random(3)), True),
    ):
        norm = random(count), random(count).square() + 1, *parameters, 1e-3, 3
        yield images, weight, code, *norm, count, *WINDOW, is_depthwise


def chain_end_samples() -> Iterator[tuple[Any, ...]]:
    images, moments = random(2, 3, 7, 8), (random(3), random(3).square() + 1)
    yield images, *moments, random(3), random(3), random(2, 3, 7, 8), 1e-3, 3
    yield images, *moments, random(2, 3), None, None, 1e-3, 0


SAMPLES: dict[str, Callable[[], Iterator[tuple[Any, ...]]]] = {
    "adamw_update": adamw_samples,
    "avg_pool2d": pool_samples,
    "batch_norm_act": batch_norm_samples,
    "chained_conv2d": chain_samples,
    "chained_norm_act": chain_end_samples,
    "dtw_align": alignment_samples,
    "even_and_odd_channels": split_samples,
    "folded_conv2d": folded_samples,
    "fused_conv2d": convolution_samples,
    "dynamic_group_weight": grouping_samples,
    "effective_weight": mixing_samples,
    "mix_weights": lambda: (
        ([random(3, 5, 4, 2, 3), random(3, 5), random(3, 2, 4, 3, 3, channels_last=True)], random(*code))
        for code in ((3,), (2, 3))
    ),
    "sgd_update": sgd_samples,
}


def with_gradients(sample: tuple[Any, ...]) -> tuple[Any, ...]:
    return tree_map_only(Tensor, lambda x: x.requires_grad_(x.is_floating_point()), sample)


def registered_names() -> list[str]:
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.split("::")[1] for name in names if name.startswith("kshot_ext::"))


def test_every_operator_is_checked_here() -> None:
    forward = {name for name in registered_names() if not name.endswith("_backward")}
    assert forward - FREE_OF_TENSORS == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_opcheck(name: str) -> None:
    """Schema, autograd registration, fake kernel and traced gradient; the latter runs the backward operator."""
    for sample in SAMPLES[name]():
        arguments = sample if name in WITHOUT_GRADIENT else with_gradients(sample)
        torch.library.opcheck(getattr(torch.ops.kshot_ext, name).default, arguments)


class _BackwardRecorder(TorchDispatchMode):
    """Arguments of the backward operators that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "kshot_ext" and function._opname.endswith("_backward"):
            self.calls.append((function, tree_map_only(Tensor, torch.clone, args)))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted(set(SAMPLES) - WITHOUT_GRADIENT))
def test_opcheck_backward(name: str) -> None:
    """Schema and fake kernel of the backward operator, as autograd calls it: all gradients, and just the first."""
    for sample in SAMPLES[name]():
        for wanted in (slice(None), slice(1)):
            arguments = tree_map_only(Tensor, torch.clone, sample)
            leaves = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
            tensors = [leaf.requires_grad_() for leaf in leaves if leaf.is_floating_point()]
            outputs = tree_leaves(getattr(torch.ops.kshot_ext, name)(*arguments))
            differentiable = [output for output in outputs if output.requires_grad]
            with _BackwardRecorder() as recorder:
                torch.autograd.grad(differentiable, tensors[wanted], list(map(torch.ones_like, differentiable)),
                                    allow_unused=True)  # fmt: skip
            assert recorder.calls
            for function, backward_arguments in recorder.calls:
                torch.library.opcheck(function, backward_arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("name", functional.__all__)
def test_reference_has_the_same_signature(name: str) -> None:
    def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert parameters(getattr(functional, name)) == parameters(getattr(reference, name))


@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        ("effective_weight", (torch.zeros(3), torch.zeros(3), None, 1, 1), r"shape \[K, C_out, ...\], got rank 1"),
        ("effective_weight", (torch.zeros(3, 4), torch.zeros(2), None, 4, 1), "code must be .* K = 3"),
        ("effective_weight", (torch.zeros(3, 4), torch.zeros(3).double(), None, 4, 1), "code must be where"),
        ("effective_weight", (torch.zeros(3, 4), torch.zeros(3), None, 5, 1), r"widths must lie in 1..4 and 1..1"),
        ("effective_weight", (torch.zeros(3, 4), torch.zeros(3), None, 4, 0), "widths must lie in"),
        ("effective_weight", (torch.zeros(3, 4), torch.zeros(3), torch.zeros(3), 4, 1), "gate must be .* C_out' = 4"),
        ("dynamic_group_weight", (torch.zeros(3, 4, 6), torch.zeros(3), torch.zeros(2)), "2.n must divide .*C_in = 6"),
        ("dynamic_group_weight", (torch.zeros(3, 4, 4), torch.zeros(3), torch.zeros(70)), "got n = 70"),
        ("dynamic_group_weight", (torch.zeros(3, 4, 4), torch.zeros(3), torch.zeros(1, 2)), "group_gates must be .n."),
        (
            "dynamic_group_weight",
            (torch.zeros(3, 4, 4), torch.zeros(3), torch.zeros(2).double()),
            "group_gates must be",
        ),
        ("effective_weight", (torch.zeros(3, 4).int(), torch.zeros(3), None, 4, 1), "expected float32, float64"),
    ],
)
def test_operators_check_what_they_are_given(operator: str, arguments: tuple[Any, ...], message: str) -> None:
    """Also without the public functions, memory stays safe."""
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.kshot_ext, operator)(*arguments)
