"""Omni-dimensional dynamic convolution: four attentions, over kernels, places in a kernel, input and output channels.

    y[n] = out[n] * conv2d(inp[n] * x[n], place[n] * sum_k kernel[n, k] * weight[k])

with kernel [N, K], place [N, KH * KW], inp [N, C_in] and out [N, C_out], all made of the mean of x[n].
Li et al., "Omni-Dimensional Dynamic Convolution", ICLR 2022.

The attentions over kernels and places make a code per image and place, the one over output channels is a gate, so the
layer is one call of `kshot_conv2d`. The one over input channels scales the image; in a depthwise layer, where input and
output channels are the same, it is part of the gate.
"""

from __future__ import annotations

from torch import Tensor, nn

from kshot_ext.nn import KShotConv2d


class OmniDimensionalConv2d(KShotConv2d):
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
        geometry = {"stride": stride, "padding": padding, "groups": groups, "bias": False}
        super().__init__(in_channels, out_channels, kernel_size, num_shots=num_shots, **geometry)
        for copy in self.weight.detach():
            nn.init.kaiming_normal_(copy, mode="fan_out", nonlinearity="relu")
        self.temperature = temperature
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
        code = by["kernel"][:, :, None, None] * by["place"].view(-1, 1, *self.kernel_size)
        gate = by["output"]
        if self.groups == self.in_channels == self.out_channels:
            gate = gate * by["input"]
        else:
            input = input * by["input"][:, :, None, None]
        return super().forward(input, code, gate=gate)
