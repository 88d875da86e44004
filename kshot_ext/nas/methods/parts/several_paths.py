"""What methods refuse before they train."""

from __future__ import annotations

from math import prod

from kshot_ext.nas.spaces.space import SearchSpace


def check_several_paths(method: str, space: SearchSpace) -> None:
    """Refuses a space that leaves nothing to choose.

    Raises:
        ValueError: naming the method and the space.
    """
    if prod(space.num_choices) < 2:
        raise ValueError(
            f"method {method}: expected a space of two or more architectures, got {space.name}, which has one; "
            "there is nothing to search"
        )
