"""A convolution and the batch norm behind it as a link of a chain: plain, K-shot or sliced, run by `chained_conv2d`.

A link reads what waits before it, a raw output and its norm, and leaves its own raw output waiting. Layers keep their
parameters, buffers and names; their forwards do not run.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kshot_ext import functional as KF
from kshot_ext.nn.batch_norm import KShotBatchNorm2d, NormalisesBatch, count_batch
from kshot_ext.nn.batch_norm_act import KShotBatchNormAct2d
from kshot_ext.nn.conv import KShotConv2d
from kshot_ext.nn.deferred import JoinedChannels, Pending, Value, WaitingFold, WaitingNorm, finished
from kshot_ext.nn.sliced.batch_norm import DynamicBatchNorm2d
from kshot_ext.nn.sliced.conv import DynamicConv2d
from kshot_ext.nn.sliced.convolution import ConvOperands, SlicedConv, single_copy
from kshot_ext.nn.sliced.separable_conv import DynamicSeparableConv2d
from kshot_ext.nn.watched import is_free
from kshot_ext.ops.batch_norm_act import mixed_affine, record_moments
from kshot_ext.ops.chained_conv2d import prefers_chain
from kshot_ext.ops.effective_weight import leading
from kshot_ext.ops.folded_conv2d import leaves_no_record
from kshot_ext.ops.gradient_slot import OwnedParameter
from kshot_ext.widths import active_widths

_CONVOLUTIONS = (nn.Conv2d, KShotConv2d, DynamicConv2d, DynamicSeparableConv2d)
_NORM_ACT = ("timm.layers.norm_act", "BatchNormAct2d")  # of a library that need not be installed


def is_norm(layer: nn.Module) -> bool:
    """Whether a layer is a batch norm that a link, or what waits, can stand for while nobody looks at it."""
    if type(layer) is DynamicBatchNorm2d:
        return not layer.SET_RUNNING_STATISTICS and is_free(layer.bn)
    return type(layer) in (nn.BatchNorm2d, KShotBatchNorm2d) or is_norm_act(layer)


def can_wait(layer: nn.Module) -> bool:
    """Whether a layer is a batch norm that can wait: hooks would see it called later, and with what follows it."""
    return is_norm(layer) and is_free(layer)


def is_norm_act(layer: nn.Module) -> bool:
    """Whether a layer is timm's batch norm with an activation, `act`, of its own, plain or K-shot, without dropout."""
    kind = type(layer)
    if isinstance(layer, KShotBatchNormAct2d):
        return kind is KShotBatchNormAct2d and layer.holds_no_dropout()
    if (kind.__module__, kind.__qualname__) != _NORM_ACT or list(layer._modules) != ["drop", "act"]:
        return False
    drop = layer._modules["drop"]
    return type(drop) is nn.Identity and is_free(drop)


def can_link(value: Value, conv: Any, norm: Any) -> bool:
    """Whether `norm(conv(value))` can be a link, nobody looks between, and it is expected to be the faster form."""
    if obstacle(conv) is not None or not is_norm(norm) or not (is_free(conv) and is_free(norm)):
        return False
    raw = value if isinstance(value, Tensor) else value.first if isinstance(value, JoinedChannels) else value.raw
    if len(value.shape) != 4:
        return False
    sliced = isinstance(conv, SlicedConv)
    held = conv.conv if sliced else conv
    fits: bool = sliced or isinstance(conv, KShotConv2d) or value.shape[1] == conv.in_channels
    if type(norm) is nn.BatchNorm2d:
        fits = fits and not sliced and conv.out_channels == norm.num_features
    if isinstance(held, KShotConv2d):
        first = held._rows is None or (held._code is not None and held._rows.is_first(raw, held._code))
        fits = fits and first
        return fits and prefers_chain(raw, held.weight, held._code)
    return fits and prefers_chain(raw, held.weight, None)


