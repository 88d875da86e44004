"""How many bits the weights and activations of a layer have, and the choices of them that a search has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from kshot_ext.nn.quantiser import check_bits

_FORM = re.compile(r"w(\d+)a(\d+)", re.ASCII)


class BitWidths(NamedTuple):
    """Bits of a layer's weights and of its input, 2 to 8 each.

    Example:
        >>> print(BitWidths(weights=2, activations=8))
        w2a8
    """

    weights: int
    activations: int

    def __str__(self) -> str:
        return f"w{self.weights}a{self.activations}"

    @property
    def product(self) -> int:
        """Bit operations of one multiply-accumulate."""
        return self.weights * self.activations


def check_choices(choices: Sequence[BitWidths]) -> tuple[BitWidths, ...]:
    """The choices as a tuple by rising cost, checked to be different ones of legal bits.

    Raises:
        ValueError: if there is none, two are equal, or bits are out of range.
    """
    for weights, activations in choices:
        check_bits("bits", weights)
        check_bits("bits", activations)
    if not choices or len(set(choices)) < len(choices):
        raise ValueError(f"bits: expected one or more different choices, got {', '.join(map(str, choices)) or 'none'}")
    return tuple(sorted(choices, key=lambda bits: (bits.product, bits)))


def parse_bits(text: str) -> tuple[BitWidths, ...]:
    """Read bits as a user writes them: ``2,4,8`` for all pairs of these, or the pairs themselves, ``w2a4,w4a8``.

    Raises:
        ValueError: if the text has another form, or bits are not from 2 to 8.

    Example:
        >>> [str(bits) for bits in parse_bits("2,8")]
        ['w2a2', 'w2a8', 'w8a2', 'w8a8']
        >>> [str(bits) for bits in parse_bits("w8a8, w4a8")]
        ['w4a8', 'w8a8']
    """
    parts = [part.strip() for part in text.split(",")]
    pairs = [pair for part in parts if (pair := _FORM.fullmatch(part)) is not None]
    if len(pairs) == len(parts):
        return check_choices([BitWidths(int(pair[1]), int(pair[2])) for pair in pairs])
    if all(re.fullmatch(r"\d+", part, re.ASCII) for part in parts):
        return check_choices([BitWidths(*pair) for pair in product(map(int, parts), repeat=2)])
    raise ValueError(f"bits: expected numbers such as 2,4,8, or pairs such as w2a4,w4a8, got {text!r}")
