"""How a space shrinks while a supernet is trained: when, and by which operations.

An operation is a layer and its choice there. What each is worth is for a method to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Judgement = Mapping[tuple[int, int], float]
"""A number for each operation of each layer."""


def shrinking_schedule(counts: Sequence[int], least: int, epochs: int, times: int) -> dict[int, int]:
    """How many operations are left of all layers, by the epochs after which some are dropped.

    Args:
        counts: operations of each layer.
        least: that each layer keeps, where it has as many.
        epochs: of the training.
        times: how often operations are dropped, evenly spread over it.

    Example:
        >>> shrinking_schedule([3, 3, 3, 3], least=2, epochs=6, times=2)
        {2: 10, 4: 8}
    """
    most, fewest = sum(counts), sum(min(count, least) for count in counts)
    if most == fewest:
        return {}
    return {
        math.ceil(epochs * time / (times + 1)): most - math.ceil((most - fewest) * time / times)
        for time in range(1, times + 1)
    }


def without_the_worst(kept: Sequence[Sequence[int]], worth: Judgement, target: int, least: int) -> list[list[int]]:
    """What is left when the operations of least worth are dropped, until all layers together have a number of them.

    Args:
        kept: operations of each layer.
        worth: of each of these.
        target: how many are to be left.
        least: that each layer keeps; more than the target may be left for its sake.

    Example:
        >>> worth = {(0, 0): 0.1, (0, 1): 0.2, (0, 2): 0.9, (1, 0): 0.3, (1, 1): 0.4}
        >>> without_the_worst([[0, 1, 2], [0, 1]], worth, target=2, least=1)
        [[2], [1]]
    """
    left = [list(operations) for operations in kept]
    for layer, operation in sorted(worth, key=worth.__getitem__):
        if sum(map(len, left)) > target and len(left[layer]) > least:
            left[layer].remove(operation)
    return left


def mean_by_operation(
    kept: Sequence[Sequence[int]], found: Sequence[tuple[Sequence[Sequence[int]], float]]
) -> Judgement:
    """The mean of the numbers found with each operation.

    Args:
        kept: operations of each layer, each of which is among those found.
        found: the operations of the layers of one network or several, and the number that was found with them.

    Example:
        >>> mean_by_operation([[0, 1]], [([[0]], 1.0), ([[1]], 2.0), ([[1], [0]], 4.0)])
        {(0, 0): 2.5, (0, 1): 3.0}
    """
    means = {}
    for layer, operations in enumerate(kept):
        for operation in operations:
            having = [value for networks, value in found if any(choices[layer] == operation for choices in networks)]
            means[layer, operation] = sum(having) / len(having)
    return means


def ranks(values: Judgement) -> dict[tuple[int, int], float]:
    """Ranks from 0 to 1, the highest value last; equal values have their mean rank.

    Example:
        >>> ranks({(0, 0): 5.0, (0, 1): 2.0, (1, 0): 2.0})
        {(0, 0): 1.0, (0, 1): 0.25, (1, 0): 0.25}
    """
    numbers = list(values.values())
    below = {x: sum(y < x for y in numbers) + (sum(y == x for y in numbers) - 1) / 2 for x in set(numbers)}
    return {choice: below[value] / max(len(numbers) - 1, 1) for choice, value in values.items()}
