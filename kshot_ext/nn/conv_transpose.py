"""K-shot transposed convolutions: `torch.nn.ConvTranspose1d/2d/3d` with K copies of weight and bias."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from kshot_ext.nn.code import by_samples
from kshot_ext.nn.conversions import register_conversion
from kshot_ext.nn.mixed import KShotMixed, plain_layer


class _KShotConvTranspose(KShotMixed):
    """Shared by the three classes below: one weight is mixed for all samples, or one for each."""

    convolve: ClassVar[Callable[..., Tensor]]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    out_channels: int

    @by_samples
    def forward(self, input: Tensor, output_size: Sequence[int] | None = None, code: Tensor | None = None) -> Tensor:
        code = self.resolve_code(code)
        if code.dim() == 1:
            output: Tensor = self.mixed(code).forward(input, output_size)
            return output
        dims = len(self.kernel_size)
        if input.dim() != dims + 2:
            raise ValueError(f"a code per sample needs an input of {dims + 2} dimensions, got {list(input.shape)}")
        samples = len(input)
        parameters = self.mixed_parameters(code, samples)
        weight, bias = parameters["weight"], parameters["bias"]
        assert weight is not None, "a transposed convolution has a weight"
        plain: Any = plain_layer(self, parameters)
        padding = plain._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation
        )
        # The samples are groups of one convolution.
        output = type(self).convolve(
            input.flatten(0, 1)[None],
            weight.flatten(0, 1),
            None if bias is None else bias.flatten(),
            self.stride,
            self.padding,
            padding,
            samples * self.groups,
            self.dilation,
        )
        of_samples: Tensor = output[0].unflatten(0, (samples, self.out_channels))
        return of_samples


class KShotConvTranspose1d(_KShotConvTranspose):
    """`torch.nn.ConvTranspose1d` with K copies: weight `[K, C_in, C_out/groups, KL]`, bias `[K, C_out]`.

    `forward(input, output_size=None, code=None)`; see `KShotConvTranspose2d`.
    """

    plain = nn.ConvTranspose1d
    convolve = F.conv_transpose1d


class KShotConvTranspose2d(_KShotConvTranspose):
    """`torch.nn.ConvTranspose2d` with K copies: weight `[K, C_in, C_out/groups, KH, KW]`, bias `[K, C_out]`.

    `forward(input, output_size=None, code=None)`: a code is `[K]`, or `[N, K]` for one row per sample. It mixes, then
    calls torch.

    Args:
        num_shots: K, the number of copies; all other arguments are those of `torch.nn.ConvTranspose2d`.

    Example:
        >>> import torch
        >>> layer = KShotConvTranspose2d(3, 8, 2, stride=2, num_shots=2)
        >>> layer(torch.randn(1, 3, 4, 4), code=torch.tensor([0.5, 0.5])).shape
        torch.Size([1, 8, 8, 8])
    """

    plain = nn.ConvTranspose2d
    convolve = F.conv_transpose2d


class KShotConvTranspose3d(_KShotConvTranspose):
    """`torch.nn.ConvTranspose3d` with K copies: weight `[K, C_in, C_out/groups, KD, KH, KW]`, bias `[K, C_out]`.

    `forward(input, output_size=None, code=None)`; see `KShotConvTranspose2d`.
    """

    plain = nn.ConvTranspose3d
    convolve = F.conv_transpose3d


for _kind in (KShotConvTranspose1d, KShotConvTranspose2d, KShotConvTranspose3d):
    register_conversion(_kind.plain, _kind.from_plain, _kind.to_plain)
