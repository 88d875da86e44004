"""Convolution that learns its groups: `torch.nn.Conv2d` with K copies and a gate per factor of its relation matrix.

    output = conv(input, relation(h) * sum_k code[k] * weight[k]),    h_j = 1 if group_gates[j] > 0 else 0

The relation is that of `kshot_ext.functional.dynamic_group_weight`. Each gate of zero doubles the number of groups. The
gradient passes the threshold as if it were the identity (straight-through estimation), so a gate is told what the
connections that it would open, or close, change.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext import functional as KF
from kshot_ext.nn.code import LeafOfGraphs
from kshot_ext.nn.shots import stack_shots
from kshot_ext.ops.dynamic_group_weight import most_group_gates

_START = 1e-8  # size of a gate at the start; its sign is drawn


class DynamicGroupConv2d(LeafOfGraphs):
    """`torch.nn.Conv2d` whose groups are learnt: weight `[K, C_out, C_in, KH, KW]`, bias `[K, C_out]`, gates `[n]`.

    `forward(input, code=None)` is `dynamic_group_conv2d` with this layer's dictionaries and hard gates; without a code
    it uses the one that `kshot_ext.set_code` left, and with a single copy it needs none. All copies share the gates.
    Gates start a hair above or below zero, at random, so that training decides; copies start as a convolution with as
    many groups as the gates then leave would start in torch.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, bias, padding_mode, device, dtype: as in
            `torch.nn.Conv2d`.
        num_shots: K, the number of copies.
        num_gates: n, at most so many that 2^n divides both channel counts; default: as many. There may be 1 to 2^n
            groups.

    Raises:
        ValueError: if there are more gates than the channels allow, or an argument is not what torch takes.

    Example:
        >>> import torch
        >>> layer = DynamicGroupConv2d(16, 8, 3, padding=1, num_shots=2)
        >>> layer.num_gates, layer.groups in (1, 2, 4, 8)
        (3, True)
        >>> layer(torch.randn(1, 16, 5, 5), torch.tensor([0.5, 0.5])).shape
        torch.Size([1, 8, 5, 5])

    Paper: Differentiable Learning-to-Group Channels via Groupable Convolutional Neural Networks, arXiv 1908.05867.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        num_shots: int = 8,
        num_gates: int | None = None,
    ) -> None:
        super().__init__(num_shots)
        # torch validates the arguments and initialises each copy with the fan-in of all input channels.
        make: Callable[..., Any] = nn.Conv2d
        copies = [
            make(
                in_channels, out_channels, kernel_size, stride, padding, dilation, 1, bias, padding_mode, device, dtype
            )
            for _ in range(num_shots)
        ]
        most = most_group_gates(out_channels, in_channels)
        if num_gates is not None and not 0 <= num_gates <= most:
            raise ValueError(
                f"num_gates must be 0 to {most}, since 2^num_gates must divide out_channels = {out_channels} and "
                f"in_channels = {in_channels}; got {num_gates}"
            )
        first = copies[0]
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.dilation = first.kernel_size, first.stride, first.dilation
        self.padding, self.padding_mode = first.padding, first.padding_mode
        self._border = first._reversed_padding_repeated_twice
        self.num_gates = most if num_gates is None else num_gates
        self.weight = nn.Parameter(stack_shots([copy.weight for copy in copies]))
        if bias:
            self.bias = nn.Parameter(stack_shots([copy.bias for copy in copies]))
        else:
            self.register_parameter("bias", None)
        open_gates = torch.rand(self.num_gates) < 0.5
        gates = torch.where(open_gates, _START, -_START).to(device=first.weight.device, dtype=first.weight.dtype)
        self.group_gates = nn.Parameter(gates)
        with torch.no_grad():  # the fan-in is that of one group
            scale = math.sqrt(2 ** (self.num_gates - int(open_gates.sum())))
            for parameter in (self.weight, self.bias):
                if parameter is not None:
                    parameter.mul_(scale)

    def hard_gates(self) -> Tensor:
        """The gates as the layer uses them, `[n]` of 0 and 1; their gradient is that of `group_gates`."""
        return straight_through(self.group_gates)

    @property
    def groups(self) -> int:
        """How many groups the gates leave now."""
        return 1 << (self.num_gates - int((self.group_gates > 0).sum()))

    def log2_groups(self) -> Tensor:
        """The binary logarithm of the number of groups; each halves the layer's products. Differentiable."""
        return self.num_gates - self.hard_gates().sum()

    def forward(self, input: Tensor, code: Tensor | None = None) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._border, mode=self.padding_mode), 0
        code, gates = self._own_code(code), self.hard_gates()
        return KF.dynamic_group_conv2d(input, self.weight, code, gates, self.bias, self.stride, padding, self.dilation)

    @torch.no_grad()
    def export(self, code: Tensor | None = None) -> nn.Module:
        """The layer under a code as an ordinary `torch.nn.Conv2d` with the groups that the gates leave now.

        Where groups do not lie side by side, which is where a gate of one comes before a gate of zero, the convolution
        stands between two permutations of channels.

        Args:
            code: `[K]`; default: the code that `kshot_ext.set_code` left here.

        Returns:
            `torch.nn.Conv2d`, or a `torch.nn.Sequential` of it between two `ChannelPermutation`; with tensors of its
            own, in the mode of this layer.

        Raises:
            ValueError: if there is no code, or one per sample: a plain layer has one weight.

        Example:
            >>> import torch
            >>> layer = DynamicGroupConv2d(4, 4, 1, num_shots=1)
            >>> _ = layer.group_gates.data.copy_(torch.tensor([-1.0, 1.0]))
            >>> layer.export()
            Conv2d(4, 4, kernel_size=(1, 1), stride=(1, 1), groups=2)
        """
        code = self._own_code(code)
        if code.dim() != 1:
            raise ValueError(f"code must have shape [K]: a plain layer has one weight; got {list(code.shape)}")
        groups, orders = self.groups, [self._order(count) for count in (self.out_channels, self.in_channels)]
        weight = KF.dynamic_group_weight(self.weight, code, self.hard_gates())[orders[0]][:, orders[1]]
        blocks = weight.unflatten(0, (groups, -1)).unflatten(2, (groups, -1))
        make: Callable[..., Any] = nn.Conv2d
        layer = make(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation, groups,
            self.bias is not None, self.padding_mode, weight.device, weight.dtype,
        )  # fmt: skip
        layer.weight.copy_(blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0).flatten(0, 1))
        if self.bias is not None:
            layer.bias.copy_(KF.effective_weight(self.bias, code)[orders[0]])
        if all(torch.equal(order, order.sort().values) for order in orders):
            plain: nn.Module = layer.train(self.training)
            return plain
        before, after = ChannelPermutation(orders[1]), ChannelPermutation(orders[0].argsort())
        return nn.Sequential(before, layer, after).train(self.training)

    def _order(self, channels: int) -> Tensor:
        """Channels by group, and as they were within each."""
        block = torch.arange(channels, device=self.weight.device) * 2**self.num_gates // channels
        group = torch.zeros_like(block)
        for j, is_open in enumerate((self.group_gates > 0).tolist()):
            if not is_open:
                group = 2 * group + (block >> (self.num_gates - 1 - j)) % 2
        return group.argsort(stable=True)

    def _own_code(self, code: Tensor | None) -> Tensor:
        if code is None and self._code is None and self.num_shots == 1:
            return self.weight.new_ones(1)
        return self.resolve_code(code)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, bias={self.bias is not None}, "
            f"padding_mode={self.padding_mode!r}, num_shots={self.num_shots}, num_gates={self.num_gates}"
        )


