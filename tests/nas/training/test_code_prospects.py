from __future__ import annotations

import warnings

import pytest
import torch

from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.training.code_prospects import why_codes_stay_alike
from kshot_ext.nas.training.settings import TrainingSettings
from kshot_ext.nas.training.simplex_training import SimplexSettings

SIMPLEX = SimplexSettings()


@pytest.mark.parametrize(
    ("training", "codes", "setting", "got"),
    [
        ({"epochs": 5, "warmup_epochs": 5}, {}, "training.warmup_epochs: expected fewer than the 5 epochs", "5"),
        (
            {"epochs": 3, "warmup_epochs": 5},
            {"start": "cost"},
            "training.warmup_epochs: expected fewer than the 3",
            "5",
        ),
        ({"epochs": 6, "warmup_epochs": 5}, {}, None, ""),
        ({"epochs": 1}, {}, None, ""),
        ({}, {"fixed_epochs": 25}, "codes.fixed_epochs: expected fewer than the 25 epochs after warm-up", "25"),
        ({}, {"fixed_epochs": 25, "start": "cost"}, None, ""),  # a start parts codes without training
        ({}, {"fixed_epochs": 24}, None, ""),
        ({}, {"free_share": 0.0}, "codes.free_share: expected at least 0.0667", "0"),
        ({}, {"free_share": 0.066, "start": "cost"}, "codes.free_share: expected at least 0.0667", "0.066"),
        ({}, {"free_share": 0.067}, None, ""),
        ({}, {"free_share_at_start": 0.0}, None, ""),
        ({"simplex_learning_rate": 0.0}, {}, "method.simplex_learning_rate: expected above 0", "0"),
        ({"simplex_learning_rate": 0.0}, {"start": "cost"}, None, ""),
        ({}, {"perturbation": 0.0}, "codes.perturbation: expected above 0", "0"),
        ({}, {"perturbation": 0.0, "start": "cost", "spread": 0.0}, "codes.perturbation: expected above 0", "0"),
        ({}, {"perturbation": 0.0, "start": "cost"}, None, ""),
    ],
)
def test_settings_that_keep_codes_alike_are_named(
    training: dict[str, float], codes: dict[str, float], setting: str | None, got: str
) -> None:
    rate = {name: training.pop(name) for name in list(training) if name.startswith("simplex")}
    settings = TrainingSettings(**training), CodeSettings(**codes), SimplexSettings(**rate)
    assert why_codes_stay_alike(1, *settings) is None
    reason = why_codes_stay_alike(4, *settings)
    if setting is None:
        assert reason is None
    else:
        assert reason.startswith(setting)
        assert f", got {got}: " in reason


@pytest.mark.parametrize("shots", [2, 4, 8])
def test_codes_are_never_further_apart_than_equal_groups_that_pick_a_copy_each(shots: int) -> None:
    """The mean distance of these, by brute force, is what the least free share is worked out from."""

    def distance(free: torch.Tensor, share: float) -> float:
        codes = (1 - share) / shots + share * free
        return float((codes[:, None] - codes[None]).abs().sum(dim=2).mean())

    share = 0.05 / (1 - 1 / shots)
    assert distance(torch.eye(shots).double(), share) == pytest.approx(0.1)
    assert why_codes_stay_alike(shots, TrainingSettings(), CodeSettings(free_share=share * 0.99), SIMPLEX) is not None
    assert why_codes_stay_alike(shots, TrainingSettings(), CodeSettings(free_share=share * 1.01), SIMPLEX) is None
    generator = torch.Generator().manual_seed(0)
    for sharpness in (0.5, 2.0, 8.0, 100.0):
        free = (sharpness * torch.randn(400, shots, generator=generator).double()).softmax(dim=1)
        assert distance(free, share) < 0.1


@pytest.mark.parametrize(
    ("codes", "setting"), [({}, "start: expected another than equal"), ({"start": "cost", "spread": 0.0}, "spread")]
)
def test_without_training_of_the_net_codes_stay_as_they_start(codes: dict[str, object], setting: str) -> None:
    training = TrainingSettings()
    assert why_codes_stay_alike(4, training, CodeSettings(**codes), None).startswith(f"codes.{setting}")
    assert why_codes_stay_alike(4, training, CodeSettings(start="cost"), None) is None
    assert why_codes_stay_alike(1, training, CodeSettings(**codes), None) is None


def _distance_at_the_end(loop) -> float:
    while not loop.finished:
        distance = loop.train_epoch().numbers["code_distance"]
    return distance


def test_codes_do_stay_equal_where_it_is_said(make_loop) -> None:
    settings = TrainingSettings(epochs=2, batch_size=8, warmup_epochs=0)
    with pytest.warns(UserWarning, match=r"will end with a one-shot supernet: codes\.perturbation"):
        loop = make_loop(settings, shots=3, codes=CodeSettings(perturbation=0.0), simplex_every=1)
    assert _distance_at_the_end(loop) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _distance_at_the_end(make_loop(settings, shots=3, simplex_every=1)) > 0


def test_codes_of_a_single_epoch_part_by_the_step(make_loop) -> None:
    codes = CodeSettings(start="cost", free_share_at_start=0.0, free_share=0.6)
    assert _distance_at_the_end(make_loop(TrainingSettings(epochs=1, batch_size=8), shots=3, codes=codes)) > 0.3
