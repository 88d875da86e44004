"""One point of a search space: which operations, and which widths, the network uses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kshot_ext.nas.files import parse_json


@dataclass(frozen=True)
class Architecture:
    """The choices made in a network; hashable, so it can key a table of results.

    How many there are, and whether the indices exist, is for a space to say: see
    :meth:`kshot_ext.nas.spaces.space.SearchSpace.validate`.

    Args:
        operations: index of the chosen operation of each layer, each >= 0.
        widths: index of each chosen channel width, or None in a space that searches no widths.

    Raises:
        ValueError: if a field is empty or holds anything but integers >= 0.

    Example:
        >>> Architecture((0, 2, 1)).to_json()
        '{"operations": [0, 2, 1]}'
        >>> Architecture.from_json('{"operations": [0, 2, 1]}').operations
        (0, 2, 1)
    """

    operations: tuple[int, ...]
    widths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", _indices("operations", self.operations))
        if self.widths is not None:
            object.__setattr__(self, "widths", _indices("widths", self.widths))

    def with_operation(self, layer: int, operation: int) -> Architecture:
        """The same choices but for one layer's operation."""
        return replace(self, operations=(*self.operations[:layer], operation, *self.operations[layer + 1 :]))

    def with_width(self, position: int, width: int) -> Architecture:
        """The same choices but for one width."""
        assert self.widths is not None, "of a space that searches widths"
        return replace(self, widths=(*self.widths[:position], width, *self.widths[position + 1 :]))

    def short(self) -> str:
        """All choices as digits (a is ten): the operations, then the widths; numbers between points, if one needs two.

        Example:
            >>> Architecture((0, 2, 10), widths=(1, 0)).short()
            '02a 10'
            >>> Architecture((0, 26)).short()
            '0.26'
        """
        parts = (self.operations, self.widths or ())
        return " ".join(
            ".".join(map(str, part)) if max(part, default=0) > 15 else "".join(f"{choice:x}" for choice in part)
            for part in parts
        ).strip()

    @classmethod
    def from_short(cls, text: str) -> Architecture:
        """The architecture that :meth:`short` gave.

        That a lone choice has two digits is not seen: it is read as two choices.

        Raises:
            ValueError: if the text is not of this form.

        Example:
            >>> Architecture.from_short("02a 10")
            Architecture(operations=(0, 2, 10), widths=(1, 0))
            >>> Architecture.from_short("0.26").operations
            (0, 26)
        """
        try:
            parts: list[Any] = [
                tuple(map(int, part.split("."))) if "." in part else tuple(int(choice, 16) for choice in part)
                for part in text.split(" ")
            ]
            operations, *widths = parts
            if len(widths) > 1:
                raise ValueError("more than two parts")
        except ValueError as error:
            raise ValueError(
                f"architecture: expected a digit for each operation, and for each width after a space, got {text!r:.80}"
            ) from error
        return cls(operations, *widths)

    def to_json(self) -> str:
        """The architecture as a JSON object of its fields; ``widths`` is left out when there are none."""
        fields: dict[str, list[int]] = {"operations": list(self.operations)}
        if self.widths is not None:
            fields["widths"] = list(self.widths)
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """The architecture that :meth:`to_json` wrote.

        Raises:
            ValueError: if the text is not a JSON object with ``operations`` (and perhaps ``widths``).
        """
        try:
            fields = parse_json(text)
        except ValueError as error:
            raise ValueError(f"architecture: expected a JSON object, got {text[:80]!r} ({error})") from error
        if not isinstance(fields, dict) or not {"operations"} <= fields.keys() <= {"operations", "widths"}:
            raise ValueError(
                f'architecture: expected a JSON object with "operations" and optionally "widths", got {text[:80]}'
            )
        return cls(fields["operations"], fields.get("widths"))


def _indices(field: str, values: Any) -> tuple[int, ...]:
    """The values as a tuple, checked to be one or more integers >= 0 (JSON brings lists of anything)."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ValueError(f"{field}: expected a sequence of one or more indices, got {values!r}")
    for layer, value in enumerate(values):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{field}[{layer}]: expected an integer >= 0, got {value!r}")
    return tuple(values)
