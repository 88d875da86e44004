"""Objectives on networks of two channels, in float64 where gradients are compared."""

import copy
import itertools

import pytest
import torch

from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.nas.training.simplex_objectives.objective import StepTools
from kshot_ext.nas.training.simplex_training import SimplexSettings, SimplexTraining

SMOOTHING = 0.1


@pytest.fixture
def make_training(tiny_space, seeded):
    """Training whose codes differ from the start, since the net's last layer is not zero."""

    def make(objective, *, space=tiny_space, shots=2, codes=None, noise=0.3, **settings):
        supernet = Supernet(space, shots, seeded(0)).train()
        simplex_net = SimplexNet(space, shots, seeded(1), settings=CodeSettings(**(codes or {})))
        torch.nn.init.normal_(simplex_net.output.weight, std=noise, generator=seeded(3))
        settings = {"paths_per_simplex_step": 4, "simplex_learning_rate": 0.01, **settings}
        settings = SimplexSettings(simplex_objective=objective, **settings)
        return SimplexTraining(supernet, simplex_net, settings, 10, seeded(2), SMOOTHING)

    return make


@pytest.fixture
def make_double_tools(make_training):
    """What an objective gets in a step, computing in float64."""

    def make(**options):
        training = make_training("loss", **options)
        supernet, simplex_net = training.supernet.double(), training.simplex_net.double()
        readers = [supernet, simplex_net.operation_branch, simplex_net.width_branch]
        for reader in filter(None, readers):
            reader.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(), *inputs[1:]))
        steps = GradientSteps("float32", torch.device("cpu"))
        return StepTools(supernet, simplex_net, SMOOTHING, steps, DataParallel())

    return make


@pytest.fixture
def batches(tiny_splits):
    """Different batches of eight images, over and over."""
    images, labels = tiny_splits.train.images.float() / 255, tiny_splits.train.labels
    return lambda: itertools.cycle([(images[i::6], labels[i::6]) for i in range(6)])


@pytest.fixture
def assert_slope():
    """Asserts that a gradient is what central differences of a function of the simplex-net find, in one direction."""

    def check(function, simplex_net, gradients):
        direction = [torch.randn(p.shape, generator=torch.Generator().manual_seed(9)).double() for p in gradients]
        values = []
        for step in (1e-5, -1e-5):
            moved = copy.deepcopy(simplex_net)
            with torch.no_grad():
                for parameter, way in zip(moved.parameters(), direction):
                    parameter += step * way
                values.append(float(function(moved)))
        slope = (values[0] - values[1]) / 2e-5
        assert abs(slope) > 1e-4
        assert sum((g * way).sum() for g, way in zip(gradients, direction)).item() == pytest.approx(slope, rel=1e-4)

    return check