def obstacle(conv: Any) -> str | None:
    """What about a convolution keeps it from being a link for good."""
    if type(conv) not in _CONVOLUTIONS:
        return f"{type(conv).__name__} is not exactly a Conv2d or KShotConv2d, nor a sliced one that chains take"
    conv = conv.conv if isinstance(conv, SlicedConv) else conv
    if conv.bias is not None:
        return "it has a bias"
    if conv.padding_mode != "zeros":
        return f"it pads by {conv.padding_mode!r}"
    if type(conv._parameters.get("weight")) not in (nn.Parameter, OwnedParameter):
        return "its weight is no ordinary parameter"
    if not (_is_depthwise(conv) or (conv.groups == 1 and tuple(conv.kernel_size) == (1, 1))):
        return f"a kernel {tuple(conv.kernel_size)} with groups={conv.groups} is neither depthwise nor a dense 1x1"
    return None


def link(value: Value, conv: Any, norm: Any, code: Tensor | None = None) -> Value:
    """The raw output of a link and its norm, which waits for its reader.

    Statistics of several processes are made by the layers, one after the other.
    """
    if isinstance(norm, NormalisesBatch) and norm.process_group is not None and _takes_moments(norm):
        return WaitingNorm(_convolved(finished(value), conv, code), norm, code)
    pending: KF.ChannelNorm | None = None
    if isinstance(value, Pending) and value.residual is None:
        input, pending = value.raw, value.norm
    else:
        input = finished(value)
    window: list[Any]
    weight, code_of_conv, *window, width = _operands(conv, input, code)
    layer, groups = (weight, code_of_conv), window[-1]
    channels = active_widths(input.shape[1], (weight.shape[1], weight.shape[2]), groups, width).out_channels
    if isinstance(norm, DynamicBatchNorm2d):
        norm.require_inputs(channels)
        norm = norm.bn
    if _takes_moments(norm):
        raw, mean, variance = KF.chained_conv2d(input, *layer, *window, norm=pending, out_channels=width)
        assert mean is not None, "moments are gathered by default"
        assert variance is not None, "so is the other"
        _record(norm, raw, mean, variance)
        return Pending(raw, _norm_of(norm, mean, variance, code))
    known = _norm_of(norm, leading(norm.running_mean, channels), leading(norm.running_var, channels), code)
    if pending is None and leaves_no_record((input, *layer, *known[:4])):
        return WaitingFold(input, *layer, known, tuple(window), channels)
    raw = KF.chained_conv2d(input, *layer, *window, norm=pending, out_channels=width, moments=False).raw
    return Pending(raw, known)


def _norm_of(norm: Any, mean: Tensor, variance: Tensor, code: Tensor | None) -> KF.ChannelNorm:
    weight, bias = norm.weight, norm.bias
    if isinstance(norm, NormalisesBatch) and norm.affine:
        code = norm.resolve_code(code)
        weight, bias = mixed_affine(weight, bias, code, mean.shape[0], mean.dtype)
    else:
        weight, bias = (None if each is None else leading(each, mean.shape[0]) for each in (weight, bias))
    return KF.ChannelNorm(mean, variance, weight, bias, norm.eps)


def _is_depthwise(conv: Any) -> bool:
    depthwise: bool = conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1
    return depthwise


def _takes_moments(norm: Any) -> bool:
    """Whether the norm normalises by the batch's own statistics."""
    takes: bool = norm.training or norm.running_mean is None
    return takes


def _convolved(input: Tensor, conv: nn.Module, code: Tensor | None) -> Tensor:
    output: Tensor = conv(input, code) if isinstance(conv, KShotConv2d) else conv(input)
    return output


def _operands(conv: Any, input: Tensor, code: Tensor | None) -> ConvOperands:
    """What a convolution takes besides its input; a plain one has a dictionary of a single copy."""
    if isinstance(conv, SlicedConv):
        return conv.operands(input)
    window = conv.stride, conv.padding, conv.dilation
    if isinstance(conv, KShotConv2d):
        return ConvOperands(conv.weight, conv.resolve_code(code), *window, conv._dictionary_groups, conv._width)
    return ConvOperands(*single_copy(conv.weight), *window, conv.groups, None)


def _record(norm: Any, raw: Tensor, mean: Tensor, variance: Tensor) -> None:
    channels = raw.shape[1]
    if 0 < raw.numel() <= channels:
        raise ValueError(f"expected more than one value per channel in training, got {list(raw.shape)}")
    momentum = count_batch(norm)
    if norm.training and norm.track_running_stats and norm.running_mean is not None:
        running = norm.running_mean[:channels], norm.running_var[:channels]
        record_moments(*running, mean, variance, raw.numel() // channels, momentum)
