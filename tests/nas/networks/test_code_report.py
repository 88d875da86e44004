from __future__ import annotations

import pytest
import torch

from kshot_ext.nas.networks.code_analysis import Spectrum
from kshot_ext.nas.networks.code_report import PATHS_FOR_SPECTRUM, CodeReport, code_report
from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.simplex_net import SimplexNet
from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.randomness import named_generator
from kshot_ext.nn import KShotModule

SPECTRUM = Spectrum((1.0,), 1, 1.0)


@pytest.mark.parametrize(
    ("distance", "shares", "verdict", "reasons"),
    [
        (0.0, (1.0,), "one copy", []),
        (0.3, (0.25, 0.25, 0.25, 0.25), "K-shot", []),
        (0.1, (0.0625, 0.3125, 0.3125, 0.3125), "K-shot", []),  # 0.1 and 0.25/4, the bar itself
        (0.0999, (0.25, 0.25, 0.25, 0.25), "one-shot", ["codes are alike: 0.100 apart on average"]),
        (0.3, (0.4, 0.3, 0.0624, 0.2376), "one-shot", ["copy 3 is hardly used: a mean share of 0.0624, expected"]),
        (0.0, (1.0, 0.0), "one-shot", ["codes are alike: 0.000 apart", "copy 2 is hardly used"]),
        (float("nan"), (float("nan"), float("nan")), "one-shot", ["codes are alike: nan", "copy 1 is hardly used"]),
    ],
)
def test_the_bar_of_a_k_shot_supernet(
    distance: float, shares: tuple[float, ...], verdict: str, reasons: list[str]
) -> None:
    report = CodeReport(distance, shares, SPECTRUM)
    assert report.verdict == verdict
    assert len(report.shortfalls) == len(reasons)
    for shortfall, reason in zip(report.shortfalls, reasons):
        assert shortfall.startswith(reason)
        assert "raise codes." in shortfall


def test_the_numbers_are_those_of_random_architectures(tiny_space, seeded):
    supernet = Supernet(tiny_space, 3, seeded(0))
    simplex_net = SimplexNet(tiny_space, 3, seeded(1), settings=CodeSettings(start="cost"))
    report = code_report(supernet, simplex_net, seed=5)
    generator = named_generator(5, "code statistics")
    codes = simplex_net([tiny_space.sample(generator) for _ in range(1000)]).detach().double()
    pairs = (codes[:, None] - codes[None]).abs().sum(dim=2)
    assert report.distance == pytest.approx(float(pairs.sum()) / (1000 * 999), rel=1e-4)
    assert report.distance > 0.1
    assert report.entry_shares == pytest.approx(codes.mean(dim=0).tolist(), rel=1e-4)
    layers = [layer for layer in supernet.modules() if isinstance(layer, KShotModule)]
    dictionary = torch.cat([p.detach().flatten(1) for m in layers for p in m.parameters(recurse=False)], dim=1)
    codes = simplex_net([tiny_space.sample(generator) for _ in range(PATHS_FOR_SPECTRUM)]).detach().double()
    values = torch.linalg.svdvals(codes @ dictionary.double())
    shares = values / values.sum()
    expected = float((-shares * shares.clamp(min=1e-30).log()).sum().exp())
    assert report.numbers() == {
        "verdict": "K-shot",
        "distance": report.distance,
        "least_share": min(report.entry_shares),
        "entry_shares": report.entry_shares,
        "effective_rank": pytest.approx(expected, rel=1e-3),
    }


def test_one_copy_needs_no_codes(tiny_space, seeded):
    report = code_report(Supernet(tiny_space, 1, seeded(0)), SimplexNet(tiny_space, 1, seeded(1)), seed=0)
    assert (report.verdict, report.shortfalls) == ("one copy", ())
    assert report.numbers() == {
        "verdict": "one copy",
        "distance": 0.0,
        "least_share": 1.0,
        "entry_shares": (1.0,),
        "effective_rank": pytest.approx(1),
    }
