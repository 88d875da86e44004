from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kshot_ext.nas import drawing
from kshot_ext.nas.findings import Findings, MethodFigure
from kshot_ext.nas.reporting.method_parts import banner, save_figures, section, tiles

FOUND = Findings(heading="<Found>", facts={"one": "1", "two": "2"}, headline=("two",), sentence="all is well")


def test_only_warnings_make_a_banner() -> None:
    assert banner(None) == banner(FOUND) == []
    warned = Findings(heading="Found", facts={}, sentence="this is <bad>", warnings=("why",))
    assert banner(warned) == ['<p class="warning" role="alert">This is &lt;bad&gt;</p>']
    assert "After 3 of 50 epochs this is &lt;bad&gt;" in banner(warned, "After 3 of 50 epochs")[0]


def test_facts_become_a_section_and_tiles() -> None:
    assert section(None) == []
    assert tiles(None) == {}
    heading, table, note = section(FOUND)
    assert heading == "<h2>&lt;Found&gt;</h2>"
    assert "<tr><th>one</th><td>1</td></tr><tr><th>two</th><td>2</td></tr>" in table
    assert "all is well" in note
    assert len(section(replace(FOUND, sentence=""))) == 2
    assert tiles(FOUND) == {"two": "2"}


def test_figures_are_saved_by_their_names(tmp_path: Path) -> None:
    figure = drawing.plot_curves({"a": [(1, 1.0)]}, "x", "y")
    (picture,) = save_figures(tmp_path, [MethodFigure("mine", "Mine", "as it is", figure)])
    assert (picture.heading, picture.caption) == ("Mine", "as it is")
    assert (tmp_path / "mine.png").read_bytes() == picture.png
