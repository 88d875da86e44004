"""K-shot convolution modules: `torch.nn.Conv1d/2d/3d` with K copies of weight and bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional as F

from kshot_ext.nn.code import KShotModule
from kshot_ext.nn.conversions import register_conversion
from kshot_ext.nn.shots import stack_shots
from kshot_ext.ops.conv_forms import Dimensions
from kshot_ext.ops.kshot_conv import DIMENSIONS, kshot_conv

if TYPE_CHECKING:
    from typing_extensions import Self


class _KShotConv(KShotModule):
    """Shared by the three classes below: holds the dictionaries, forwards to the functional operator."""

    initialised_by: ClassVar[type[Any]]  # a kind of torch.nn's convolutions
    dims: ClassVar[Dimensions]
    weight: nn.Parameter
    bias: nn.Parameter | None
    transposed: ClassVar[bool] = False  # as torch's convolutions say, for whoever asks any of them

    @property
    def output_padding(self) -> tuple[int, ...]:
        """Zeros: torch's convolutions have this attribute, too."""
        return (0,) * self.dims.count

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        num_shots: int = 8,
    ) -> None:
        super().__init__(num_shots)

        def make_plain() -> Any:
            return self.initialised_by(
                in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                device, dtype,
            )  # fmt: skip

        # torch validates the arguments and initialises each copy with the fan-in of one copy.
        copies = [make_plain() for _ in range(num_shots)]
        first = copies[0]
        self.in_channels, self.out_channels = first.in_channels, first.out_channels
        self.kernel_size, self.stride, self.dilation = first.kernel_size, first.stride, first.dilation
        self.padding, self.groups, self.padding_mode = first.padding, first.groups, first.padding_mode
        self._border = first._reversed_padding_repeated_twice
        self._dictionary_groups = first.groups  # those of the whole dictionary, which a narrower layer shares
        self._width: int | None = None
        self.weight = nn.Parameter(stack_shots([copy.weight for copy in copies]))
        if bias:
            self.bias = nn.Parameter(stack_shots([copy.bias for copy in copies]))
        else:
            self.register_parameter("bias", None)

    def forward(
        self,
        input: Tensor,
        code: Tensor | None = None,
        *,
        gate: Tensor | None = None,
        out_channels: int | None = None,
    ) -> Tensor:
        if isinstance(input, Proxy):
            return self.leaf_of_graph(input, code=code, gate=gate, out_channels=out_channels)
        if input.dim() == self.dims.count + 1:  # one sample without a batch, as torch's layers take it
            return self.forward(input[None], code, gate=gate, out_channels=out_channels)[0]
        if code is None:
            if self._rows is not None:
                return self._rows.call(self, input, self._code, gate=gate, out_channels=out_channels)
            code = self._code
        if code is None or self.check_code:  # a call that is saved where there is nothing to check
            code = self.resolve_code(code)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._border, mode=self.padding_mode), 0
        return kshot_conv(
            self.dims, input, self.weight, code, self.bias, self.stride, padding, self.dilation,
            self._dictionary_groups, gate, self._width if out_channels is None else out_channels, "auto",
        )  # fmt: skip

    @classmethod
    def geometry(cls, layer: nn.Module) -> dict[str, Any]:
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        return {
            **{name: getattr(layer, name) for name in (*names, "padding_mode")},
            "bias": layer.bias is not None,
        }

    def narrowed(self, plain: Any) -> Self:
        layer = super().narrowed(plain)
        for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode"):
            if getattr(plain, name) != getattr(self, name):
                raise ValueError(f"{name}: expected {getattr(self, name)}, got {getattr(plain, name)}")
        if self._dictionary_groups > 1 or plain.groups > 1:
            group, wanted = ((c.in_channels // c.groups, c.out_channels // c.groups) for c in (self, plain))
            if group != wanted:
                raise ValueError(f"expected groups of {group} channels in and out, got {wanted}")
        layer.in_channels, layer.out_channels, layer.groups = plain.in_channels, plain.out_channels, plain.groups
        layer._width = plain.out_channels
        return layer

    def extra_repr(self) -> str:
        parts = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}",
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}",
            f"bias={self.bias is not None}, padding_mode={self.padding_mode!r}, num_shots={self.num_shots}",
        ]
        return ", ".join(parts)


class KShotConv1d(_KShotConv):
    """`torch.nn.Conv1d` with K copies: weight `[K, C_out, C_in/groups, KL]`, bias `[K, C_out]`.

    `forward(input, code=None, *, gate=None, out_channels=None)` is `kshot_conv1d` with this layer's dictionaries.
    """

    plain = initialised_by = nn.Conv1d
    dims = DIMENSIONS[1]


class KShotConv2d(_KShotConv):
    """`torch.nn.Conv2d` with K copies: weight `[K, C_out, C_in/groups, KH, KW]`, bias `[K, C_out]`.

    `forward(input, code=None, *, gate=None, out_channels=None)` is `kshot_conv2d` with this layer's dictionaries;
    without a code it uses the one that `kshot_ext.set_code` left. As torch's layer it takes a single sample
    `[C_in, H, W]`, too. Each copy starts as torch would start it.

    Args:
        num_shots: K, the number of copies; all other arguments are those of `torch.nn.Conv2d`.

    Example:
        >>> layer = KShotConv2d(3, 8, 3, padding=1, bias=False, num_shots=2)
        >>> layer(torch.randn(1, 3, 8, 8), torch.tensor([0.5, 0.5]), out_channels=4).shape
        torch.Size([1, 4, 8, 8])
    """

    plain = initialised_by = nn.Conv2d
    dims = DIMENSIONS[2]


class KShotConv3d(_KShotConv):
    """`torch.nn.Conv3d` with K copies: weight `[K, C_out, C_in/groups, KD, KH, KW]`, bias `[K, C_out]`.

    `forward(input, code=None, *, gate=None, out_channels=None)` is `kshot_conv3d` with this layer's dictionaries.
    """

    plain = initialised_by = nn.Conv3d
    dims = DIMENSIONS[3]


for _kind in (KShotConv1d, KShotConv2d, KShotConv3d):
    register_conversion(_kind.plain, _kind.from_plain, _kind.to_plain)
