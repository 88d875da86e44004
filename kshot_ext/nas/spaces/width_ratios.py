"""The channel widths that a search chooses from, as shares of the whole network's."""

from __future__ import annotations

from collections.abc import Sequence


def check_ratios(ratios: Sequence[float]) -> tuple[float, ...]:
    """The ratios as a tuple, checked to rise from above 0 to 1.

    The largest has to be 1: a channel that no width uses would never be trained.

    Raises:
        ValueError: if there are fewer than two, or they do not rise to 1.
    """
    rising = all(low < high for low, high in zip((0.0, *ratios), ratios))
    if len(ratios) < 2 or not rising or ratios[-1] != 1:
        raise ValueError(f"widths: expected two or more rising shares, the first above 0, the last 1, got {ratios}")
    return tuple(ratios)


def parse_ratios(text: str) -> tuple[float, ...]:
    """Read widths as a user writes them: ``0.5,0.75,1``, or ``0.2-1`` for steps of a tenth.

    Raises:
        ValueError: if the text has another form, or the widths do not rise from above 0 to 1.

    Example:
        >>> parse_ratios("0.5, 0.75, 1")
        (0.5, 0.75, 1.0)
        >>> parse_ratios("0.7-1.0")
        (0.7, 0.8, 0.9, 1.0)
    """
    try:
        if "-" not in text:
            return check_ratios([float(part) for part in text.split(",")])
        first, last = (round(10 * float(part), 6) for part in text.split("-"))
        if first != int(first) or last != int(last):
            raise ValueError("a range goes from tenth to tenth")
        return check_ratios([tenths / 10 for tenths in range(int(first), int(last) + 1)])
    except ValueError as error:
        raise ValueError(
            f"widths: expected shares such as 0.5,0.75,1, or tenths such as 0.2-1, got {text!r}"
        ) from error


def scaled(channels: int, ratio: float) -> int:
    """A share of some channels: rounded to the nearest whole number (halves up), at least 1.

    Example:
        >>> scaled(24, 0.5), scaled(5, 0.1), scaled(5, 1.0)
        (12, 1, 5)
    """
    # The small term: 0.7 * 45 is 31.499999999999996 in floating point, and means a half.
    return max(1, int(channels * ratio + 0.5 + 1e-9))
