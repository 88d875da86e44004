"""Chains of convolution, batch norm and activation as modules, whose raw outputs are never normalised in memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kshot_ext.nn.batch_norm import KShotBatchNorm2d
from kshot_ext.nn.conv import KShotConv2d
from kshot_ext.nn.deferred import Value, finished
from kshot_ext.nn.links import link
from kshot_ext.reference.batch_norm_act import ACTIVATIONS

Size = int | tuple[int, int]


class KShotConvNormAct(nn.Module):
    """Convolution without bias, batch norm, activation: a link of a chain.

        output = activation(norm(conv(input)) + residual)

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
        output: Tensor = finished(self.link(input, code, residual))
        return output

    def link(self, value: Value, code: Tensor | None = None, residual: Tensor | None = None) -> Value:
        """This link's raw output, and the norm that its reader applies; `residual` is for the latter."""
        waiting: Any = link(value, self.conv, self.norm, code)  # takes both, whichever kind it is
        if residual is not None:
            waiting = waiting._replace(residual=residual)
        linked: Value = waiting.with_activation(self.activation)
        return linked

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
        for layer in links:
            if not isinstance(layer, KShotConvNormAct):
                raise TypeError(f"a chain is made of KShotConvNormAct modules, got {type(layer).__name__}")
        super().__init__(*links)

    def forward(self, input: Tensor, code: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        value: Value = input
        last = len(self) - 1
        layer: Any
        for index, layer in enumerate(self):
            value = layer.link(value, code, residual if index == last else None)
        output: Tensor = finished(value)
        return output
