"""The trained networks of a run folder, for commands that look at them later."""

from __future__ import annotations

from kshot_ext.nas.messages import one_line
from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.runs.run_folder import RunFolderError, RunRecord
from kshot_ext.nas.runs.supernet_job import build_networks, build_space
from kshot_ext.nas.spaces.own import is_own
from kshot_ext.nas.spaces.space import SearchSpace


def load_trained(record: RunRecord, own_space: str | None = None) -> tuple[SearchSpace, Supernet, SimplexNet, int]:
    """The space, supernet and simplex-net of a run on the CPU, and how many epochs they were trained.

    Args:
        record: the run, finished or not.
        own_space: ``FILE.py:CLASS``, if the run searches a space of one's own; running that file must be asked for.

    Raises:
        RunFolderError: if the supernet has not been trained for an epoch yet, or does not fit its settings.
    """
    settings = record.settings
    if is_own(settings.space) and own_space != settings.space:
        raise RunFolderError(f"{record.path}: expected --space {settings.space}, as this runs that file")
    checkpoint = record.load_checkpoint("supernet")
    if checkpoint is None:
        raise RunFolderError(f"{record.path}: no epoch of supernet training is saved yet")
    try:
        space = build_space(settings, record.card.image_shape, record.card.num_classes)
        supernet, simplex_net = build_networks(settings, space)
        supernet.load_state_dict(checkpoint.state["supernet"])
        simplex_net.load_state_dict(checkpoint.state["simplex_net"])
        epoch = int(checkpoint.state["epoch"])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{record.path}: the saved supernet does not fit its settings ({one_line(error)}); "
            "look at it with the version that trained it"
        ) from error
    return space, supernet, simplex_net, epoch
