"""Where codes start from: one class a file, listed by name."""

from __future__ import annotations

from kshot_ext.nas.networks.code_starts.code_start import CodeStart
from kshot_ext.nas.networks.code_starts.cost_waves import CostWaves
from kshot_ext.nas.networks.code_starts.decisions import Decision, TwoDecisions
from kshot_ext.nas.networks.code_starts.neighbours import Neighbours
from kshot_ext.nas.networks.code_starts.parametrised import ParametrisedCount
from kshot_ext.nas.networks.code_starts.random_groups import RandomGroups

CODE_STARTS: dict[str, type[CodeStart] | None] = {
    "equal": None,
    "cost": CostWaves,
    "count": ParametrisedCount,
    "decision": Decision,
    "two-decisions": TwoDecisions,
    "neighbours": Neighbours,
    "random": RandomGroups,
}
"""The starts by the names that settings use; None gives equal codes."""
