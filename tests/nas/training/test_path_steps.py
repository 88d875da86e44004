"""Steps of equal length whatever the code, and rates that follow the cost."""

import dataclasses

import pytest
import torch

from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.training.path_steps import concentration, cost_factor
from kshot_ext.nas.training.settings import TrainingSettings

SETTINGS = TrainingSettings(
    epochs=1, batch_size=36, warmup_epochs=0, held_out_share=0.25, momentum=0.9, weight_decay=0.0, clip_norm=0.0
)
CODES = CodeSettings(start="random", spread=100.0, free_share=0.6, free_share_at_start=0.6, perturbation=0.0)


@pytest.fixture
def step_of(make_loop):
    """By how much one step moves the mixed weight of the path that it trains, divided by that of one copy."""

    def stem_move(shots, **settings):
        chosen = dataclasses.replace(SETTINGS, **settings)
        trainer = make_loop(chosen, shots=shots, codes=CODES)
        supernet, simplex_net = trainer.method.supernet, trainer.method.simplex_net
        codes = []
        code_of = simplex_net.code
        simplex_net.code = lambda path: codes.append(code_of(path)) or codes[-1]
        (stem,) = [p for name, p in supernet.named_parameters() if name == "stem.0.weight"]
        before = stem.detach().clone()
        trainer.train_epoch()
        code = codes[0]
        return torch.tensordot(code, stem.detach() - before, dims=1), code

    def relative(shots, **settings):
        one, _ = stem_move(1, **settings)
        move, code = stem_move(shots, **settings)
        torch.testing.assert_close(move / move.norm(), one / one.norm(), rtol=1e-3, atol=1e-4)
        return float(move.norm() / one.norm()), concentration(code)

    return relative


def test_a_concentrated_code_makes_a_longer_step(step_of):
    ratio, expected = step_of(4, equal_path_steps=False)
    assert expected == pytest.approx(1 + 3 * 0.6**2, rel=1e-3)  # one-hot at a share s: 1 + (K - 1) s^2
    assert ratio == pytest.approx(expected, rel=1e-3)


def test_normalised_steps_are_of_one_length(step_of):
    ratio, _ = step_of(4)
    assert ratio == pytest.approx(1, rel=1e-3)


def test_a_limit_of_the_gradient_leaves_the_root_of_the_concentration(step_of):
    ratio, expected = step_of(4, clip_norm=1e-2)
    assert ratio == pytest.approx(expected**0.5, rel=1e-3)


def test_concentration_of_codes_per_layer_is_their_mean():
    assert concentration(torch.tensor([[1.0, 0.0], [0.5, 0.5]])) == 1.5


def test_rates_of_cheap_paths_fall_first():
    rates = [[factor * cost_factor(rank, factor, 1.0) for factor in (1.0, 0.5, 0.25)] for rank in (0.0, 0.5, 1.0)]
    assert rates == [[1.0, 0.25, 0.0625], [1.0, 0.5, 0.25], [1.0, 0.5**0.5, 0.5]]
    assert cost_factor(0.1, 0.3, 0.0) == 1.0
    assert cost_factor(1.0, 0.0, 1.0) < 1e4  # at the very end


def test_the_trainer_multiplies_by_the_factor(make_loop):
    """Of the first step all factors are 1; later ones follow the path's cost. A rise is the same for all paths."""

    def losses_and_factors(strength):
        settings = dataclasses.replace(SETTINGS, batch_size=9, cost_aware_rates=strength, rise_steps=2)
        trainer = make_loop(settings)
        factors, steps = [], trainer.method._path_steps
        factor = steps.factor
        steps.factor = lambda *call: factors.append((call[0], call[2], factor(*call))) or factors[-1][2]
        return trainer.train_epoch().loss, factors, steps.cost_rank

    plain, factors, _ = losses_and_factors(0.0)
    assert [factor for _, _, factor in factors] == [1.0] * 4
    aware, factors, rank = losses_and_factors(1.0)
    assert [rate for _, rate, _ in factors] == [SETTINGS.learning_rate_factor(step, 4) for step in range(4)]
    assert [factor for _, _, factor in factors] == [cost_factor(float(rank([p])), r, 1.0) for p, r, _ in factors]
    assert aware != plain


def test_a_rate_by_cost_holds_where_gradients_are_clipped(make_loop):
    """The first step has the full rate. In the second all weights are equal, and the gradient is above the limit."""

    def second_move(strength):
        trainer = make_loop(
            dataclasses.replace(SETTINGS, batch_size=9, momentum=1e-6, clip_norm=1e-2, cost_aware_rates=strength)
        )
        at, factors, steps = [], [], trainer.method._path_steps
        factor = steps.factor
        steps.factor = lambda *call: factors.append(factor(*call)) or factors[-1]
        parameters = list(trainer.method.supernet.parameters())
        trainer.train_epoch(lambda _: at.append(torch.cat([p.detach().double().flatten() for p in parameters])))
        return float((at[1] - at[0]).norm()), factors[1]

    plain, _ = second_move(0.0)
    aware, factor = second_move(3.0)
    assert abs(factor - 1) > 0.1
    assert aware / plain == pytest.approx(factor, rel=1e-2)
