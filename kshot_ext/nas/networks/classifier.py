"""A network as its users have it: from images as they come out of a file to scores of classes.

    scores = network(s * image - t),    s = 1 / (255 std),    t = mean / std    for each channel

in float32, as in training; images of other sizes are scaled and cut to the network's before, if the run did so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kshot_ext.nas.datasets.decode import fit_square

_WHITE = 255


class Preprocessing(nn.Module):
    """Scales and normalises images.

    Args:
        image_shape: ``(C, H, W)`` that the network takes.
        mean, std: of each channel, as shares of white.
        resize: whether images are scaled until their shorter side is H, and cut to the middle: H and W are equal then.

    Shapes:
        uint8 ``[N, C, H, W]``, with ``resize`` of any height and width, to float32 ``[N, C, H, W]``. Images of floating
        point are taken for shares of white.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float], resize: bool = False
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.resize = resize
        mean, std = (torch.as_tensor(values, dtype=torch.float32) for values in (mean, std))
        self.register_buffer("scale", (1 / (_WHITE * std))[:, None, None])
        self.register_buffer("shift", (mean / std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        values, floating = images.to(torch.float32), images.is_floating_point()
        if self.resize:
            values = fit_square(values, self.image_shape[1])
            values = values if floating else values.round().clamp(0, _WHITE)
        return values * (_WHITE * self.scale if floating else self.scale) - self.shift


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
        return self.network(self.preprocessing(images))
