"""Whether a method gives what its contract says, as far as that can be seen before it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from kshot_ext.nas.checks import BrokenContractError, check_given
from kshot_ext.nas.findings import Curve, Number
from kshot_ext.nas.methods.method import Method
from kshot_ext.nas.spaces.space import SearchSpace


def check_contract(method: Method[Any]) -> None:
    """Looks at what a method has set, once it is made: a mistake there must not cost a training.

    Raises:
        BrokenContractError: naming what is not as :class:`Method` says.
    """
    parts: dict[str, type] = {"modules": nn.Module, "optimizers": Optimizer}
    for name, kind in parts.items():
        values = getattr(method, name, None)
        check_given(name, values, Mapping)
        if not values:
            raise BrokenContractError(f"{name}: expected one or more, got none")
        for key, value in values.items():
            check_given(f"{name}[{key!r}]", value, kind)
    told: dict[str, type] = {"numbers": Number, "curves": Curve}
    for name, kind in told.items():
        values = getattr(method, name)
        check_given(name, values, Sequence)
        for value in values:
            check_given(name, value, kind)
    calls = {"networks.network": getattr(method.networks, "network", None), "score_network": method.score_network}
    for name, given in calls.items():
        if not callable(given):
            raise BrokenContractError(f"{name}: expected something to be called, got {given!r:.200}")
    check_given("result_space", method.result_space, SearchSpace)
    check_given("state_dict", method.state_dict(), Mapping)
