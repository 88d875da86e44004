"""The budget of a search in multiply-accumulates or bit operations, as a user writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kshot_ext.nas.spaces.counting import COST_TITLES
from kshot_ext.nas.spaces.space import SearchSpace

_FORM = re.compile(r"(?P<number>\d+(\.\d*)?(e[+-]?\d+)?)\s*(?P<unit>[%kMG]?)", re.ASCII)
_MOST = 2.0**62  # a share or unit may take a number beyond all integers of 64 bits
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Budget:
    """Most operations for one image: a number, or a share of the space's largest network.

    Args:
        amount: the number, or the share.
        relative: whether ``amount`` is a share.

    Example:
        >>> Budget.parse("300M")
        Budget(amount=300000000.0, relative=False)
        >>> Budget.parse("60%")
        Budget(amount=0.6, relative=True)
    """

    amount: float
    relative: bool

    @classmethod
    def parse(cls, budget: str | int | float, name: str = "budget", cost: str = "macs") -> Budget:
        """Read a budget such as ``1500000``, ``1.5e6``, ``1.5M`` or ``60%``.

        Args:
            budget: the text, or a number.
            name: of the setting, for messages.
            cost: what it is about, a field of :class:`kshot_ext.nas.spaces.counting.Cost`.

        Raises:
            ValueError: if it has another form or the budget is zero.
        """
        match = _FORM.fullmatch(str(budget).strip())
        number = float(match["number"]) if match else 0.0
        if match is None or not 0 < number < float("inf"):
            raise ValueError(
                f"{name}: expected {COST_TITLES[cost]} such as 1.5e6 or 1.5M (units k, M, G), "
                f"or a share of the largest network such as 60%, got {budget!r}"
            )
        if match["unit"] == "%":
            return cls(number / 100, relative=True)
        return cls(number * _UNITS[match["unit"]], relative=False)

    def max_macs(self, space: SearchSpace) -> int:
        """Return the limit for one space, in multiply-accumulates, at least 1."""
        return self._most(space, "macs")

    def max_bit_operations(self, space: SearchSpace) -> int:
        """Return the limit for one space with bits, in bit operations, at least 1."""
        return self._most(space, "bit_operations")

    def _most(self, space: SearchSpace, cost: str) -> int:
        whole = getattr(space.cost(space.largest()), cost) if self.relative else 1
        return max(1, int(min(self.amount * whole, _MOST)))
