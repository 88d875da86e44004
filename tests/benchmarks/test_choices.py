"""What "auto" loses, of forms whose times are known."""

from __future__ import annotations

import pytest

from benchmarks import choices
from benchmarks.forms import Form
from benchmarks.layers import ConvLayer
from benchmarks.works.per_sample_code import per_sample_code_contest
from benchmarks.works.shared_code import conv_row

LAYER = ConvLayer("expand", 16, 32, 1, 40)


class KnownTimes:
    """A clock by which the fused form takes 2.8 ms and every other one 2 ms."""

    def seconds(self, form: Form, repeats: int = 1) -> float:
        return 2.8e-3 if form.name.startswith("fused") else 2e-3


@pytest.mark.parametrize(
    ("layout", "chosen", "loss"), [("channels_last", "fused", 1.4), ("contiguous", "mix_then_conv", 1)]
)
def test_loss(monkeypatch, native_backend, layout, chosen, loss):
    monkeypatch.setattr(choices, "HostClock", KnownTimes)
    made = choices.choice(conv_row(LAYER, 3, (3, 2), per_sample_code_contest), layout, 2)
    assert (made.chosen, made.fastest) == (chosen, "mix_then_conv")
    assert made.loss == pytest.approx(loss)
    assert made.seconds == {"fused": 2.8e-3, "mix_then_conv": 2e-3}


def test_hopeless_forms_are_left_out(monkeypatch, native_backend):
    monkeypatch.setattr(
        KnownTimes, "seconds", lambda self, form, repeats=1: 9e-3 if form.name.startswith("mix") else 2e-3
    )
    monkeypatch.setattr(choices, "HostClock", KnownTimes)
    made = choices.choice(conv_row(LAYER, 3, (3, 2), per_sample_code_contest), "channels_last", 2)
    assert made.seconds == {"fused": 2e-3}
    assert made.loss == 1
