"""The handwritten digits that scikit-learn carries: 1,797 grey 8x8 images."""

from __future__ import annotations

import torch

from kshot_ext.nas.datasets.source import ImageSource, Part
from kshot_ext.nas.extras import require

_INK_LEVELS = 16


def open_digits() -> ImageSource:
    """Return the digits, rescaled from 0..16 to 0..255; needs no download.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998.

    Raises:
        MissingExtraError: if scikit-learn is not installed.
    """
    digits = require("sklearn.datasets").load_digits()
    images = torch.from_numpy(digits.images).mul(255 / _INK_LEVELS).round().to(torch.uint8).unsqueeze(1)
    return ImageSource(
        name="digits",
        class_names=tuple(str(name) for name in digits.target_names),
        labels=torch.from_numpy(digits.target).long(),
        parts=(Part.TRAIN,) * len(images),
        read=images.__getitem__,
        describe=lambda index: f"digit {index}",
    )
