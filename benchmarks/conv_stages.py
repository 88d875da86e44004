"""What the kernels of a K-shot convolution must move and compute, forward and backward, stage by stage.

Two forms: *fused*, whose kernels read all K copies and mix them on the way, and *mix + convolution*, which mixes once
into memory (one weight, or one per sample) and convolves with that. A stage is a kernel that must end before the next
can begin. Bytes are the least possible: every operand of a stage read once, every result written once. Backward makes
the gradients of input, code and dictionary; the last one stays compact for a code that the batch shares (the gradient
of the effective weight, which `KShotSGD` takes) and is dense for codes per sample.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.layers import ConvLayer

SUM_BYTES = 4  # gradients of weights leave our kernels in float32
PLACES_OF_A_BLOCK = 128  # output positions for which a block of the dense kernel mixes anew, at most


@dataclass(frozen=True)
class Stage:
    """One kernel.

    Args:
        bytes: read and written, at least.
        products: operations of the convolution.
        mixing: operations of mixing and of its derivative.
    """

    name: str
    bytes: int
    products: int = 0
    mixing: int = 0


@dataclass(frozen=True)
class ConvCall:
    """A layer on a batch.

    Args:
        per_sample: whether every sample has a code of its own.
        element_bytes: of images and dictionaries.
    """

    layer: ConvLayer
    batch: int
    num_shots: int
    per_sample: bool
    element_bytes: int

    @property
    def copy(self) -> int:
        """Numbers of one copy of the weight."""
        out_channels, *window = self.layer.weight_shape
        return out_channels * window[0] * window[1] * window[2]

    @property
    def dictionary(self) -> int:
        return self.num_shots * self.copy

    @property
    def input(self) -> int:
        return self.batch * self.layer.in_channels * self.layer.size**2

    @property
    def used_input(self) -> int:
        """Numbers of the input that any output depends on: strides beyond the kernel skip some."""
        layer = self.layer
        size = layer.size if layer.kernel_size >= layer.stride else layer.out_size * layer.kernel_size
        return self.batch * layer.in_channels * size**2

    @property
    def output(self) -> int:
        return self.batch * self.layer.out_channels * self.layer.out_size**2

    @property
    def products(self) -> int:
        """Operations of one direction."""
        return 2 * self.batch * self.layer.multiplications

    @property
    def weights(self) -> int:
        """Effective weights: one, or one per sample."""
        return self.batch if self.per_sample else 1

    @property
    def mixing(self) -> int:
        """Operations of mixing all effective weights once; as many make the gradient of the codes from theirs."""
        return 2 * self.dictionary * self.weights


def fused_stages(call: ConvCall) -> list[Stage]:
    """Our kernels, which mix while they bring weights to shared memory."""
    element, dictionary = call.element_bytes, call.dictionary
    forward = Stage(
        "forward",
        element * (call.used_input + dictionary + call.output),
        call.products,
        _mixing_in_blocks(call, call.layer.out_size),
    )
    input_gradient = Stage(
        "input gradient",
        element * (call.output + dictionary + call.input),
        call.products,
        _mixing_in_blocks(call, call.layer.size),
    )
    images = element * (call.used_input + call.output)
    if call.per_sample and call.layer.kind == "dense":
        gradients = images + element * dictionary + SUM_BYTES * dictionary
        return [
            forward,
            input_gradient,
            Stage("gradients of dictionary and codes", gradients, call.products, 2 * call.mixing),
        ]
    effective = SUM_BYTES * call.weights * call.copy
    return [
        forward,
        input_gradient,
        Stage("weight gradient", images + effective, call.products),
        _mixing_backward(call, effective),
    ]


def mix_then_conv_stages(call: ConvCall) -> list[Stage]:
    """Mixing, and a convolution with the effective weights; per sample one of `N * groups` groups."""
    element, effective = call.element_bytes, call.element_bytes * call.weights * call.copy
    images = element * (call.used_input + call.output)
    return [
        Stage("mixing", element * call.dictionary + effective, mixing=call.mixing),
        Stage("forward", images + effective, call.products),
        Stage("input gradient", element * (call.output + call.input) + effective, call.products),
        Stage("weight gradient", images + effective, call.products),
        _mixing_backward(call, effective),
    ]


def _mixing_in_blocks(call: ConvCall, size: int) -> int:
    """Mixing by a kernel that makes images of `size`: dense, once for every block of places; depthwise, per sample."""
    mixing = 2 * call.dictionary
    if call.layer.kind == "depthwise":
        return mixing * call.batch
    if call.per_sample:
        return mixing * call.batch * _blocks(size**2)
    return mixing * _blocks(call.batch * size**2)


def _blocks(places: int) -> int:
    return -(-places // PLACES_OF_A_BLOCK)


def _mixing_backward(call: ConvCall, effective_bytes: int) -> Stage:
    """Gradients of the codes and, per sample, of the dictionary, from those of the effective weights."""
    dictionary = call.element_bytes * call.dictionary
    if call.per_sample:
        return Stage("mixing backward", effective_bytes + 2 * dictionary, mixing=2 * call.mixing)
    return Stage("mixing backward", effective_bytes + dictionary, mixing=call.mixing)


FORMS = {"fused": fused_stages, "mix + convolution": mix_then_conv_stages}
