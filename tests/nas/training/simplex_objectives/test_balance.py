import dataclasses

import pytest
import torch

from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.nas.training.settings import TrainingSettings

STEPS = GradientSteps("float32", torch.device("cpu"))


def test_copies_get_equal_shares_without_a_forward_pass(make_training, monkeypatch, seeded):
    """The first copy has most of the training at the start. Codes still differ in the end."""
    training = make_training("balance", shots=3, noise=0.5, simplex_learning_rate=0.02)
    monkeypatch.setattr(Supernet, "forward", lambda *_: pytest.fail("a forward pass"))
    with torch.no_grad():
        training.simplex_net.output.bias[0] += 4.0
    paths = [training.supernet.space.sample(seeded(seed)) for seed in range(200)]

    def shares():
        return training.simplex_net(paths).detach().mean(dim=0)

    assert float(shares()[0]) > 0.8
    no_images = iter(())
    for _ in range(150):
        assert training.step(no_images, STEPS, DataParallel()) is None
    torch.testing.assert_close(shares(), torch.full((3,), 1 / 3), rtol=0, atol=0.05)
    assert float(torch.pdist(training.simplex_net(paths).detach(), p=1).mean()) > 0.2


def test_a_training_by_it_reports_no_loss_of_simplex_steps(make_loop):
    settings = TrainingSettings(epochs=1, batch_size=8, warmup_epochs=0, held_out_share=0.25)
    simplex = {"simplex_every": 1, "simplex_objective": "balance"}
    loop = make_loop(settings, codes=CodeSettings(start="cost", spread=1.0), **simplex)
    before = loop.method.simplex_net.output.weight.clone()
    assert "simplex_loss" not in loop.train_epoch().numbers
    assert not torch.equal(before, loop.method.simplex_net.output.weight)
    with pytest.raises(ValueError, match="'balance' needs codes that differ at the start"):
        make_loop(settings, **simplex)
    with pytest.warns(UserWarning, match="warmup_epochs"):  # no simplex step at all
        make_loop(dataclasses.replace(settings, warmup_epochs=1), **simplex)
