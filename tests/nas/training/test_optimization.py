import math

import pytest
import torch

from kshot_ext.nas.training.optimization import OptimizationSettings, Tally


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"batch_size": 1}, "batch_size: expected at least 2, got 1"),
        ({"learning_rate": -0.1}, r"learning_rate.*got -0.1"),
        ({"learning_rate": math.nan}, r"learning_rate.*got nan"),
        ({"learning_rate": math.inf}, r"learning_rate.*got inf"),
        ({"rise_steps": -1}, "rise_steps: expected at least 0, got -1"),
        ({"momentum": 0.0}, r"momentum.*got 0.0"),
        ({"momentum": 1.0}, r"momentum.*got 1.0"),
        ({"weight_decay": -1e-4}, "weight_decay"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"precision": "int8"}, "precision: expected one of float32, bfloat16, float16, got 'int8'"),
    ],
)
def test_rejects_settings_out_of_range(changed, message):
    with pytest.raises(ValueError, match=message):
        OptimizationSettings(**({"epochs": 1} | changed))


def test_the_learning_rate_rises_then_falls_to_zero():
    plain, rising = OptimizationSettings(epochs=1), OptimizationSettings(epochs=1, rise_steps=4)
    factors = [rising.learning_rate_factor(step, 100) for step in range(101)]
    falling = [plain.learning_rate_factor(step, 100) for step in range(101)]
    assert falling == pytest.approx([math.cos(math.pi * step / 200) ** 2 for step in range(101)])
    assert factors[:4] == pytest.approx([share * fall for share, fall in zip((0.2, 0.4, 0.6, 0.8), falling)])
    assert factors[4:] == falling[4:]
    assert (falling[0], falling[100]) == (1.0, 0.0)


def test_tally_weighs_batches_by_their_images():
    tally = Tally()
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    tally.add(torch.tensor(2.0), scores, torch.tensor([0, 0, 1]))
    tally.add(torch.tensor(6.0), scores[:1], torch.tensor([0]))
    assert tally.loss == 3.0
    assert tally.accuracy == 0.75
