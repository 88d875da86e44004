"""Run by test_operators.py under plugin.py, and on a GPU: channels of wider images are read where they lie."""

from types import ModuleType

import pytest
import torch
from allocations import allocations
from torch import Tensor

from kshot_ext import functional, reference

BATCH, CHANNELS, SIDE, SHOTS = 2, 16, 9, 3
# Channels of the wide image, and the first one in use: on and off the boundaries of vectors.
SLICES = {"half": (2 * CHANNELS, CHANNELS), "vectors": (40, 8), "odd": (CHANNELS + 7, 3), "odd_stride": (31, 8)}
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float64: 1e-9}
KINDS = ["dense", "depthwise", "depthwise_without_tiles", "norm"]
DTYPES = [torch.float32, torch.bfloat16, torch.float64]
# Dense kernels take no float64.
SERVED = [(kind, dtype) for kind in KINDS for dtype in DTYPES if (kind, dtype) != ("dense", torch.float64)]


def image(wide: int = CHANNELS, first: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """CHANNELS channels of an image of `wide` ones in channels_last, from the first on."""
    whole = torch.randn(BATCH, wide, SIDE, SIDE, dtype=torch.float64).to(dtype)
    whole = whole.contiguous(memory_format=torch.channels_last)
    return whole[:, first : first + CHANNELS].requires_grad_()


def parameters(kind: str, per_sample: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    code = torch.rand(*((BATCH,) if per_sample else ()), SHOTS, dtype=torch.float64)
    code = code.to(torch.float64 if dtype == torch.float64 else torch.float32)
    shapes = {"dense": (CHANNELS, CHANNELS, 3, 3), "norm": (CHANNELS,)}
    kernel = 1 if kind == "depthwise_without_tiles" else 3
    weight = torch.randn(SHOTS, *shapes.get(kind, (CHANNELS, 1, kernel, kernel)), dtype=torch.float64).to(dtype)
    if kind == "dense":  # as its kernels read it
        weight = weight.movedim(2, -1).contiguous().movedim(-1, 2)
    return {"weight": weight.requires_grad_(), "code": code.requires_grad_()}


def call(of: ModuleType, kind: str, x: Tensor, weight: Tensor, code: Tensor, residual: Tensor) -> Tensor:
    if kind == "norm":
        call = {"training": True, "activation": "relu", "residual": residual, "code": code}
        return of.batch_norm_act(x, weight, None, None, None, **call)
    only_native = {"algorithm": "fused"} if of is functional else {}
    padding, groups = weight.shape[-1] // 2, 1 if kind == "dense" else CHANNELS
    return of.kshot_conv2d(x, weight, code, padding=padding, groups=groups, **only_native)


@pytest.mark.parametrize("where", SLICES.values(), ids=SLICES)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(("kind", "dtype"), SERVED, ids=str)
def test_values_and_gradients(kind: str, dtype: torch.dtype, per_sample: bool, where: tuple[int, int]) -> None:
    torch.manual_seed(0)
    tensors = {"x": image(*where, dtype), **parameters(kind, per_sample, dtype), "residual": image(*where, dtype)}
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in tensors.items()}
    grad = image(*where, dtype).detach()  # convolutions keep the size
    output, expected = call(functional, kind, **tensors), call(reference, kind, **exact)
    assert output.is_contiguous(memory_format=torch.channels_last)
    names = list(tensors) if kind == "norm" else ["x", "weight", "code"]
    gradients = torch.autograd.grad(output, [tensors[name] for name in names], grad)
    references = torch.autograd.grad(expected, [exact[name] for name in names], grad.double())
    for name, result, right in zip(["output", *names], [output, *gradients], [expected, *references]):
        error = (result.double() - right).abs().max() / max(1.0, right.abs().max().item())
        assert error <= TOLERANCES[dtype], f"{name}: {error.item()}"


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_they_take_no_more_memory_than_whole_images_do(kind: str, per_sample: bool) -> None:
    def blocks(where: tuple[int, int]) -> list[int]:
        tensors = {"x": image(*where), **parameters(kind, per_sample, torch.float32), "residual": image(*where)}
        grad, outputs = image(*where).detach(), []
        forward = allocations(lambda: outputs.append(call(functional, kind, **tensors)))
        leaves = [tensors["x"], tensors["weight"]]
        return forward + allocations(lambda: torch.autograd.grad(outputs[0], leaves, grad))

    torch.manual_seed(1)
    whole, part = blocks((CHANNELS, 0)), blocks(SLICES["half"])
    assert sum(part) == sum(whole)
