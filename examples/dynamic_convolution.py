"""Dynamic convolution: each image mixes K kernels by what it shows.

    attention(x) = softmax(W2 relu(W1 mean(x)) / temperature)    [N, K]
    y[n] = conv2d(x[n], sum_k attention[n, k] * weight[k])

Chen et al., "Dynamic Convolution: Attention over Convolution Kernels", CVPR 2020. The attention is a code per sample,
so the layer is one call of `kshot_conv2d`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kshot_ext.nn import KShotConv2d


class DynamicConv2d(KShotConv2d):
    """`torch.nn.Conv2d` with K kernels and an attention over them; the input `[N, C, H, W]` needs no code.

    Args:
        num_shots: K; the paper has 4. All other arguments are those of `torch.nn.Conv2d`.
        reduction: the attention's hidden layer has one of so many of the input's channels.
        temperature: makes attention even at first; the paper lowers it from 30 to 1 over ten epochs.
    """

    def __init__(self, *arguments, num_shots: int = 4, reduction: int = 4, temperature: float = 30.0, **named) -> None:
        super().__init__(*arguments, num_shots=num_shots, **named)
        hidden = max(self.in_channels // reduction, 4)
        self.attention = nn.Sequential(nn.Linear(self.in_channels, hidden), nn.ReLU(), nn.Linear(hidden, num_shots))
        self.temperature = temperature

    def forward(self, input: Tensor) -> Tensor:
        logits = self.attention(input.mean(dim=(2, 3)))
        return super().forward(input, torch.softmax(logits / self.temperature, dim=1))
