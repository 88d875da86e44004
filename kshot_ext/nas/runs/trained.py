"""What runs have trained, out of their folders, for whoever looks at them later."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from kshot_ext.nas.messages import one_line
from kshot_ext.nas.methods import Setup, create_method
from kshot_ext.nas.methods.method import Method
from kshot_ext.nas.networks.classifier import Classifier, Preprocessing
from kshot_ext.nas.networks.coded_supernet import CodedSupernet
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.own_classes import is_own
from kshot_ext.nas.runs.run_folder import RunFolderError, RunRecord
from kshot_ext.nas.runs.supernet_job import build_space
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace

_ERRORS = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def method_of(record: RunRecord) -> Method:
    """A run's method as it is before training, on the CPU.

    Raises:
        ValueError: if its settings do not fit together.
    """
    settings = record.settings
    space = build_space(settings, record.card.image_shape, record.card.num_classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run has told its user
        setup = Setup(
            space=space, training=settings.training, steps_per_epoch=1, shots=settings.shots, codes=settings.codes
        )
        return create_method(setup, settings.method)


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
        method = method_of(record)
        for name, module in method.modules.items():
            module.load_state_dict(checkpoint.state[name])
        epoch = int(checkpoint.state["epoch"])
    except _ERRORS as error:
        raise RunFolderError(
            f"{record.path}: the saved supernet does not fit its settings ({one_line(error)}); "
            "look at it with the version that trained it"
        ) from error
    if method.coded is None:
        raise RunFolderError(f"{record.path}: method {settings.method.name} has no copies of weights to look at")
    return method.coded, epoch


def trained_classifier(
    record: RunRecord, card: Mapping[str, Any], space: SearchSpace, stage: str, architecture: Architecture
) -> Classifier:
    """A network that a stage of a run has trained from scratch.

    Args:
        record: the run.
        card: the content of an ``architecture.json`` of it, which tells how images are normalised.
        space: of the network.
        stage: what trained it.
        architecture: which one it is.

    Raises:
        RunFolderError: if it has not been trained to the end, or does not fit.
    """
    path = record.checkpoint_path(stage)
    checkpoint = record.load_checkpoint(stage)
    if checkpoint is None:
        raise RunFolderError(f"{path}: expected the weights of this network, but they are gone")
    try:
        network = space.build(architecture, torch.Generator().manual_seed(0))
        network.load_state_dict(checkpoint.state["network"])
        pixels = card["input"]
        shape, resize = tuple(pixels["shape"]), record.settings.image_size is not None
        dtype = torch.float32 if pixels.get("dtype") == "float32" else torch.uint8
        preprocessing = Preprocessing(shape, pixels["mean"], pixels["std"], resize, dtype)
        return Classifier(network, preprocessing, card["class_names"], "trained")
    except _ERRORS as error:
        raise RunFolderError(f"{path}: the weights do not fit the run's settings ({one_line(error)})") from error


def evaluated_from(row: Sequence[Any], space: SearchSpace, score: str) -> Evaluated:
    """A result of a saved archive, see :meth:`kshot_ext.nas.searchers.archive.Archive.state_dict`."""
    text, *scores, latency = row
    architecture = Architecture.from_json(text)
    cost = space.cost(architecture)
    return Evaluated(architecture, Scores(*scores), cost.macs, cost.parameters, latency, score, cost.bit_operations)
