"""The end of a one-shot warm-up as the beginning of a K-shot training.

Under equal codes K equal copies w_k = w are one copy. Their gradients are g / K each and their rate K times as high, so
they stay equal, and their momentum is that of the one copy divided by K.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kshot_ext.nas.networks.coded_supernet import CodedSupernet
from kshot_ext.nas.training.loop import TrainingLoop


def copied_warm_up(state: Mapping[str, Any], loop: TrainingLoop, coded: CodedSupernet) -> dict[str, Any]:
    """The state of a training of K copies that has done the warm-up which another one did with one copy.

    So trainings that differ in their codes, or in K, can share a warm-up, and with it most of their luck.

    Args:
        state: the ``state_dict`` of a loop with one copy, after its warm-up, of the same images and settings but for
            what concerns codes.
        loop: untrained, of K copies without perturbation.
        coded: its supernet, and its simplex-net, which stays as it is.

    Raises:
        ValueError: if the state has more than one copy, has not ended the warm-up or gone past it, or the copies of the
            loop would have been perturbed.
    """
    settings, shots = loop.settings, coded.supernet.num_shots
    if state["epoch"] != settings.warm_up:
        raise ValueError(f"expected the state after {settings.warm_up} epochs of warm-up, got {state['epoch']}")
    if coded.simplex_net.settings.perturbation != 0:
        raise ValueError(
            "codes.perturbation: expected 0, as the copies of a shared warm-up are equal, "
            f"got {coded.simplex_net.settings.perturbation:g}"
        )
    own = loop.state_dict()
    parameters = {name for name, _ in coded.supernet.named_parameters()}

    def copies(name: str, tensor: Tensor, divisor: int = 1) -> Tensor:
        if len(tensor) != 1:
            raise ValueError(f"expected a warm-up with one copy, got {len(tensor)} of {name}")
        return tensor.expand(shots, *tensor.shape[1:]) / divisor

    supernet = {n: copies(n, t) if n in parameters else t for n, t in state["supernet"].items()}
    optimizer = own["optimizer"] | {
        "state": {
            index: {n: copies(n, t, shots) if isinstance(t, Tensor) else t for n, t in kept.items()}
            for index, kept in state["optimizer"]["state"].items()
        }
    }
    rate = settings.learning_rate_factor(state["schedule"]["last_epoch"], settings.epochs * loop.steps_per_epoch)
    rates = [base * rate for base in own["schedule"]["base_lrs"]]
    for group, value in zip(optimizer["param_groups"], rates):
        group["lr"] = value
    progress = {name: state["schedule"][name] for name in ("last_epoch", "_step_count")}
    adopted = {
        "epoch": state["epoch"],
        "generator": state["generator"],
        "gradient_steps": state["gradient_steps"],
        "supernet": supernet,
        "optimizer": optimizer,
        "schedule": own["schedule"] | progress | {"_last_lr": rates},
    }
    if "average" in own:
        adopted["average"] = _copied_average(state["average"], own["average"], copies)
    return own | adopted


def _copied_average(state: Mapping[str, Any], own: Mapping[str, Any], copies: Any) -> dict[str, Any]:
    """The average of the supernet's weights; that of the simplex-net's begins with what they are."""
    averages = {
        name: copies(name, state["averages"][name]) if name.startswith("supernet.") else average
        for name, average in own["averages"].items()
    }
    return {**state, "averages": averages, "read_at": {n: state["read_at"].get(n, 0.0) for n in averages}}
