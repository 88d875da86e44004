"""The search spaces that come with the package, by name."""

from __future__ import annotations

from kshot_ext.nas.space import SearchSpace
from kshot_ext.nas.spaces.nas_bench_macro import NASBenchMacro

_SPACES = {"nas-bench-macro": NASBenchMacro}


def space_names() -> tuple[str, ...]:
    """Names that :func:`create_space` knows."""
    return tuple(_SPACES)


def create_space(
    name: str, *, image_shape: tuple[int, int, int], num_classes: int, channels: int | None = None
) -> SearchSpace:
    """A search space by name.

    Args:
        name: one of :func:`space_names`.
        image_shape: ``(channels, height, width)`` of the images.
        num_classes: number of classes.
        channels: width of the whole network; None for the width that suits the image size.

    Raises:
        ValueError: if the name is unknown or a size is out of range.

    Example:
        >>> space = create_space("nas-bench-macro", image_shape=(3, 32, 32), num_classes=10)
        >>> space.num_layers, space.operations(0)
        (8, ('identity', 'mb3_k3', 'mb6_k5'))
    """
    if name not in _SPACES:
        raise ValueError(f"space: expected one of {', '.join(space_names())}, got {name!r}")
    return _SPACES[name](image_shape=image_shape, num_classes=num_classes, channels=channels)
