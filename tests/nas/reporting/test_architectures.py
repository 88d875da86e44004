from __future__ import annotations

from kshot_ext.nas.reporting import architectures
from kshot_ext.nas.reporting.architectures import catalogue, choices_legend
from kshot_ext.nas.runs.results import RunResult
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.space import SearchSpace


def test_layers_are_shared_and_tell_channels_resolution_and_cost(found: RunResult, tiny_space: SearchSpace) -> None:
    shown = catalogue(tiny_space, found, "train")
    winner = shown.layers(shown.winner)
    assert [part.title for part in winner] == ["stem", "identity", "mb6_k5", *["mb3_k3"] * 6, "head"]
    stem, first = winner[0], winner[1]
    assert (stem.channels, stem.size, stem.place) == ("1 → 2", "8x8", "")
    assert (first.channels, first.size, first.place) == ("2 → 4", "8x8 → 4x4", "layer 0")
    assert (stem.side, stem.colour) == (1, None)
    # 3x3 weights from 1 to 2 channels at 8x8 places
    assert stem.macs == "1.15 k"
    assert max(part.share for part in shown.parts) == 100
    rival = shown.shown["12111111"]
    assert rival.parts[2:] == shown.winner.parts[2:]
    assert rival.parts[1] != shown.winner.parts[1]
    assert shown.command_for(rival) == "train 12111111"


def test_colours_are_those_of_the_operations_of_the_space(found: RunResult, tiny_space: SearchSpace) -> None:
    colours = {part.title: part.colour for part in catalogue(tiny_space, found, "train").parts}
    assert colours == {"stem": None, "identity": 0, "mb3_k3": 1, "mb6_k5": 2, "head": None}


def test_beyond_a_number_of_layers_operations_are_told_without_a_drawing(
    found: RunResult, tiny_space: SearchSpace, monkeypatch
) -> None:
    monkeypatch.setattr(architectures, "_MOST_PARTS", 10)  # those of the winner
    shown = catalogue(tiny_space, found, "train").shown
    assert [bool(one.parts) for one in shown.values()] == [True, False, False, False]
    assert shown["00000000"].facts["operations"] == ", ".join(["identity"] * 8)
    assert "operations" not in shown["02111111"].facts


def test_digits_of_keys_are_explained() -> None:
    macro = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2, widths=(0.5, 1))
    assert choices_legend(macro) == ["all layers: 0 identity, 1 mb3_k3, 2 mb6_k5", "widths: 0 0.5, 1 1"]
