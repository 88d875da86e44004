"""Planned convolutions: what a second call enters, that it gives what the first gave, and what makes a new plan."""

from __future__ import annotations

import copy
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from calls import frames
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import kshot_ext
from kshot_ext import backend, reference
from kshot_ext import functional as KF
from kshot_ext.ops import autotune, plans

CHANNELS_LAST = torch.channels_last


@pytest.fixture(autouse=True)
def _no_plans() -> Iterator[None]:
    plans.forget()
    yield
    plans.forget()


def operands(
    *, dtype: torch.dtype = torch.float32, groups: int = 1, kernel: int = 1, size: int = 4, layout=CHANNELS_LAST
) -> dict[str, Tensor]:
    """Input, dictionary of three copies and code of a convolution of 16 channels."""
    dictionary = torch.randn(48, 16 // groups, kernel, kernel, dtype=dtype).contiguous(memory_format=layout)
    return {
        "input": torch.randn(2, 16, size, size, dtype=dtype).contiguous(memory_format=layout),
        "weight": dictionary.unflatten(0, (3, 16)),
        "code": torch.randn(3),
    }


FORMS = {
    "depthwise": {"groups": 16, "kernel": 3, "padding": 1},
    "pointwise": {},
    "dense": {"kernel": 3, "padding": 1},
}


@pytest.mark.parametrize("given_code", [True, False], ids=["given_code", "set_code"])
@pytest.mark.parametrize("settings", FORMS.values(), ids=FORMS)
def test_a_call_of_a_layer_enters_three_functions(settings: dict[str, int], given_code: bool) -> None:
    """The module's forward, the operator and its autograd function; backward, what that calls."""
    layer = kshot_ext.nn.KShotConv2d(
        16, 16, settings.get("kernel", 1), padding=settings.get("padding", 0), groups=settings.get("groups", 1),
        bias=False, num_shots=3,
    ).to(memory_format=CHANNELS_LAST)  # fmt: skip
    input = operands()["input"].requires_grad_()
    code = torch.softmax(torch.randn(3), 0).requires_grad_()
    kshot_ext.set_code(layer, code)
    arguments = (input, code) if given_code else (input,)
    layer(*arguments)
    assert frames(lambda: layer(*arguments)) == ["forward", "kshot_conv", "_forward"]
    with torch.no_grad():
        layer(*arguments)
        assert frames(lambda: layer(*arguments)) == ["forward", "kshot_conv", "unrecorded"]
    assert len(frames(layer(*arguments).sum().backward)) <= 5


def outcome(call: Callable[..., Tensor], tensors: dict[str, Tensor], options: dict[str, Any]) -> list[Tensor]:
    """Output and gradients."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    output = call(**leaves, **options)
    return [output, *torch.autograd.grad(output.square().sum(), list(leaves.values()))]


EXTRAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": (16,)},
    "bias_of_copies": {"bias": (3, 16)},
    "gate": {"gate": (16,)},
    "gate_per_sample": {"gate": (2, 16)},
    "bias_and_gate": {"bias": (16,), "gate": (16,)},
    "code_per_sample": {"code": (2, 3)},
    "code_and_gate_per_sample": {"code": (2, 3), "gate": (2, 16)},
    "code_per_sample_and_gate": {"code": (2, 3), "gate": (16,)},
    "narrow": {"out_channels": 8},
    "narrow_with_bias": {"out_channels": 8, "bias": (16,)},
    "mixed_first": {"algorithm": "mix_then_conv"},
    "mixed_first_with_bias": {"algorithm": "mix_then_conv", "bias": (16,)},
    "long_stride": {"stride": 40},
    "wide_padding": {"padding": 5},
}


@pytest.mark.parametrize("layout", [CHANNELS_LAST, torch.contiguous_format], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_planned_call_gives_what_the_first_gave(form, extra, dtype, layout) -> None:
    sizes = {name: form[name] for name in ("groups", "kernel") if name in form}
    tensors = operands(**sizes, dtype=dtype, layout=layout)
    shapes = {name: extra[name] for name in ("code", "bias", "gate") if name in extra}
    tensors |= {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    options = {name: form[name] for name in ("groups", "padding") if name in form}
    options |= {name: value for name, value in extra.items() if name not in shapes}
    first = outcome(KF.kshot_conv2d, tensors, options)
    assert len(plans.kept) == 1
    second = outcome(KF.kshot_conv2d, tensors, options)
    assert len(plans.kept) == 1
    for before, after in zip(first, second, strict=True):
        assert torch.equal(before, after)
        assert before.stride() == after.stride()
    if dtype == torch.float64:
        expected = outcome(reference.kshot_conv2d, tensors, {k: v for k, v in options.items() if k != "algorithm"})
        torch.testing.assert_close(second, expected, check_stride=False)


def planned() -> tuple[dict[str, Tensor], Callable[..., Tensor]]:
    """Operands with a plan, and a function that calls with changes of them."""
    tensors = operands()

    def call(**changes: Any) -> Tensor:
        return KF.kshot_conv2d(**{**tensors, "stride": 1, "padding": 0, "groups": 1, **changes})

    call()
    assert len(plans.kept) == 1
    return tensors, call


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"stride": True}, ValueError, "stride must be"),
        ({"stride": 1.0}, ValueError, "stride must be"),
        ({"stride": (1, 1.0)}, ValueError, "stride must be"),
        ({"padding": "0"}, ValueError, "padding must be"),
        ({"padding": False}, ValueError, "padding must be"),
        ({"algorithm": "Auto"}, ValueError, "algorithm must be"),
        ({"groups": 3}, ValueError, "groups must be"),
        ({"code": torch.ones(4)}, ValueError, "code must have K = 3"),
        ({"code": [1.0, 0.0, 0.0]}, TypeError, "code must be a tensor"),
        ({"code": torch.ones(3, device="meta")}, ValueError, "code must be on cpu"),
        ({"code": torch.ones(3, dtype=torch.int64)}, TypeError, "code must be one of"),
        ({"bias": torch.ones(15)}, ValueError, "bias must have shape"),
        ({"gate": torch.ones(15)}, ValueError, "gate must have C_out"),
        ({"input": torch.ones(2, 16, 4, 4, dtype=torch.float64)}, TypeError, "weight must be torch.float64"),
        ({"input": "image"}, TypeError, "input must be a tensor"),
    ],
    ids=str,
)
def test_mistakes_are_refused_beside_a_plan(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    _, call = planned()
    with pytest.raises(error, match=message):
        call(**changes)
    assert len(plans.kept) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": 2},
        {"padding": 1},
        {"out_channels": 8},
        {"gate": torch.linspace(0.5, 1.5, 16)},
        {"bias": torch.ones(16)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_setting_beside_a_plan_counts(changes: dict[str, Any]) -> None:
    tensors, call = planned()
    torch.testing.assert_close(call(**changes), reference.kshot_conv2d(**tensors, **changes), check_stride=False)


def test_arguments_that_are_no_keys_are_taken() -> None:
    _, call = planned()
    assert torch.equal(call(stride=[1, 1], padding=[0, 0]), call())


def test_new_operands_in_the_place_of_old_ones() -> None:
    layer = kshot_ext.nn.KShotConv2d(16, 8, 1, bias=False, num_shots=3)
    input, code = operands()["input"], torch.randn(3)
    assert layer(input, code).shape == (2, 8, 4, 4)
    layer.weight.data = torch.randn(3, 12, 16, 1, 1)
    assert layer(input, code).shape == (2, 12, 4, 4)
    layer.stride = (2, 2)
    assert layer(input, code).shape == (2, 12, 2, 2)
    layer.double()
    with pytest.raises(TypeError, match=r"weight must be torch\.float32"):
        layer(input, code)
    assert layer(input.double(), code).dtype == torch.float64


def test_gradients_are_recorded_where_they_are_wanted() -> None:
    tensors, call = planned()
    assert not call().requires_grad
    for name in tensors:
        leaf = tensors[name].detach().requires_grad_()
        for _ in range(2):
            assert call(**{name: leaf}).requires_grad
        with torch.no_grad():
            for _ in range(2):
                assert not call(**{name: leaf}).requires_grad
    with torch.inference_mode():
        assert call().is_inference()


def test_torchs_state_is_seen() -> None:
    tensors, call = planned()
    expected = call()
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            assert call().dtype == torch.bfloat16
        with torch.autocast("cpu", torch.float16):
            assert call().dtype == torch.float16
        assert call().dtype == torch.float32
    entered = []
    with backend.use_reference():
        entered = frames(call)
    assert "_first_call" in entered
    codes = torch.randn(4, 3)
    batched = torch.func.vmap(lambda code: call(code=code))(codes)
    torch.testing.assert_close(batched, torch.stack([call(code=code) for code in codes]))
    _, tangent = torch.func.jvp(lambda code: call(code=code), (tensors["code"],), (tensors["code"],))
    torch.testing.assert_close(tangent, expected)
    compiled = torch.compile(lambda input: call(input=input), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tensors["input"]), expected)


def test_gradient_flows_through_a_tensor_that_left_a_function_transform() -> None:
    tensors, call = planned()
    code = tensors["code"].clone().requires_grad_()
    call(code=2 * code)
    left: list[Tensor] = []
    torch.func.grad(lambda code: left.append(2 * code) or code.sum())(code)
    (found,) = torch.autograd.grad(call(code=left[0]).sum(), code)
    torch.testing.assert_close(found, torch.autograd.grad(call(code=2 * code).sum(), code)[0])


@pytest.mark.parametrize("extra", [{}, {"bias": (3, 16)}, {"gate": (16,), "bias": (16,)}], ids=str)
@pytest.mark.parametrize("algorithm", ["fused", "mix_then_conv"])
def test_a_planned_call_saves_what_the_first_saved(algorithm: str, extra: dict[str, tuple[int, ...]]) -> None:
    """Recomputation counts tensors: it fails where the call before, which made the plan, has saved others."""
    tensors = operands() | {name: torch.randn(shape) for name, shape in extra.items()}
    leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items()}

    def call(*values: Tensor) -> Tensor:
        return KF.kshot_conv2d(**dict(zip(leaves, values)), algorithm=algorithm)

    output = checkpoint(call, *leaves.values(), use_reentrant=False)
    found = torch.autograd.grad(output.sum(), list(leaves.values()))
    expected = torch.autograd.grad(call(*leaves.values()).sum(), list(leaves.values()))
    assert all(map(torch.equal, found, expected))


def test_autocast_of_operands_in_its_dtype() -> None:
    """Which need no cast until it has another."""
    options = {"groups": 16, "padding": 1}
    half, full = (operands(groups=16, kernel=3, dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            assert KF.kshot_conv2d(**half, **options).dtype == torch.bfloat16
            assert KF.kshot_conv2d(**{**half, "input": full["input"]}, **options).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.float16):
            assert KF.kshot_conv2d(**half, **options).dtype == torch.float16


def test_tangents_and_transforms_that_wrap_no_operand() -> None:
    tensors, call = planned()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(tensors["code"], tensors["code"])
        torch.testing.assert_close(forward_ad.unpack_dual(call(code=dual)).tangent, call())
    entered: list[str] = []
    torch.func.vmap(lambda x: entered.extend(frames(call)) or x)(torch.ones(2))
    assert "_first_call" in entered  # the reference, as everywhere under a transform


def test_an_image_of_one_pixel_is_narrowed_by_every_call() -> None:
    tensors = operands(groups=16, size=1)
    first, second = (KF.kshot_conv2d(**tensors, groups=16, out_channels=8) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (2, 8, 1, 1)


def test_operands_of_other_classes_have_no_plan() -> None:
    seen: list[str] = []

    class Noting(Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return super().__torch_function__(function, types, args, kwargs)

    tensors, call = planned()
    for name in tensors:
        seen.clear()
        assert isinstance(call(**{name: tensors[name].as_subclass(Noting)}), Noting)
        assert any("fused_conv2d" in function for function in seen)
    assert len(plans.kept) == 1


def test_autotune_measures_in_spite_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    monkeypatch.setattr(autotune, "_measured", lambda call, forms: measured.append(1) or "mix_then_conv")
    tensors, call = planned()
    of_other_strides = tensors["weight"].transpose(1, 2).contiguous().transpose(1, 2)
    kshot_ext.set_autotune(True)
    try:
        for weight in (tensors["weight"], tensors["weight"], of_other_strides, of_other_strides):
            call(weight=weight)
        assert len(measured) == 2
        plan = plans.kept[[*plans.kept][-1]]
        assert plan.convolution is not None
    finally:
        kshot_ext.set_autotune(False)
    assert not plans.kept


def test_plans_hold_no_tensors() -> None:
    tensors, call = planned()
    seen = [weakref.ref(tensor) for tensor in tensors.values()]
    del call
    tensors.clear()
    assert [reference() for reference in seen] == [None, None, None]


def test_old_plans_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_MOST", 4)
    for size in range(1, 12):
        tensors = operands(size=size)
        torch.testing.assert_close(KF.kshot_conv2d(**tensors), reference.kshot_conv2d(**tensors))
        assert len(plans.kept) <= 4


def test_threads_share_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """While they are dropped all the time."""
    monkeypatch.setattr(plans, "_MOST", 3)
    cases = [operands(size=size) for size in range(1, 7)]
    expected = [KF.kshot_conv2d(**tensors) for tensors in cases]
    wrong: list[int] = []

    def work(offset: int) -> None:
        for step in range(200):
            index = (offset + step) % len(cases)
            if not torch.equal(KF.kshot_conv2d(**cases[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_plan_serves_every_instruction_set(instruction_set: str) -> None:
    """Kernels are chosen below the plan."""
    tensors = operands()
    torch.ops.kshot_ext.force_cpu_isa("auto")
    KF.kshot_conv2d(**tensors)
    torch.ops.kshot_ext.force_cpu_isa(instruction_set)
    torch.testing.assert_close(KF.kshot_conv2d(**tensors), reference.kshot_conv2d(**tensors))


def test_hooks_and_copies_of_a_layer() -> None:
    layer = kshot_ext.nn.KShotConv2d(16, 8, 1, num_shots=3)
    input, code = operands()["input"], torch.randn(3)
    layer(input, code)
    expected = layer(input, code)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(input, code), expected)
    seen: list[nn.Module] = []
    layer.register_forward_hook(lambda module, *_: seen.append(module))
    layer(input, code)
    assert seen == [layer]


def test_other_ways_to_find_a_code_are_taken() -> None:
    class Remembering(kshot_ext.nn.KShotConv2d):
        def resolve_code(self, code: Tensor | None) -> Tensor:
            return torch.full((3,), 1 / 3) if code is None else super().resolve_code(code)

    layer, input = Remembering(16, 8, 1, num_shots=3), operands()["input"]
    assert torch.equal(layer(input), layer(input, torch.full((3,), 1 / 3)))
    layer.check_code = True
    with pytest.raises(ValueError, match="code must be finite"):
        layer(input, torch.full((3,), float("nan")))
