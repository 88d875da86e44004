"""Chains in ordinary models: convolutions, norms and activations fused in place, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from kshot_ext.nn.fused_form import unfuse_modules
from kshot_ext.nn.fusing import chains_of, fuse_modules


@dataclass(frozen=True)
class FusionReport:
    """What of a model runs as chains, and what does not, and why.

    Attributes:
        fused: names of the convolutions that are links of chains, and of the norm behind each.
        left: names of the other two-dimensional convolutions, and the reason of each.
    """

    fused: Mapping[str, str]
    left: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"links of chains: {len(self.fused)}"]
        lines += [f"  {conv} with {norm}" for conv, norm in self.fused.items()]
        lines += [f"left as they are: {len(self.left)}"]
        lines += [f"  {name or '(the model itself)'}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def fuse(model: nn.Module) -> FusionReport:
    """Let the convolutions, batch norms and activations of a model run as chains, in place.

        output = activation(norm(conv(input)) + residual)

    A convolution then applies the norm and activation before it while it loads its input, and gathers the batch
    statistics while it stores its output. No normalised tensor lies in memory, or is kept for the backward pass.

    Links are 1x1 and depthwise `Conv2d` without bias, plain or K-shot, with a `BatchNorm2d` behind them, wherever the
    order is plain to see: in a `Sequential`, and in modules whose forward calls its parts one after the other, adds,
    and branches by nothing but attributes. So in torchvision's and timm's blocks, and in most of one's own; where
    there is a doubt, a module is left alone, and the report says why. ReLU,
    ReLU6, SiLU and hard-swish are taken along, as are sums behind a norm. The first and other dense convolutions stay
    the vendor's; norm and activation behind them run as one operation.

    Parameters, buffers, their names, hooks, modes and optimisers stay as they are: only containers, and average pools,
    which a kernel of ours makes, change their class.
    Each call looks at the model as it is then: a layer with a hook, in evaluation mode, replaced or parametrised runs
    as it should. Results differ from the plain model's by rounding, in evaluation too. Links are made on the CPU, in
    channels_last; elsewhere, in float64 and under function transforms layers run one by one, and under
    compilers blocks run their own forward. Images in another memory format are taken, and given back, in theirs, at a
    copy for each outermost container, and for each layer with code of your own, which may take views: so images in
    channels_last are faster where there are many.

    Args:
        model: any module; its containers and average pools are changed. Call it after `convert`, before wrappers as
            `DistributedDataParallel`.

    Returns:
        What was fused, and what was left and why; it can be printed.

    Example:
        >>> import torch
        >>> model = nn.Sequential(
        ...     nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6(),
        ...     nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24), nn.ReLU6(),
        ...     nn.Conv2d(24, 8, 1), nn.BatchNorm2d(8),
        ... )
        >>> print(fuse(model))
        links of chains: 2
          0 with 1
          3 with 4
        left as they are: 1
          6: it has a bias
        >>> model(torch.randn(2, 8, 7, 7)).shape
        torch.Size([2, 8, 7, 7])
    """
    fuse_modules(model)
    return FusionReport(*chains_of(model))


def unfuse(model: nn.Module) -> None:
    """Undo `fuse`, in place: the containers have their own classes and forwards again.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8))
        >>> report = fuse(model)
        >>> unfuse(model)
        >>> type(model) is nn.Sequential
        True
    """
    unfuse_modules(model)
