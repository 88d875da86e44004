from __future__ import annotations

from pathlib import Path

from PIL import Image

from kshot_ext.nas import drawing


def test_a_figure_becomes_a_png_file(tmp_path: Path) -> None:
    content = drawing.save_png(drawing.plot_curves({"a": [(1, 1.0)]}, "x", "y"), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes() == content
    with Image.open(tmp_path / "curve.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 200


def test_small_values_are_drawn_below_the_least_that_is_named() -> None:
    (axes,) = drawing.plot_curves({"run": [(1, 0.001), (2, 0.002)]}, "epoch", "distance", (0.1, "least")).axes
    low, high = axes.get_ylim()
    assert low == 0
    assert high > 0.1
    assert [line.get_ydata()[0] for line in axes.lines] == [0.001, 0.1]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["run", "least"]
