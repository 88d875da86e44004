"""Omni-dimensional dynamic convolution: four attentions, over kernels, places in a kernel, input and output channels.

    y[n] = out[n] * conv2d(inp[n] * x[n], place[n] * sum_k kernel[n, k] * weight[k])

with kernel [N, K], place [N, KH * KW], inp [N, C_in] and out [N, C_out], all made of the mean of x[n].
Li et al., "Omni-Dimensional Dynamic Convolution", ICLR 2022.

An attention over places acts on the mixed weight, which no operator takes. So the weights of the N images are mixed
first (`effective_weight`), weighed by place, and become a dictionary of N copies of which image n takes the n-th: its
code is a row of the identity. The attention over output channels is a gate, that over input channels scales the image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kshot_ext import functional as KF


class OmniDimensionalConv2d(nn.Module):
    """A convolution of `[N, C, H, W]` whose four attentions follow the image.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, groups: as in `torch.nn.Conv2d`; the kernel is square.
        num_shots: K.
        reduction: the attentions share a hidden layer that has one of so many of the input's channels, 16 at least.
        temperature: of the softmax over kernels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        num_shots: int = 4,
        reduction: int = 16,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.groups, self.temperature = stride, padding, groups, temperature
        shape = out_channels, in_channels // groups, kernel_size, kernel_size
        self.weight = nn.Parameter(torch.empty(num_shots, *shape))
        for copy in self.weight.detach():
            nn.init.kaiming_normal_(copy, mode="fan_out", nonlinearity="relu")
        hidden = max(in_channels // reduction, 16)
        self.hidden = nn.Sequential(nn.Linear(in_channels, hidden), nn.ReLU())
        sizes = {"kernel": num_shots, "place": kernel_size**2, "input": in_channels, "output": out_channels}
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, size) for name, size in sizes.items()})

    def attentions(self, input: Tensor) -> dict[str, Tensor]:
        hidden = self.hidden(input.mean(dim=(2, 3)))
        logits = {name: head(hidden) / self.temperature for name, head in self.heads.items()}
        return {name: x.softmax(dim=1) if name == "kernel" else x.sigmoid() for name, x in logits.items()}

    def forward(self, input: Tensor) -> Tensor:
        by = self.attentions(input)
        samples, side = len(input), self.weight.shape[-1]
        weight = KF.effective_weight(self.weight, by["kernel"]) * by["place"].view(samples, 1, 1, side, side)
        own = torch.eye(samples, dtype=weight.dtype, device=weight.device)
        image = input * by["input"][:, :, None, None]
        return KF.kshot_conv2d(image, weight, own, None, self.stride, self.padding, 1, self.groups, gate=by["output"])
