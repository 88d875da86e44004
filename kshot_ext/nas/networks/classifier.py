"""A network as its users have it: from images as they come out of a file to scores of classes.

    scores = network(s * image - t),    s = 1 / (255 std),    t = mean / std    for each channel

in float32, as in training. Images of other sizes are scaled and cut first, if the run did so, as
:func:`kshot_ext.nas.datasets.decode.fit_square` does, but by a matrix for each direction, whose rows are

    R[o, i] = max(0, 1 - |i + 1/2 - c_o| / max(r, 1)) / (their sum),    c_o = (o + 1/2) r,    r = pixels / scaled pixels

(a triangle, as wide as an output pixel): exporters can follow that where sizes are not known, and every runtime has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kshot_ext.nas.datasets.decode import LONGEST_SIDES

_WHITE = 255


class Preprocessing(nn.Module):
    """Scales and normalises images.

    Args:
        image_shape: ``(C, H, W)`` that the network takes.
        mean, std: of each channel, as shares of white.
        resize: whether images are scaled until their shorter side is H, and cut to the middle: H and W are equal then.
        dtype: of the images that the network was made for.

    Shapes:
        uint8 ``[N, C, H, W]``, with ``resize`` of any height and width, to float32 ``[N, C, H, W]``. Images of floating
        point are taken for shares of white, or whatever else mean and deviation were measured of.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        mean: Sequence[float],
        std: Sequence[float],
        resize: bool = False,
        dtype: torch.dtype = torch.uint8,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.image_shape = image_shape
        self.resize = resize
        means, deviations = (torch.tensor(list(values), dtype=torch.float32) for values in (mean, std))
        self.register_buffer("scale", (1 / (_WHITE * deviations))[:, None, None])
        self.register_buffer("shift", (means / deviations)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        values, floating = images.to(torch.float32), images.is_floating_point()
        if self.resize:
            values = _square(values, self.image_shape[1])
            values = values if floating else values.round().clamp(0, _WHITE)
        return values * (_WHITE * self.scale if floating else self.scale) - self.shift


def _square(images: Tensor, size: int) -> Tensor:
    """Images ``[N, C, H, W]`` scaled and cut to ``[N, C, size, size]``."""
    height, width = images.shape[-2:]
    sides = [torch.scalar_tensor(side, dtype=torch.float32, device=images.device) for side in (height, width)]
    shorter = torch.minimum(*sides)
    rows = _resampling(torch.arange(height, device=images.device), sides[0], shorter, size)
    columns = _resampling(torch.arange(width, device=images.device), sides[1], shorter, size)
    return rows @ images @ columns.T


def _resampling(pixels: Tensor, side: Tensor, shorter: Tensor, size: int) -> Tensor:
    """The matrix ``[size, side]`` of one direction.

    Args:
        pixels: int64 ``[side]``, their numbers.
        side, shorter: lengths of this direction, and of the shorter one.
        size: of the result.
    """
    kept = torch.minimum(side, LONGEST_SIDES * shorter)  # of a very long side the middle
    scaled = (kept * size / shorter).round()
    ratio = kept / scaled
    first = ((scaled - size) / 2).floor()
    centres = (torch.arange(size, device=pixels.device) + first + 0.5) * ratio
    places = pixels - ((side - kept) / 2).floor() + 0.5
    weights = (1 - (places - centres[:, None]).abs() / ratio.clamp(min=1)).clamp(min=0)
    weights = weights * ((places > 0) & (places < kept))
    return weights / weights.sum(dim=1, keepdim=True)


class Classifier(nn.Module):
    """A network with what its images need first.

    Args:
        network: from normalised images to scores ``[N, num_classes]``; its mode becomes that of evaluation.
        preprocessing: makes them of images.
        class_names: name of each score; empty where scores are no classes.
        weights: where the weights come from: ``"trained"`` from scratch, or ``"inherited"`` from a supernet.

    Example:
        >>> preprocessing = Preprocessing((1, 8, 8), [0.5], [0.25])
        >>> classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), preprocessing, ("cat", "dog"))
        >>> classifier(torch.zeros(3, 1, 8, 8, dtype=torch.uint8)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        class_names: Sequence[str] = (),
        weights: str = "trained",
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.class_names = tuple(class_names)
        self.weights = weights
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.network(self.preprocessing(images))
        return scores
