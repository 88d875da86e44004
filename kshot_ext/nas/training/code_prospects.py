"""Whether settings let codes part at all: what can be known before any training."""

from __future__ import annotations

from kshot_ext.nas.networks.code_report import LEAST_DISTANCE
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.training.settings import TrainingSettings
from kshot_ext.nas.training.simplex_training import SimplexSettings


def why_codes_stay_alike(
    num_shots: int, training: TrainingSettings, codes: CodeSettings, simplex: SimplexSettings | None
) -> str | None:
    """What of the settings makes K > 1 copies end as one, whatever the training does.

    Args:
        num_shots: K.
        training, codes: settings of the training.
        simplex: how the simplex-net is trained; None if it is not.

    Returns:
        The setting, what was expected, what came, and why; None if codes may part, or there is one copy.

    Example:
        >>> why_codes_stay_alike(4, TrainingSettings(epochs=5, warmup_epochs=5), CodeSettings(), SimplexSettings())
        'training.warmup_epochs: expected fewer than the 5 epochs of the training, got 5: ...'
        >>> why_codes_stay_alike(4, TrainingSettings(epochs=5), CodeSettings(), SimplexSettings())
        >>> why_codes_stay_alike(4, TrainingSettings(epochs=5), CodeSettings(), None)
        'codes.start: expected another than equal, ...'
    """
    if num_shots == 1:
        return None
    if training.warm_up >= training.epochs:
        return (
            f"training.warmup_epochs: expected fewer than the {training.epochs} epochs of the training, got "
            f"{training.warm_up}: until then all {num_shots} copies learn the same; left out, it is half of them"
        )
    most = 2 * (1 - 1 / num_shots)  # as far apart as codes are that pick one copy each, all equally often
    if codes.free_share * most < LEAST_DISTANCE:
        return (
            f"codes.free_share: expected at least {LEAST_DISTANCE / most:.3g}, got {codes.free_share:g}: codes of "
            f"{num_shots} copies would be at most {codes.free_share * most:.3g} apart on average, where a K-shot run "
            f"has {LEAST_DISTANCE:g} or more"
        )
    if not codes.starts_equal:
        return None
    if simplex is None:
        name, value = ("start", "equal") if codes.start == "equal" else ("spread", "0")
        return f"codes.{name}: expected another than {value}, as this method leaves codes as they start"
    return _why_equal_codes_stay_equal(training, codes, simplex)


def _why_equal_codes_stay_equal(
    training: TrainingSettings, codes: CodeSettings, simplex: SimplexSettings
) -> str | None:
    """The same for codes that only the training of the simplex-net can part."""
    start = f"codes start equal ({'codes.start is equal' if codes.start == 'equal' else 'codes.spread is 0'})"
    left = training.epochs - training.warm_up
    if codes.fixed_epochs >= left:
        return (
            f"codes.fixed_epochs: expected fewer than the {left} epochs after warm-up, got {codes.fixed_epochs}: "
            f"{start}, and the simplex-net is not trained until then"
        )
    if simplex.simplex_learning_rate == 0:
        return f"method.simplex_learning_rate: expected above 0, got 0: {start}"
    if codes.perturbation == 0:  # the loss then is the same for every code
        return f"codes.perturbation: expected above 0, got 0: {start}, and equal copies give no reason to part them"
    return None
