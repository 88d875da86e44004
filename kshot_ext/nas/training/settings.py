"""Settings of supernet training."""

from __future__ import annotations

from dataclasses import dataclass

from kshot_ext.nas.checks import check_at_least, check_between, check_one_of
from kshot_ext.nas.training.optimization import OptimizationSettings
from kshot_ext.nas.training.path_sampling import PATH_SAMPLINGS

_EPOCHS_PER_WARM_UP_EPOCH = 2


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(OptimizationSettings):
    """How a supernet is trained, whatever the method; see :class:`OptimizationSettings` for the optimiser's part.

    ``learning_rate``, ``weight_decay`` and ``clip_norm`` are those of the mixed weight under equal codes, whatever
    K is. How codes are formed is a matter of :class:`kshot_ext.nas.networks.code_settings.CodeSettings`.

    Args:
        path_sampling: which paths a step trains, where the method leaves that open: ``uniform``, ``fair`` or
            ``sandwich``, see :mod:`kshot_ext.nas.training.path_sampling`. A step of several takes as many times longer.
        average_decay: decay of the moving average of all weights, a simplex-net's included, that replaces
            them at the end, see :class:`kshot_ext.nas.training.weight_average.WeightAverage`; 0 for none. It keeps
            every weight once more.
        warmup_epochs: epochs during which all codes are equal, and no simplex step is made. None for half of all
            epochs, rounded down.
        equal_path_steps: whether a step moves every path's weights equally far, whatever its code; else by
            ``K sum(code^2)`` as far, see :mod:`kshot_ext.nas.training.path_steps`.
        cost_aware_rates: how much earlier the learning rate of cheap paths falls than that of costly ones, see
            :func:`kshot_ext.nas.training.path_steps.cost_factor`; 0 for one rate.
        held_out_share: share of the training images that no weight is trained on: what methods train besides sees them.

    Raises:
        ValueError: if a value is out of range.
    """

    epochs: int = 50
    path_sampling: str = "uniform"
    average_decay: float = 0.0
    warmup_epochs: int | None = None
    equal_path_steps: bool = True
    cost_aware_rates: float = 0.0
    held_out_share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of("path_sampling", self.path_sampling, PATH_SAMPLINGS)
        check_between("average_decay", self.average_decay, 0, 1)
        check_at_least("warmup_epochs", self.warm_up, 0)
        check_between("cost_aware_rates", self.cost_aware_rates, 0, 4)
        check_between("held_out_share", self.held_out_share, 0.01, 1)

    @property
    def warm_up(self) -> int:
        """Epochs of warm-up, whether they were set or not.

        Example:
            >>> [TrainingSettings(epochs=epochs).warm_up for epochs in (1, 2, 3, 50)]
            [0, 1, 1, 25]
        """
        return self.epochs // _EPOCHS_PER_WARM_UP_EPOCH if self.warmup_epochs is None else self.warmup_epochs
