"""Which form of a convolution serves which call, on the CPU and on a GPU; and the form that only a GPU takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from calls import DTYPES, Call, assert_compiles, assert_matches_reference
from cases import LAYOUTS, lay_out, with_algorithm

from kshot_ext import backend, reference
from kshot_ext import functional as KF
from kshot_ext.ops import conv_forms, plans

FORMS = ("fused_form", "mix_then_conv_form", "grouped_form", "batched_form", "stacked_form")


@pytest.fixture(autouse=True)
def _no_plans() -> Iterator[None]:
    """Forms and backends are replaced here, behind the back of plans."""
    plans.forget()
    yield
    plans.forget()


@pytest.fixture
def on_cuda(native_backend: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules and forms as for a GPU; what they call runs here."""
    monkeypatch.setattr(backend, "kernels_for", lambda device: "cuda")


def chosen(
    monkeypatch: pytest.MonkeyPatch,
    weight: tuple[int, ...],  # K, C_out, C_in/groups, *kernel
    image: tuple[int, ...],
    *,
    per_sample: bool = True,
    batch: int = 2,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> str:
    """The form that a call takes."""
    taken: list[str] = []
    for name in FORMS:
        original = getattr(conv_forms, name)

        def form(call: conv_forms.ConvCall, name: str = name, original: Any = original) -> torch.Tensor:
            taken.append(name)
            return original(call)

        monkeypatch.setattr(conv_forms, name, form)
    channels = weight[2] * options.get("groups", 1)
    code = torch.rand(*((batch,) if per_sample else ()), weight[0])
    function = getattr(KF, f"kshot_conv{len(image)}d")
    function(torch.rand(batch, channels, *image, dtype=dtype), torch.rand(weight, dtype=dtype), code, **options)
    (name,) = taken
    return name


@pytest.mark.parametrize(
    ("form", "weight", "image", "options"),
    [
        # One code for the batch: mixing and cuDNN, however few or many output positions there are.
        ("mix_then_conv_form", (2, 4, 8, 3, 3), (3, 3), {"per_sample": False, "batch": 1}),
        ("mix_then_conv_form", (2, 4, 8, 3, 3), (34, 34), {"per_sample": False}),  # 2048 positions
        ("mix_then_conv_form", (2, 4, 8, 3, 3), (35, 35), {"per_sample": False}),
        ("mix_then_conv_form", (2, 16, 16, 1, 1), (4, 4), {"per_sample": False}),
        ("mix_then_conv_form", (2, 16, 16, 1, 1), (1, 1), {"per_sample": False}),
        ("mix_then_conv_form", (2, 4, 8, 3, 3), (3, 3), {"per_sample": False, "dtype": torch.bfloat16}),
        # Depthwise is ours.
        ("fused_form", (2, 8, 1, 3, 3), (5, 5), {"per_sample": False, "groups": 8}),
        ("fused_form", (2, 8, 1, 3, 3), (5, 5), {"groups": 8}),
        ("fused_form", (2, 8, 1, 1, 1), (5, 5), {"groups": 8}),
        # A code per sample: 1x1 is a batched product, larger kernels are ours.
        ("batched_form", (2, 4, 8, 1, 1), (5, 5), {}),
        ("batched_form", (2, 4, 2, 1, 1), (5, 5), {}),
        ("batched_form", (2, 4, 8, 1, 1), (5, 5), {"stride": 2}),
        ("batched_form", (2, 4, 8, 1, 1), (2, 1), {}),
        ("stacked_form", (2, 4, 8, 1, 1), (1, 1), {}),
        ("batched_form", (2, 4, 8, 1, 1), (1, 1), {"dtype": torch.bfloat16}),
        ("fused_form", (2, 4, 8, 1, 1), (5, 5), {"padding": 1}),
        ("fused_form", (2, 4, 8, 1, 3), (5, 5), {}),
        ("fused_form", (2, 4, 8, 3, 1), (5, 5), {}),
        ("fused_form", (2, 4, 8, 3, 3), (3, 3), {}),
        ("fused_form", (2, 4, 2, 3, 3), (40, 40), {}),
        ("grouped_form", (2, 4, 4, 1, 1), (5, 5), {"groups": 2}),
        # Where we have no kernel.
        ("fused_form", (128, 4, 2, 3, 3), (3, 3), {}),
        ("grouped_form", (129, 4, 2, 3, 3), (3, 3), {}),
        ("batched_form", (129, 4, 2, 1, 1), (3, 3), {}),
        ("grouped_form", (2, 4, 8, 3, 3), (3, 3), {"dtype": torch.float64}),
        ("batched_form", (2, 4, 8, 1, 1), (3, 3), {"dtype": torch.float64}),
        ("grouped_form", (2, 4, 8, 3), (5,), {}),
        ("batched_form", (2, 4, 8, 1), (5,), {}),
        ("batched_form", (2, 4, 8, 1, 1, 1), (2, 3, 4), {}),
        # What the caller asks for.
        ("batched_form", (2, 4, 8, 1, 1), (5, 5), {"algorithm": "mix_then_conv"}),
        ("grouped_form", (2, 4, 8, 3, 3), (5, 5), {"algorithm": "mix_then_conv"}),
        ("fused_form", (2, 4, 8, 1, 1), (5, 5), {"algorithm": "fused"}),
        ("fused_form", (2, 4, 8, 3, 3), (5, 5), {"algorithm": "fused", "per_sample": False}),
    ],
)
def test_forms_on_cuda(
    form: str,
    weight: tuple[int, ...],
    image: tuple[int, ...],
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    on_cuda: None,
) -> None:
    assert chosen(monkeypatch, weight, image, **options) == form


@pytest.mark.parametrize(("kernel", "form"), [(1, "batched_form"), (3, "grouped_form")])
def test_forms_on_cuda_under_autocast(kernel: int, form: str, monkeypatch: pytest.MonkeyPatch, on_cuda: None) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert chosen(monkeypatch, (2, 4, 8, kernel, kernel), (5, 5)) == form


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_for_cudas_kernels(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, on_cuda: None) -> None:
    """Which the CPU's are not: here the kernel only is asked for."""
    asked: list[torch.dtype] = []
    monkeypatch.setattr(conv_forms, "fused_form", lambda call: asked.append(call.input.dtype) or call.input)
    KF.kshot_conv2d(torch.rand(2, 8, 5, 5, dtype=dtype), torch.rand(2, 4, 8, 3, 3, dtype=dtype), torch.rand(2, 2))
    assert asked == [dtype]


def test_more_copies_than_cudas_kernels_hold(on_cuda: None) -> None:
    weight, code = torch.rand(129, 4, 2, 3, 3), torch.rand(129)
    with pytest.raises(ValueError, match="algorithm='fused' has no kernel"):
        KF.kshot_conv2d(torch.rand(1, 2, 5, 5), weight, code, algorithm="fused")
    KF.kshot_conv2d(torch.rand(1, 2, 5, 5), weight[:128], code[:128], algorithm="fused")


@pytest.mark.parametrize(
    ("form", "channels", "kernel", "options"),
    [
        ("fused_form", 8, 1, {}),
        ("grouped_form", 7, 1, {}),
        ("fused_form", 8, 3, {}),
        ("grouped_form", 8, 1, {"algorithm": "mix_then_conv"}),
        ("fused_form", 129, 1, {}),
    ],
)
def test_forms_on_the_cpu(
    form: str,
    channels: int,
    kernel: int,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    native_backend: None,
) -> None:
    assert chosen(monkeypatch, (2, 4, channels, kernel, kernel), (5, 5), **options) == form


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stride", [1, (2, 3)])
@pytest.mark.parametrize(("bias", "gate"), [(None, None), ((6,), (2, 6)), ((3, 6), (6,))])
def test_batched_form_matches_reference(
    bias: tuple[int, ...] | None,
    gate: tuple[int, ...] | None,
    stride: int | tuple[int, int],
    dtype: torch.dtype,
    layout: str,
    on_cuda: None,
) -> None:
    """Narrow on both sides: 4 of 5 input channels, 5 of 6 output channels."""
    shapes = {"input": (2, 4, 5, 7), "weight": (3, 6, 5, 1, 1), "code": (2, 3), "bias": bias, "gate": gate}
    tensors = {name: torch.randn(shape) for name, shape in shapes.items() if shape is not None}
    call = lay_out(Call(tensors, {"stride": stride, "out_channels": 5}).to(dtype), layout)
    output = KF.kshot_conv2d(**call.tensors, **call.options)
    assert output.is_contiguous(
        memory_format=torch.channels_last if call.tensors["input"].stride(1) == 1 else torch.contiguous_format
    )
    assert_matches_reference(KF.kshot_conv2d, reference.kshot_conv2d, call)


@pytest.mark.parametrize("dims", [1, 3])
def test_batched_form_in_other_dimensions(dims: int, on_cuda: None) -> None:
    shapes = {"input": (2, 4, *(3, 4, 5)[:dims]), "weight": (3, 6, 4, *(1,) * dims), "code": (2, 3), "bias": (6,)}
    call = Call({name: torch.randn(shape) for name, shape in shapes.items()})
    name = f"kshot_conv{dims}d"
    assert_matches_reference(getattr(KF, name), getattr(reference, name), call)


def test_batched_form_of_an_empty_batch(on_cuda: None) -> None:
    weight = torch.randn(3, 6, 4, 1, 1, requires_grad=True)
    output = KF.kshot_conv2d(torch.randn(0, 4, 5, 5), weight, torch.rand(0, 3))
    assert output.shape == (0, 6, 5, 5)
    output.sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_batched_form_compiles(on_cuda: None) -> None:
    shapes = {"input": (2, 4, 5, 7), "weight": (3, 6, 4, 1, 1), "code": (2, 3), "bias": (6,)}
    call = Call({name: torch.randn(shape) for name, shape in shapes.items()})
    assert_compiles(KF.kshot_conv2d, [with_algorithm(call, "mix_then_conv")])
