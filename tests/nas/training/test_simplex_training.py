import itertools
import math
from dataclasses import replace

import pytest
import torch

from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.divergence import DivergedError
from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.nas.training.simplex_objectives import SIMPLEX_OBJECTIVES
from kshot_ext.nas.training.simplex_objectives import objective as objectives
from kshot_ext.nas.training.simplex_training import SimplexSettings, SimplexTraining

STEPS = GradientSteps("float32", torch.device("cpu"))
SETTINGS = SimplexSettings(paths_per_simplex_step=2, simplex_learning_rate=0.01)


@pytest.fixture
def make_training(tiny_space, seeded):
    def make(codes=None, settings=SETTINGS, space=tiny_space):
        supernet = Supernet(space, 2, seeded(0)).train()
        simplex_net = SimplexNet(space, 2, seeded(1), settings=codes)
        return SimplexTraining(supernet, simplex_net, settings, 10, seeded(2))

    return make


@pytest.fixture
def images(tiny_splits):
    batch = tiny_splits.train.images[:8].float() / 255, tiny_splits.train.labels[:8]
    return itertools.repeat(batch)


def test_moves_only_the_simplex_net(make_training, images):
    training = make_training()
    weights = {name: p.detach().clone() for name, p in training.supernet.named_parameters()}
    codes = {name: p.detach().clone() for name, p in training.simplex_net.named_parameters()}
    training.step(images, STEPS, DataParallel())
    assert all(torch.equal(weights[name], p) for name, p in training.supernet.named_parameters())
    assert not all(torch.equal(codes[name], p) for name, p in training.simplex_net.named_parameters())
    assert all(p.grad is None and p.requires_grad for p in training.supernet.parameters())


def test_balance_brings_an_entry_that_leads_back(make_training, images):
    shares = []
    for balance in (0.0, 1.0):
        training = make_training(CodeSettings(balance=balance))
        with torch.no_grad():
            for weight in training.supernet.parameters():  # equal copies: the data has no opinion on the code
                weight.copy_(weight[:1].expand_as(weight))
            training.simplex_net.output.bias[0] = 2.0
        for _ in range(3):
            training.step(images, STEPS, DataParallel())
        shares.append(float(training.simplex_net.code(training.supernet.space.cheapest())[0]))
    assert shares[0] > 0.85
    assert shares[1] < shares[0] - 0.02


@pytest.mark.parametrize(("rate_at_end", "last"), [(1.0, 0.01), (0.0, 0.0), (0.5, 0.005)])
def test_learning_rate_ends_where_the_settings_say(make_training, images, rate_at_end, last):
    settings = SimplexSettings(paths_per_simplex_step=1, simplex_learning_rate=0.01, simplex_rate_at_end=rate_at_end)
    training = make_training(settings=settings)
    rates = []
    for _ in range(10):
        rates.append(training.schedule.get_last_lr()[0])
        training.step(images, STEPS, DataParallel())
    rates.append(training.schedule.get_last_lr()[0])
    assert rates[0] == 0.01
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(last, abs=1e-9)


@pytest.mark.parametrize("per_layer", [False, True])
def test_codes_of_different_widths_part(make_training, per_layer):
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2, widths=(0.5, 1.0))
    distances = []
    for separation in (0.0, 10.0):
        training = make_training(CodeSettings(per_layer=per_layer, width_separation=separation), space=space)
        torch.nn.init.normal_(training.simplex_net.output.weight, std=0.05, generator=torch.Generator().manual_seed(3))
        for _ in range(30):
            training.penalty().backward()
            training.optimizer.step()
            training.optimizer.zero_grad()
        path = space.cheapest()
        narrow, half, full = (space.from_genes([*path.operations, *w]) for w in ([0] * 8, [0] * 4 + [1] * 4, [1] * 8))
        codes = training.simplex_net([narrow, half, full]).detach()
        distances.append([float((codes[0] - other).square().sum(-1).mean()) for other in codes[1:]])
    (_, apart_without), (half_way, apart) = distances
    assert apart > apart_without + 0.1
    assert apart > half_way


