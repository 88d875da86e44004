"""The search methods that come with the package, by name, and those that a user brings along."""

from __future__ import annotations

from typing import Any

from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.methods.contract import check_contract
from kshot_ext.nas.methods.cream import Cream
from kshot_ext.nas.methods.csnas import ContrastiveSearch
from kshot_ext.nas.methods.darts_pt import DartsPT
from kshot_ext.nas.methods.dgconv import DynamicGroups
from kshot_ext.nas.methods.few_shot import FewShot
from kshot_ext.nas.methods.fp_nas import FPNAS
from kshot_ext.nas.methods.gold_nas import GoldNAS
from kshot_ext.nas.methods.kshot import KShot
from kshot_ext.nas.methods.method import Method, MethodSettings, Setup
from kshot_ext.nas.methods.neas import EnsembleSearch
from kshot_ext.nas.methods.setn import SelfEvaluatedTemplate
from kshot_ext.nas.methods.spos import SinglePathOneShot
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.own_classes import is_given, is_own, load_own, own_errors, with_absolute_path
from kshot_ext.nas.spaces.space import SearchSpace
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.loop import TrainingLoop, training_steps_in_epoch
from kshot_ext.nas.training.settings import TrainingSettings

METHODS: dict[str, type[Method]] = {
    "kshot": KShot,
    "spos": SinglePathOneShot,
    "setn": SelfEvaluatedTemplate,
    "cream": Cream,
    "neas": EnsembleSearch,
    "fp-nas": FPNAS,
    "gold": GoldNAS,
    "darts-pt": DartsPT,
    "csnas": ContrastiveSearch,
    "few-shot": FewShot,
    "dgconv": DynamicGroups,
}
"""The methods by the names that settings use."""

_own: dict[str, type[Method[Any]]] = {}


def allow_own_method(name: str | None) -> None:
    """Makes a method of the user's own known by its name ``FILE.py:CLASS``, which runs the file.

    For names that the user has given himself: files of settings and run folders come from anywhere, and must not run
    code. Other names, and None, are left to :func:`method_class`.

    Raises:
        ValueError: if the file cannot be read or run, or has no method of that name.
    """
    if name is not None and is_own(name) and (is_given(name) or (name := with_absolute_path(name)) not in _own):
        kind = load_own(name, "method", Method)
        if not isinstance(kind, type):
            raise ValueError(f"method: expected a class, which a run makes an object of, got {kind!r:.80}")
        _own[name] = kind


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ValueError: if there is none of this name, listing those there are, or it is one of the user's own that was not
            allowed.
    """
    if is_own(name):
        if with_absolute_path(name) not in _own:
            raise ValueError(f"method: expected --method {name} on the command line, as this runs that file")
        return _own[with_absolute_path(name)]
    if name not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, or FILE.py:CLASS, got {name!r}")
    return METHODS[name]


def default_settings(name: str) -> MethodSettings:
    """The options of a method, none of which is set.

    Raises:
        ValueError: if there is no such method, or one of the user's own has options that are no settings.
    """
    kind = method_class(name).Settings
    if not (isinstance(kind, type) and issubclass(kind, MethodSettings)):
        raise ValueError(f"method: expected Settings of {name} to be a subclass of MethodSettings, got {kind!r}")
    with own_errors(name, "method"):
        return kind(name=name)


def begin_training(
    settings: MethodSettings,
    space: SearchSpace,
    splits: DataSplits,
    training: TrainingSettings,
    *,
    shots: int = 1,
    codes: CodeSettings | None = None,
    seed: int = 0,
    processes: DataParallel | None = None,
) -> TrainingLoop:
    """The training of a method, before its first epoch; ``loop.method`` is the method.

    Args:
        settings: which method, and its own options.
        space: to search.
        splits: images, on the device to train on; only ``train`` is used.
        training: settings that all methods have.
        shots: number K of weight copies.
        codes: how their codes are formed.
        seed: decides everything random.
        processes: those that share each batch; None for this one alone.

    Raises:
        ValueError: if the method is unknown, cannot do what it is made for, or there are too few images.

    Example:
        >>> import torch
        >>> from kshot_ext.nas.datasets import load_splits, open_source
        >>> from kshot_ext.nas.spaces import create_space
        >>> splits = load_splits(open_source(None), generator=torch.Generator().manual_seed(0), max_images=300)
        >>> space = create_space("nas-bench-macro", image_shape=splits.image_shape, num_classes=10, channels=4)
        >>> loop = begin_training(METHODS["spos"].Settings(), space, splits, TrainingSettings(epochs=1))
        >>> report = loop.train_epoch()
        >>> with loop.method.networks.network(space.cheapest()) as network:
        ...     list(network(torch.zeros(2, *splits.image_shape)).shape)
        [2, 10]
    """
    setup = Setup(
        space=space,
        training=training,
        steps_per_epoch=training_steps_in_epoch(splits, training),
        shots=shots,
        codes=codes or CodeSettings(),
        device=splits.mean.device,
        seed=seed,
        views=splits.views,
        task=splits.task,
    )
    with own_errors(settings.name, "method"):
        return TrainingLoop(create_method(setup, settings), splits, processes)


def create_method(setup: Setup, settings: MethodSettings) -> Method:
    """The method that its settings name, made for what the setup says.

    Raises:
        ValueError: if it is unknown, or cannot do what it is made for.
    """
    kind = method_class(settings.name)
    with own_errors(settings.name, "method"):
        method = kind(setup, settings)
        check_contract(method)
        return method
