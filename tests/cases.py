"""Named cases of the operators, how to make a call of each, and random ones for hypothesis."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from calls import Call, draw
from torch import Tensor

from kshot_ext.widths import active_widths

LAYOUTS = ("contiguous", "sliced", "channels_last", "channels_last_dictionary")


@dataclass(frozen=True)
class ConvCase:
    """One call of a K-shot convolution; widths of None mean all channels."""

    name: str
    spatial: tuple[int, ...] = (7, 5)
    kernel: tuple[int, ...] = (3, 3)
    batch: int = 2
    shots: int = 3
    in_channels: int = 5
    out_channels: int = 7
    groups: int = 1
    stride: int | tuple[int, ...] = 1
    padding: int | tuple[int, ...] | str = 0
    dilation: int | tuple[int, ...] = 1
    bias: str | None = None  # "shared" or "dictionary"
    gate: str | None = None  # "shared", "per_sample" or "active": shared, of the active channels only
    input_width: int | None = None
    output_width: int | None = None

    def __str__(self) -> str:
        return self.name

    def call(self, *, code_per_sample: bool = False, seed: int = 0) -> Call:
        generator = torch.Generator("cpu").manual_seed(seed)
        input_width = self.input_width or self.in_channels
        weight_shape = (self.shots, self.out_channels, self.in_channels // self.groups, *self.kernel)
        code_shape = (self.batch, self.shots) if code_per_sample else (self.shots,)
        active = self.output_width or self.out_channels * input_width // self.in_channels
        bias_shape = {"shared": (self.out_channels,), "dictionary": (self.shots, self.out_channels)}
        gate_shape = {
            "shared": (self.out_channels,),
            "per_sample": (self.batch, self.out_channels),
            "active": (active if self.groups > 1 else self.output_width or self.out_channels,),
        }
        tensors = {
            "input": draw(generator, self.batch, input_width, *self.spatial),
            "weight": draw(generator, *weight_shape),
            "code": draw(generator, *code_shape),
        }
        if self.bias:
            tensors["bias"] = draw(generator, *bias_shape[self.bias])
        if self.gate:
            tensors["gate"] = draw(generator, *gate_shape[self.gate])
        options = {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}
        return Call(tensors, {**options, "out_channels": self.output_width})


CONV2D_CASES = (
    ConvCase("plain"),
    ConvCase("one_copy", shots=1, bias="dictionary"),
    ConvCase("many_copies", shots=11, bias="dictionary"),
    ConvCase("pointwise", kernel=(1, 1), bias="shared"),
    ConvCase("stride", stride=(2, 3), padding=1),
    ConvCase("dilation", dilation=(2, 1), padding=(2, 1)),
    ConvCase("asymmetric_kernel", kernel=(5, 2), stride=(1, 2), padding=(2, 0), bias="dictionary"),
    ConvCase("padding_same", padding="same", kernel=(3, 5), dilation=2, spatial=(11, 13)),
    ConvCase("padding_same_even_kernel", padding="same", kernel=(2, 4)),
    ConvCase("padding_valid", padding="valid", bias="shared"),
    ConvCase("groups", in_channels=6, out_channels=9, groups=3, padding=1, bias="dictionary"),
    ConvCase("depthwise", out_channels=5, groups=5, padding=1, bias="shared"),
    ConvCase("depthwise_multiplier", out_channels=10, groups=5, padding=1),
    ConvCase("one_group_left", in_channels=6, out_channels=9, groups=3, input_width=2, bias="shared"),
    ConvCase("narrow_input", input_width=3, padding=1),
    ConvCase("narrow_output", output_width=5, padding=1, bias="dictionary"),
    ConvCase("narrow_both", input_width=2, output_width=3, bias="shared", gate="shared"),
    ConvCase("narrow_groups", in_channels=6, out_channels=9, groups=3, input_width=4, gate="active"),
    ConvCase("fewer_groups_out", in_channels=6, out_channels=9, groups=3, output_width=3, bias="dictionary"),
    ConvCase("narrow_depthwise", out_channels=5, groups=5, input_width=3, gate="shared", bias="dictionary"),
    ConvCase("gate", gate="shared", bias="dictionary"),
    ConvCase("gate_of_active_channels", gate="active", output_width=4, bias="shared"),
    ConvCase("gate_per_sample", gate="per_sample", output_width=4, bias="dictionary"),
    ConvCase("gate_per_sample_shared_bias", gate="per_sample", bias="shared", stride=2),
    ConvCase("gate_per_sample_depthwise", out_channels=5, groups=5, gate="per_sample", bias="shared", stride=2),
    ConvCase("empty_batch", batch=0, bias="dictionary", gate="per_sample", output_width=5),
    ConvCase("empty_batch_depthwise", batch=0, out_channels=5, groups=5, bias="shared"),
    ConvCase("one_sample", batch=1, padding=1, bias="shared"),
)
CONV1D_CASES = tuple(
    replace(case, spatial=(11,), kernel=(3,))
    for case in (
        ConvCase("plain"),
        ConvCase("stride", stride=3, padding=(1,), bias="dictionary"),
        ConvCase("dilation_same", dilation=2, padding="same", bias="shared"),
        ConvCase("groups", in_channels=6, out_channels=9, groups=3, input_width=4, gate="per_sample"),
        ConvCase("depthwise", out_channels=5, groups=5, input_width=3, bias="dictionary"),
        ConvCase("narrow_gated", input_width=2, output_width=3, bias="dictionary", gate="shared"),
        ConvCase("empty_batch", batch=0, bias="shared", gate="shared"),
    )
)
CONV3D_CASES = tuple(
    replace(case, spatial=(3, 5, 4))
    for case in (
        ConvCase("plain", kernel=(2, 3, 1)),
        ConvCase("stride", kernel=(3, 2, 2), stride=(1, 2, 3), padding=(1, 0, 2), bias="dictionary"),
        ConvCase("dilation_same", kernel=(3, 1, 3), dilation=(1, 2, 1), padding="same", bias="shared"),
        ConvCase("groups", kernel=(1, 3, 2), in_channels=6, out_channels=9, groups=3, input_width=4, gate="active"),
        ConvCase("depthwise", kernel=(3, 3, 3), out_channels=5, groups=5, padding=1, gate="per_sample", bias="shared"),
        ConvCase("narrow", kernel=(2, 2, 2), input_width=2, output_width=3, bias="dictionary", gate="shared"),
        ConvCase("empty_batch", kernel=(2, 2, 2), batch=0, bias="dictionary"),
    )
)
TINY_CONV2D_CASES = tuple(
    replace(case, spatial=(3, 4), kernel=(2, 3), shots=2)
    for case in (
        ConvCase("everything", in_channels=3, out_channels=3, input_width=2, output_width=2, bias="dictionary",
                 gate="shared", padding=1, stride=(1, 2)),
        ConvCase("groups", in_channels=4, out_channels=4, groups=2, bias="shared", gate="per_sample"),
        ConvCase("depthwise", in_channels=3, out_channels=3, groups=3, input_width=2, bias="dictionary"),
    )
)  # fmt: skip


def fused_serves(call: Call) -> bool:
    """Whether `algorithm="fused"` has a kernel for this call of `kshot_conv2d`."""
    input, weight = call.tensors["input"], call.tensors["weight"]
    channels = (weight.shape[1], weight.shape[2])
    widths = active_widths(input.shape[1], channels, call.options["groups"], call.options["out_channels"])
    depthwise = weight.shape[2] == 1 and widths.groups == widths.out_channels
    return depthwise or (widths.groups == 1 and weight.dtype == torch.float32)


def with_algorithm(call: Call, algorithm: str) -> Call:
    return replace(call, options={**call.options, "algorithm": algorithm})


def lay_out(call: Call, layout: str) -> Call:
    """The same values, kept in another way in memory."""
    if layout == "contiguous":
        return call
    if layout == "sliced":
        return replace(call, tensors={name: _sliced(tensor) for name, tensor in call.tensors.items()})
    tensors = dict(call.tensors)
    for name in ("input", "residual"):
        if name in tensors:
            tensors[name] = _inner(tensors[name], 1)
    if layout == "channels_last_dictionary":
        weight = tensors["weight"]
        tensors["weight"] = _inner(weight, weight.dim() - tensors["input"].dim() + 1)
    return replace(call, tensors=tensors)


def _sliced(tensor: Tensor) -> Tensor:
    """A view into a larger tensor: an offset, gaps, and every second element of the last dimension."""
    larger = tensor.new_full([*(size + 2 for size in tensor.shape[:-1]), 2 * tensor.shape[-1] + 1], torch.nan)
    view = larger[(*(slice(1, 1 + size) for size in tensor.shape[:-1]), slice(1, None, 2))]
    return view.copy_(tensor)


def _inner(tensor: Tensor, dim: int) -> Tensor:
    """`tensor` with dimension `dim` innermost in memory."""
    return tensor.movedim(dim, -1).contiguous().movedim(-1, dim)


def is_channels_last(tensor: Tensor) -> bool:
    return tensor.movedim(1, -1).is_contiguous() and not tensor.is_contiguous()
