from __future__ import annotations

from pathlib import Path

from kshot_ext.nas import drawing
from kshot_ext.nas.findings import Findings, MethodFigure
from kshot_ext.nas.reporting.method_parts import banner, save_figures, tiles

FOUND = Findings(heading="Found", facts={"one": "1", "two": "2"}, headline=("two",), sentence="all is well")


def test_only_warnings_make_a_banner() -> None:
    assert banner(None) == banner(FOUND) == ""
    warned = Findings(heading="Found", facts={}, sentence="this is bad", warnings=("why",))
    assert banner(warned) == "This is bad"
    assert banner(warned, "After 3 of 50 epochs") == "After 3 of 50 epochs this is bad"


def test_the_headline_becomes_tiles() -> None:
    assert tiles(None) == {}
    assert tiles(FOUND) == {"two": "2"}


def test_figures_are_saved_by_their_names(tmp_path: Path) -> None:
    figure = drawing.plot_curves({"a": [(1, 1.0)]}, "x", "y")
    (picture,) = save_figures(tmp_path, [MethodFigure("mine", "Mine", "as it is", figure)])
    assert (picture.heading, picture.caption) == ("Mine", "as it is")
    assert (tmp_path / "mine.png").read_bytes() == picture.png