@pytest.mark.parametrize("objective", SIMPLEX_OBJECTIVES)
def test_every_objective_trains_the_simplex_net_alone(make_training, images, objective):
    """In several precisions; a scaler changes nothing."""
    trained = []
    for steps in (STEPS, GradientSteps("bfloat16", torch.device("cpu")), scaled_steps()):
        training = make_training(CodeSettings(start="cost", spread=1.0), replace(SETTINGS, simplex_objective=objective))
        weights = [p.clone() for p in training.supernet.parameters()]
        start = [p.clone() for p in training.simplex_net.parameters()]
        for _ in range(2):
            training.step(images, steps, DataParallel())
        assert all(map(torch.equal, weights, training.supernet.parameters()))
        assert not all(map(torch.equal, start, training.simplex_net.parameters()))
        assert all(p.grad is None and p.requires_grad for p in training.supernet.parameters())
        trained.append(list(training.simplex_net.parameters()))
    plain, half, scaled = trained
    assert all(p.isfinite().all() for p in half)
    for parameter, other in zip(plain, scaled):
        torch.testing.assert_close(parameter, other, rtol=1e-4, atol=1e-5)


def scaled_steps():
    """Steps whose losses are scaled as those of float16 are."""
    steps = GradientSteps("float32", torch.device("cpu"))
    steps._scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return steps


@pytest.mark.parametrize("objective", SIMPLEX_OBJECTIVES)
def test_one_copy_has_one_code(tiny_space, images, seeded, objective):
    supernet, simplex_net = Supernet(tiny_space, 1, seeded(0)).train(), SimplexNet(tiny_space, 1, seeded(1))
    training = SimplexTraining(supernet, simplex_net, replace(SETTINGS, simplex_objective=objective), 2, seeded(2))
    for _ in range(2):
        training.step(images, STEPS, DataParallel())
    assert training.simplex_net.code(tiny_space.cheapest()).tolist() == [1.0]


@pytest.mark.parametrize("objective", SIMPLEX_OBJECTIVES)
def test_a_step_that_diverges_names_its_path_and_is_not_made(make_training, images, objective):
    training = make_training(CodeSettings(start="cost", spread=1.0), replace(SETTINGS, simplex_objective=objective))
    for parameter in training.supernet.parameters():
        parameter.data.fill_(math.nan)
    before = [p.clone() for p in training.simplex_net.parameters()]
    if objective == "balance":  # looks at no loss
        training.step(images, STEPS, DataParallel())
        return
    with pytest.raises(DivergedError, match=r"the loss of path [012]{8} under the code \[.+, .+\] is nan"):
        training.step(images, STEPS, DataParallel())
    assert all(map(torch.equal, before, training.simplex_net.parameters()))
    assert all(p.requires_grad for p in training.supernet.parameters())


@pytest.mark.parametrize("objective", ["agreement", "balance"])
def test_codes_that_an_objective_would_leave_equal_are_refused(make_training, tiny_space, seeded, objective):
    settings = replace(SETTINGS, simplex_objective=objective)
    with pytest.raises(ValueError, match=f"'{objective}' needs codes that differ at the start"):
        make_training(settings=settings)
    make_training(CodeSettings(start="cost", spread=1.0), settings)
    supernet, simplex_net = Supernet(tiny_space, 2, seeded(0)), SimplexNet(tiny_space, 2, seeded(1))
    SimplexTraining(supernet, simplex_net, settings, 0, seeded(2))  # of no steps
    torch.nn.init.normal_(simplex_net.output.weight)
    SimplexTraining(supernet, simplex_net, settings, 10, seeded(2))


@pytest.mark.parametrize("objective", ["relative", "ranking"])
def test_where_two_kinds_of_paths_disagree_those_that_matter_win(make_training, images, monkeypatch, objective):
    """One code for all: paths whose first operation is the last one want the first entry, all others the second, as
    strongly on average. With the mean loss neither wins. The former cost more. For `relative` they are better than
    their cost predicts, for `ranking` worse than cheaper ones, which should not be."""
    better = {"relative": 0.5, "ranking": -0.5}[objective]

    def made_up(supernet, path, code, *_):
        costly = path.operations[0] == 2
        wish, weight, level = (code[1], 2.0, 1 - better) if costly else (code[0], 1.0, 1.0)
        return level + 0.1 * weight * wish, torch.zeros(8, 3)

    monkeypatch.setattr(objectives, "path_loss", made_up)
    shares = {}
    for name in ("loss", objective):
        settings = replace(SETTINGS, simplex_objective=name, paths_per_simplex_step=16)
        training = make_training(CodeSettings(balance=0.0), settings)
        training.simplex_net.output.weight.requires_grad_(False)  # at zero, so the code is that of the bias
        for _ in range(40):
            training.step(images, STEPS, DataParallel())
        shares[name] = float(training.simplex_net.code(training.supernet.space.cheapest())[0])
    assert shares[objective] > shares["loss"] + 0.1
