"""Chains of convolution, batch norm and activation as modules, whose raw outputs are never normalised in memory."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from kshot_ext import functional as KF
from kshot_ext.nn.batch_norm import KShotBatchNorm2d
from kshot_ext.nn.conv import KShotConv2d
from kshot_ext.ops.batch_norm_act import active_affine, record_moments
from kshot_ext.ops.differentiable import is_recorded
from kshot_ext.ops.effective_weight import leading
from kshot_ext.reference.batch_norm_act import ACTIVATIONS
from kshot_ext.widths import active_widths

Size = int | tuple[int, int]


class Pending(NamedTuple):
    """What flows from link to link: a raw output, and the norm that its reader applies; None: apply nothing."""

    raw: Tensor
    norm: KF.ChannelNorm | None

    def finished(self, residual: Tensor | None = None) -> Tensor:
        """The tensor that it stands for, the residual added before the activation."""
        if self.norm is None:
            return self.raw
        return KF.chained_norm_act(self.raw, self.norm, residual)


class KShotConvNormAct(nn.Module):
    """Convolution without bias, batch norm, activation: a link of a chain.

        output = activation(norm(conv(input)) + residual)

    In evaluation, where nothing asks for a gradient, the norm is folded into weight and bias: one convolution.
    By itself a link gives its output as a tensor. In a `KShotChain` the next link reads the raw output of the
    convolution, and normalises it while it loads it. `conv` and `norm` keep the parameters, under the names and in
    the shapes of K-shot layers that stand apart; their own forwards, and so hooks on them, do not run.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as in `torch.nn.Conv2d`.
        eps, momentum: as in `torch.nn.BatchNorm2d`; a momentum of None is the cumulative average.
        activation: "identity", "relu", "relu6", "silu" or "hardswish".
        num_shots: K, the number of copies of the weight and of the norm's parameters.

    `forward(input, code=None, residual=None)`: without a code, the one set by `kshot_ext.set_code`.

    Example:
        >>> link = KShotConvNormAct(3, 8, 3, padding=1, num_shots=2)
        >>> link(torch.randn(4, 3, 5, 5), torch.tensor([0.5, 0.5])).shape
        torch.Size([4, 8, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        activation: str = "relu",
        num_shots: int = 8,
    ) -> None:
        super().__init__()
        conv = KShotConv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False, num_shots=num_shots
        )
        self._hold(conv, KShotBatchNorm2d(out_channels, eps, momentum, num_shots=num_shots), activation)

    @classmethod
    def of_layers(cls, conv: KShotConv2d, norm: KShotBatchNorm2d, activation: str = "identity") -> KShotConvNormAct:
        """A link that holds these two layers themselves.

        Raises:
            ValueError: the convolution has a bias or pads by other than zeros, or the activation is unknown.
        """
        link = cls.__new__(cls)
        nn.Module.__init__(link)
        link._hold(conv, norm, activation)
        return link

    def _hold(self, conv: KShotConv2d, norm: KShotBatchNorm2d, activation: str) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if conv.bias is not None:
            raise ValueError("a link takes a convolution without bias: batch norm takes it away again")
        if conv.padding_mode != "zeros":
            raise ValueError(f"a link pads by zeros, got padding_mode={conv.padding_mode!r}")
        self.conv, self.norm, self.activation = conv, norm, activation

    def forward(self, input: Tensor, code: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        return self.link(Pending(input, None), code, residual).finished(residual)

    def link(self, pending: Pending, code: Tensor | None = None, residual: Tensor | None = None) -> Pending:
        """The raw output of this link and the norm that its reader applies; `residual` is for the latter."""
        conv, norm = self.conv, self.norm
        code_of_conv = conv.resolve_code(code)
        training = norm.training or not norm.track_running_stats
        if training and norm.process_group is not None:  # statistics of several processes: the layers apart
            raw = conv(pending.finished(), code)
            return Pending(norm(raw, code, activation=self.activation, residual=residual), None)
        layer = conv.weight, code_of_conv
        window = conv.stride, conv.padding, conv.dilation, conv._dictionary_groups
        width = {"out_channels": conv._width}
        if training:
            raw, mean, variance = KF.chained_conv2d(pending.raw, *layer, *window, norm=pending.norm, **width)
            self._record(raw, mean, variance)
            return Pending(raw, self._norm_of(mean, variance, code))
        known = self._known_norm(pending.raw, code)
        if pending.norm is None and not is_recorded((pending.raw, *layer, *known[:4], residual)):
            output = KF.folded_conv2d(pending.raw, *layer, known, *window, **width, residual=residual)
            return Pending(output, None)
        raw = KF.chained_conv2d(pending.raw, *layer, *window, norm=pending.norm, **width, moments=False).raw
        return Pending(raw, known)

    def _known_norm(self, input: Tensor, code: Tensor | None) -> KF.ChannelNorm:
        """The norm of what `conv` makes of the input, by running statistics."""
        conv, norm = self.conv, self.norm
        widths = active_widths(input.shape[1], conv.weight.shape[1:3], conv._dictionary_groups, conv._width)
        mean, variance = (leading(values, widths.out_channels) for values in (norm.running_mean, norm.running_var))
        return self._norm_of(mean, variance, code)

    def _norm_of(self, mean: Tensor, variance: Tensor, code: Tensor | None) -> KF.ChannelNorm:
        norm = self.norm
        code_of_norm = norm.resolve_code(code) if norm.affine else None
        mixed = mean.shape[0], mean.dtype
        weight, bias = (active_affine(parameter, code_of_norm, *mixed) for parameter in (norm.weight, norm.bias))
        return KF.ChannelNorm(mean, variance, weight, bias, norm.eps, self.activation)

    def _record(self, raw: Tensor, mean: Tensor, variance: Tensor) -> None:
        norm, channels = self.norm, raw.shape[1]
        if 0 < raw.numel() <= channels:
            raise ValueError(f"expected more than one value per channel in training, got {list(raw.shape)}")
        momentum = norm.count_batch()
        if norm.training and norm.track_running_stats:
            running = norm.running_mean[:channels], norm.running_var[:channels]
            record_moments(*running, mean, variance, raw.numel() // channels, momentum)

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}"


class KShotChain(nn.Sequential):
    """Links one after the other; only what the last one gives is normalised in memory.

    `forward(input, code=None, residual=None)`: the residual is added before the last activation.

    Args:
        links: `KShotConvNormAct` modules; each one's outputs are the next one's inputs.

    Example:
        >>> expand = KShotConvNormAct(4, 12, 1, num_shots=2)
        >>> depthwise = KShotConvNormAct(12, 12, 3, padding=1, groups=12, num_shots=2)
        >>> project = KShotConvNormAct(12, 4, 1, activation="identity", num_shots=2)
        >>> x = torch.randn(2, 4, 5, 5)
        >>> KShotChain(expand, depthwise, project)(x, torch.tensor([0.5, 0.5]), residual=x).shape
        torch.Size([2, 4, 5, 5])
    """

    def __init__(self, *links: KShotConvNormAct) -> None:
        for link in links:
            if not isinstance(link, KShotConvNormAct):
                raise TypeError(f"a chain is made of KShotConvNormAct modules, got {type(link).__name__}")
        super().__init__(*links)

    def forward(self, input: Tensor, code: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        pending = Pending(input, None)
        last = len(self) - 1
        for index, link in enumerate(self):
            pending = link.link(pending, code, residual if index == last else None)
        return pending.finished(residual)