class ChannelPermutation(nn.Module):
    """Channels of a batch of images in another order: `output[:, c] = input[:, order[c]]`.

    Args:
        order: a permutation of `range(channels)`; kept as a buffer.

    Example:
        >>> import torch
        >>> ChannelPermutation(torch.tensor([2, 0, 1]))(torch.arange(3.0).reshape(1, 3, 1, 1)).flatten()
        tensor([2., 0., 1.])
    """

    order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        if order.dim() != 1 or not torch.equal(order.sort().values.cpu(), torch.arange(len(order))):
            raise ValueError(f"order must be a permutation of 0 to {order.numel() - 1}, got {order.tolist()}")
        self.register_buffer("order", order.clone())

    def forward(self, input: Tensor) -> Tensor:
        return input.index_select(1, self.order)

    def extra_repr(self) -> str:
        return f"{len(self.order)} channels"


def straight_through(gates: Tensor) -> Tensor:
    """1 where a gate is positive, else 0, with the gradient of the identity.

    Example:
        >>> import torch
        >>> gates = torch.tensor([-0.5, 0.0, 2.0], requires_grad=True)
        >>> hard = straight_through(gates)
        >>> (hard * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        >>> hard.tolist(), gates.grad.tolist()
        ([0.0, 0.0, 1.0], [1.0, 2.0, 3.0])
    """
    return (gates > 0).to(gates.dtype) + (gates - gates.detach())


def export_dynamic_groups(model: nn.Module, code: Tensor | None = None) -> nn.Module:
    """Copy a model with its layers that learn their groups replaced by what `DynamicGroupConv2d.export` makes of them.

    Other K-shot layers stay: `kshot_ext.merge` of the result makes them plain, too.

    Args:
        model: any module; left untouched.
        code: `[K]`; default: the code that `kshot_ext.set_code` left in each layer.

    Raises:
        ValueError: if there is no such layer, or a layer has no code, naming it.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(DynamicGroupConv2d(8, 8, 3, num_shots=1), torch.nn.ReLU())
        >>> images = torch.randn(2, 8, 5, 5)
        >>> torch.allclose(export_dynamic_groups(model)(images), model(images), atol=1e-5)
        True
    """
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, DynamicGroupConv2d)}
    if not found:
        raise ValueError(f"{type(model).__name__} holds no DynamicGroupConv2d")
    exported: dict[int, nn.Module] = {}
    for name, layer in found.items():
        try:
            exported[id(layer)] = layer.export(code)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
    # What a copy finds in its memo stands wherever the model holds the layer.
    return copy.deepcopy(model, dict(exported))
