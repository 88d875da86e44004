"""What simplex steps may make small, by the names that settings use; one file each."""

from __future__ import annotations

from kshot_ext.nas.training.simplex_objectives.agreement import Agreement
from kshot_ext.nas.training.simplex_objectives.balance import BalanceAlone
from kshot_ext.nas.training.simplex_objectives.objective import SimplexObjective
from kshot_ext.nas.training.simplex_objectives.path_losses import MeanLoss
from kshot_ext.nas.training.simplex_objectives.ranking import PairwiseRanking
from kshot_ext.nas.training.simplex_objectives.relative import RelativeLoss

SIMPLEX_OBJECTIVES: dict[str, type[SimplexObjective]] = {
    "loss": MeanLoss,
    "relative": RelativeLoss,
    "ranking": PairwiseRanking,
    "agreement": Agreement,
    "balance": BalanceAlone,
}
"""The objectives by the names that settings use."""
