"""The trained networks of a run folder, for commands that look at them later."""

from __future__ import annotations

import warnings

from kshot_ext.nas.messages import one_line
from kshot_ext.nas.methods import Setup, create_method
from kshot_ext.nas.networks.coded_supernet import CodedSupernet
from kshot_ext.nas.own_classes import is_own
from kshot_ext.nas.runs.run_folder import RunFolderError, RunRecord
from kshot_ext.nas.runs.supernet_job import build_space


def load_trained(record: RunRecord, own_space: str | None = None) -> tuple[CodedSupernet, int]:
    """The supernet and simplex-net of a run on the CPU, and how many epochs they were trained.

    Args:
        record: the run, finished or not.
        own_space: ``FILE.py:CLASS``, if the run searches a space of one's own; running that file must be asked for.

    Raises:
        RunFolderError: if the run's method has no copies of weights, or its supernet has not been trained for an epoch
            yet, or does not fit its settings.
    """
    settings = record.settings
    if is_own(settings.space) and own_space != settings.space:
        raise RunFolderError(f"{record.path}: expected --space {settings.space}, as this runs that file")
    checkpoint = record.load_checkpoint("supernet")
    if checkpoint is None:
        raise RunFolderError(f"{record.path}: no epoch of supernet training is saved yet")
    try:
        space = build_space(settings, record.card.image_shape, record.card.num_classes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run has told its user
            setup = Setup(
                space=space, training=settings.training, steps_per_epoch=1, shots=settings.shots, codes=settings.codes
            )
            method = create_method(setup, settings.method)
        for name, module in method.modules.items():
            module.load_state_dict(checkpoint.state[name])
        epoch = int(checkpoint.state["epoch"])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{record.path}: the saved supernet does not fit its settings ({one_line(error)}); "
            "look at it with the version that trained it"
        ) from error
    if method.coded is None:
        raise RunFolderError(f"{record.path}: method {settings.method.name} has no copies of weights to look at")
    return method.coded, epoch
