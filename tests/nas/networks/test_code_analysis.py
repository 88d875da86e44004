from __future__ import annotations

import pytest
import torch

from kshot_ext.nas.networks.code_analysis import code_distances, dictionary_factors, spectrum
from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space
from kshot_ext.nn import KShotLinear


def _singular_values(codes, layers):
    """By definition: the weights of every path, side by side."""
    flat = torch.cat([p.detach().flatten(1) for layer in layers for p in layer.parameters()], dim=1)
    return torch.linalg.svdvals(codes.double() @ flat.double())


@pytest.mark.parametrize("shots", [1, 3, 8])
def test_the_spectrum_is_that_of_all_paths_weights(shots):
    layers = torch.nn.ModuleList([KShotLinear(2, 3, num_shots=shots), KShotLinear(1, 1, num_shots=shots)])
    codes = torch.rand(20, shots).softmax(dim=1)
    factors = dictionary_factors(layers)
    assert list(factors) == ["0", "1"]
    whole = spectrum(codes, factors)
    expected = _singular_values(codes, layers)[:shots]
    torch.testing.assert_close(torch.tensor(whole.singular_values).double(), expected, rtol=1e-5, atol=1e-6)
    # Layer 1 has two numbers per copy, a weight and a bias, so it spans at most two dimensions.
    assert spectrum(codes, {"1": factors["1"]}).rank == min(shots, 2)
    assert whole.rank == shots


def test_one_shot_has_rank_one_and_so_have_equal_codes(tiny_space, seeded):
    for shots in (1, 4):
        supernet = Supernet(tiny_space, shots, seeded(0))
        codes = torch.full((10, shots), 1 / shots)
        whole = spectrum(codes, dictionary_factors(supernet))
        assert len(whole.singular_values) == shots
        assert whole.rank == 1
        assert whole.effective_rank == pytest.approx(1, abs=1e-5)


def test_the_effective_rank_counts_equal_dimensions():
    assert spectrum(torch.eye(4), {"head": torch.eye(4).double()}).effective_rank == pytest.approx(4)


def test_a_code_per_layer_mixes_that_layer():
    codes = torch.rand(20, 3, 2).softmax(dim=2)
    factor = torch.tensor([[1.0, 2.0], [0.0, 3.0]]).double()
    for name, used in {"layers.1.0.conv": codes[:, 1], "stem.0": codes.mean(dim=1)}.items():
        expected = torch.linalg.svdvals(used.double() @ factor.T)
        found = torch.tensor(spectrum(codes, {name: factor}).singular_values, dtype=torch.float64)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("widths", [None, (0.5, 0.75, 1.0)])
def test_codes_move_with_the_choices_that_they_read(widths, seeded):
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=4, widths=widths)
    simplex_net = SimplexNet(space, 3, seeded(0))
    flat = code_distances(simplex_net, space, seeded(1))
    assert set(flat.operations) == {0.0}
    torch.nn.init.normal_(simplex_net.output.weight, generator=seeded(2))
    if widths is not None:  # a simplex-net that is blind to operations
        torch.nn.init.zeros_(simplex_net.operation_branch.weight)
    distances = code_distances(simplex_net, space, seeded(1))
    moving = distances.operations if widths is None else distances.widths
    assert len(moving) == 8
    assert 0 < moving[0] < moving[-1]
    if widths is not None:
        assert set(distances.operations) == {0.0}


def test_weights_that_are_not_finite_span_nothing_that_can_be_told():
    whole = spectrum(torch.eye(2), {"head": torch.full((2, 2), float("nan")).double()})
    assert whole.rank == 0
    assert len(whole.singular_values) == 2
    assert whole.effective_rank != whole.effective_rank
