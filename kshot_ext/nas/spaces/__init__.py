"""The search spaces that come with the package, by name, and those that a user brings along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kshot_ext.nas.own_classes import is_own, load_own, own_errors
from kshot_ext.nas.spaces.bit_width_space import BitWidthSpace
from kshot_ext.nas.spaces.bit_widths import BitWidths
from kshot_ext.nas.spaces.groupable import Groupable
from kshot_ext.nas.spaces.mobilenet_v2_se import MobileNetV2SE
from kshot_ext.nas.spaces.nas_bench_201 import NASBench201
from kshot_ext.nas.spaces.nas_bench_macro import NASBenchMacro
from kshot_ext.nas.spaces.shufflenet_v2 import ShuffleNetV2
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.spaces.split_attention import SplitAttentionSpace

_SPACES = {
    "nas-bench-macro": NASBenchMacro,
    "mobilenet-v2-se": MobileNetV2SE,
    "shufflenet-v2": ShuffleNetV2,
    "nas-bench-201": NASBench201,
    "groupable": Groupable,
    "split-attention": SplitAttentionSpace,
}
_SPACES_OF_CELLS = ("nas-bench-201",)


def space_names() -> tuple[str, ...]:
    """Names of the spaces that come with the package."""
    return tuple(_SPACES)


def check_space_name(name: str) -> None:
    """Checks that :func:`create_space` knows a name.

    Raises:
        ValueError: listing the legal names.
    """
    if name not in _SPACES and not is_own(name):
        raise ValueError(f"space: expected one of {', '.join(space_names())}, or FILE.py:CLASS, got {name!r}")


def create_space(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    channels: int | None = None,
    widths: Sequence[float] | None = None,
    cells: int | None = None,
    bits: Sequence[BitWidths] | None = None,
) -> SearchSpace:
    """A search space by name.

    Args:
        name: one of :func:`space_names`; or ``FILE.py:CLASS``, a class of your own that takes the four arguments below;
            or a name that :func:`kshot_ext.nas.own_classes.give` made, of such a class or of a space.
        image_shape: ``(channels, height, width)`` of the images.
        num_classes: number of classes.
        channels: width of the whole network; None for the width that suits the image size.
        widths: shares of the full width to search over, rising to 1; None to search operations only.
        cells: cells of each stage, in a space that has cells (nas-bench-201); None for what is published.
        bits: bits of weights and activations that each layer chooses from; None for floating point. See
            :class:`kshot_ext.nas.spaces.bit_width_space.BitWidthSpace`.

    Raises:
        ValueError: if the name is unknown, a size is out of range, or the space has no cells; or if a space that was
            given is for other images, or widths or channels are to be changed in it.

    Example:
        >>> space = create_space("nas-bench-macro", image_shape=(3, 32, 32), num_classes=10, widths=(0.5, 1.0))
        >>> space.num_layers, space.operations(0)
        (8, ('identity', 'mb3_k3', 'mb6_k5'))
        >>> space.num_widths, space.count_macs(space.cheapest()), space.count_macs(space.largest())
        (8, 4043264, 105660928)
    """
    check_space_name(name)
    arguments: dict[str, Any] = {"image_shape": image_shape, "num_classes": num_classes}
    arguments |= {"channels": channels, "widths": widths}
    if cells is not None:
        if name not in _SPACES_OF_CELLS:
            raise ValueError(f"cells: expected none, as space {name} is not made of cells, got {cells}")
        arguments["cells"] = cells
    kind: SearchSpace | Callable[..., SearchSpace] = (
        load_own(name, "space", SearchSpace) if is_own(name) else _SPACES[name]
    )
    with own_errors(name, "space"):
        space = _checked(kind, **arguments) if isinstance(kind, SearchSpace) else kind(**arguments)
        return space if bits is None else BitWidthSpace(space, bits)


def _checked(space: SearchSpace, image_shape: tuple[int, ...], num_classes: int, **options: object) -> SearchSpace:
    """A space that was made before, if it is one for these images."""
    if space.image_shape != tuple(image_shape) or space.num_classes != num_classes:
        raise ValueError(
            f"space: expected one for images {tuple(image_shape)} of {num_classes} classes, as the data has, "
            f"got one for {space.image_shape} of {space.num_classes}"
        )
    asked = [name for name, value in options.items() if value is not None]
    if asked:
        raise ValueError(f"{asked[0]}: expected none beside a space that has been made; give its class, or make it so")
    return space
