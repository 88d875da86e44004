"""The picture of a run's codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kshot_ext.nas.networks.coded_supernet import CodedSupernet
from kshot_ext.nas.reporting import plots
from kshot_ext.nas.reporting.page import Picture
from kshot_ext.nas.spaces.architecture import Architecture

CODE_ROWS = 24
"""How many architectures a picture of codes has room for."""


def draw_codes(folder: Path, coded: CodedSupernet | None, architectures: Sequence[Architecture]) -> list[Picture]:
    """Draw the codes of architectures, in their order; nothing for a method without codes."""
    if coded is None:
        return []
    codes = coded.simplex_net(architectures).detach().cpu()
    figure = plots.plot_codes(codes, [architecture.short() for architecture in architectures])
    caption = "How architectures mix the weight copies; digits (a is ten) are each layer's operation, then the widths."
    return [Picture(plots.save_png(figure, folder / "codes.png"), "Simplex codes", caption)]
