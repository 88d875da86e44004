"""The public operators as the fuzzer calls them: shapes and options from sizes, and the depth of their sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from cases import ConvCase
from torch import Tensor

from kshot_ext import functional as KF
from kshot_ext import reference
from kshot_ext.ops.window import Window

from .case import DTYPES, Case

Shapes = dict[str, tuple[int, ...]]
OF_PARAMETERS = ("code", "gate", "group_gates")  # tensors in `parameter_dtype`


@dataclass(frozen=True)
class Operator:
    """An operator that is linear in each of its tensors, and in each gate of a grouping.

    Args:
        function, twin: ours and the reference.
        arguments: shapes of tensors and other options, from a case.
        depths: how many roundings an element of each result may have gone through in sums: the n of gamma_n.
    """

    function: Callable[..., Any]
    twin: Callable[..., Any]
    arguments: Callable[[Case], tuple[Shapes, dict[str, Any]]]
    depths: Callable[[Case], dict[str, int]]

    def tensors(self, case: Case) -> tuple[dict[str, Tensor], dict[str, Any]]:
        shapes, options = self.arguments(case)
        dtype = DTYPES[case.dtype]
        parameter_dtype = DTYPES[case.parameter_dtype or case.dtype]
        dtypes = {name: parameter_dtype if name in OF_PARAMETERS else dtype for name in shapes}
        tensors = {name: case.tensor(name, shapes[name], dtypes[name], i) for i, name in enumerate(shapes)}
        return tensors, options


def _conv_arguments(case: Case) -> tuple[Shapes, dict[str, Any]]:
    sizes = dict(case.sizes)
    per_sample, algorithm = sizes.pop("code_per_sample", False), sizes.pop("algorithm", "auto")
    by_place = sizes.pop("code_by_place", False)
    conv = ConvCase("fuzzed", **sizes)
    call = conv.call(code_per_sample=per_sample)
    shapes = {name: tuple(tensor.shape) for name, tensor in call.tensors.items()}
    if by_place:
        shapes["code"] += tuple(conv.kernel)
    return shapes, {**call.options, "algorithm": algorithm}


def _gated_arguments(case: Case) -> tuple[Shapes, dict[str, Any]]:
    shapes, options = _conv_arguments(case)
    del shapes["code"]
    return {**shapes, "weight": shapes["weight"][1:]}, options


def _conv_depths(case: Case) -> dict[str, int]:
    others = ("code_per_sample", "code_by_place", "algorithm")
    conv = ConvCase("fuzzed", **{name: size for name, size in case.sizes.items() if name not in others})
    window = Window.of_arguments(conv.kernel, conv.stride, conv.padding, conv.dilation)
    positions = conv.batch * math.prod(window.output_size(conv.spatial))
    taps, group_in, group_out = (
        math.prod(conv.kernel),
        conv.in_channels // conv.groups,
        conv.out_channels // conv.groups,
    )
    mixing = conv.shots + 4
    return {
        "output 0": mixing + group_in * taps,
        "gradient of input": mixing + group_out * taps,
        "gradient of weight": mixing + positions,
        "gradient of code": mixing + positions + conv.out_channels * (group_in * taps + 1),
        "gradient of gate": mixing + positions + group_in * taps,
        "gradient of bias": mixing + positions,
    }


def _linear_arguments(case: Case) -> tuple[Shapes, dict[str, Any]]:
    s = case.sizes
    batch = (s["batch"],)
    shapes = {
        "input": (*batch, *s.get("rows", ()), s.get("input_width", s["in_features"])),
        "weight": (s["shots"], s["out_features"], s["in_features"]),
        "code": (*(batch if s.get("code_per_sample") else ()), s["shots"]),
    }
    if s.get("bias"):
        shapes["bias"] = (*((s["shots"],) if s["bias"] == "dictionary" else ()), s["out_features"])
    if s.get("gate"):
        shapes["gate"] = (*(batch if s["gate"] == "per_sample" else ()), s["out_features"])
    return shapes, {"out_features": s.get("output_width")}


def _linear_depths(case: Case) -> dict[str, int]:
    s = case.sizes
    mixing, positions = s["shots"] + 4, s["batch"] * math.prod(s.get("rows", ()))
    return {
        "output 0": mixing + s["in_features"],
        "gradient of input": mixing + s["out_features"],
        "gradient of weight": mixing + positions,
        "gradient of code": mixing + positions + s["out_features"] * (s["in_features"] + 1),
        "gradient of gate": mixing + positions + s["in_features"],
        "gradient of bias": mixing + positions,
    }


def _mix_arguments(case: Case) -> tuple[Shapes, dict[str, Any]]:
    s = case.sizes
    weight = tuple(s["weight"])
    samples = (s.get("samples", 1),)
    shapes = {"weight": weight, "code": (*(samples if s.get("code_per_sample") else ()), weight[0])}
    if s.get("gate"):
        width = s["out_channels"] if s["gate"] == "active" else weight[1]
        shapes["gate"] = (*(samples if s["gate"] == "per_sample" else ()), width)
    return shapes, {name: s.get(name) for name in ("out_channels", "in_channels")}


def _mix_depths(case: Case) -> dict[str, int]:
    shots, channels, *rest = case.sizes["weight"]
    samples, row = case.sizes.get("samples", 1), math.prod(rest)
    return {
        "output 0": shots + 4,
        "gradient of weight": samples + 4,
        "gradient of code": samples + channels * row + 4,
        "gradient of gate": samples + shots + row + 4,
    }


def _group_arguments(case: Case) -> tuple[Shapes, dict[str, Any]]:
    s = case.sizes
    shapes = {"weight": tuple(s["weight"]), "code": (s["weight"][0],), "group_gates": (s["gates"],)}
    if s["code_per_sample"]:
        shapes["code"] = (s["samples"], *shapes["code"])
    return shapes, {}


def _group_depths(case: Case) -> dict[str, int]:
    shots, *rest = case.sizes["weight"]
    mixing, samples, copy = shots + case.sizes["gates"] + 4, case.sizes["samples"], math.prod(rest)
    return {
        "output 0": mixing,
        "gradient of weight": mixing + samples,
        "gradient of code": mixing + samples + copy,
        "gradient of group_gates": mixing + samples + copy,
    }


def _group_conv_arguments(case: Case) -> tuple[Shapes, dict[str, Any]]:
    shapes, options = _conv_arguments(_without_gates(case))
    window = {name: options[name] for name in ("stride", "padding", "dilation")}
    return {**shapes, "group_gates": (case.sizes["gates"],)}, window


def _group_conv_depths(case: Case) -> dict[str, int]:
    depths = _conv_depths(_without_gates(case))
    conv = {name: n + case.sizes["gates"] for name, n in depths.items()}
    return {**conv, "gradient of group_gates": conv["gradient of code"]}


def _without_gates(case: Case) -> Case:
    return replace(case, sizes={name: size for name, size in case.sizes.items() if name != "gates"})


def _many_arguments(case: Case) -> tuple[Shapes, dict[str, Any]]:
    s = case.sizes
    per_sample = (s.get("samples", 1),) if s.get("code_per_sample") else ()
    shapes: Shapes = {"code": (*per_sample, s["shots"])}
    return shapes | {f"weight{i}": (s["shots"], *sizes) for i, sizes in enumerate(s["weights"])}, {}


def _many_depths(case: Case) -> dict[str, int]:
    s = case.sizes
    elements = sum(math.prod(sizes) for sizes in s["weights"])
    outputs = {f"output {i}": s["shots"] + 4 for i in range(len(s["weights"]))}
    gradients = {f"gradient of weight{i}": s.get("samples", 1) + 4 for i in range(len(s["weights"]))}
    return {**outputs, **gradients, "gradient of code": elements + s.get("samples", 1) + 4}


def _mix_weights(mix: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    return lambda code, **weights: mix(list(weights.values()), code)


def _conv(name: str) -> Operator:
    arguments = _gated_arguments if name == "gated_conv2d" else _conv_arguments
    return Operator(getattr(KF, name), getattr(reference, name), arguments, _conv_depths)


MULTILINEAR = {
    **{name: _conv(name) for name in ("kshot_conv1d", "kshot_conv2d", "kshot_conv3d", "gated_conv2d")},
    "kshot_linear": Operator(KF.kshot_linear, reference.kshot_linear, _linear_arguments, _linear_depths),
    "effective_weight": Operator(KF.effective_weight, reference.effective_weight, _mix_arguments, _mix_depths),
    "dynamic_group_weight": Operator(
        KF.dynamic_group_weight, reference.dynamic_group_weight, _group_arguments, _group_depths
    ),
    "dynamic_group_conv2d": Operator(
        KF.dynamic_group_conv2d, reference.dynamic_group_conv2d, _group_conv_arguments, _group_conv_depths
    ),
    "mix_weights": Operator(
        _mix_weights(KF.mix_weights), _mix_weights(reference.mix_weights), _many_arguments, _many_depths
    ),
}


def pads(case: Case) -> bool:
    """Whether the window of a convolution reaches beyond its image."""
    return bool(case.operator.endswith("d") and torch.tensor(_padding(case)).any())


def may_be_vendors(case: Case) -> bool:
    """Whether the vendor's convolution may serve a case."""
    return case.operator.endswith("d") and case.sizes.get("algorithm") != "fused"


def strides(case: Case) -> bool:
    """Whether the windows of a convolution are apart."""
    return torch.as_tensor(case.sizes.get("stride", 1)).max() > 1


def _padding(case: Case) -> list[int]:
    s = case.sizes
    kernel = s.get("kernel", (3, 3))
    return list(Window.of_arguments(kernel, s.get("stride", 1), s.get("padding", 0), s.get("dilation", 1)).padding)
