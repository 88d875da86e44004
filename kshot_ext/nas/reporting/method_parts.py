"""What pages show of a method's own findings and figures, whatever the method."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kshot_ext.nas import drawing
from kshot_ext.nas.checks import check_given
from kshot_ext.nas.findings import Findings, MethodFigure
from kshot_ext.nas.reporting.page import Picture

MOST_ARCHITECTURES = 24
"""How many architectures a figure of a method has room for."""


def banner(findings: Findings | None, when: str = "") -> str:
    """Return a page's warning that the training is not what it was to be; empty if it is.

    Args:
        findings: of the method; None if it has none.
        when: the moment that they tell of; empty for the end.
    """
    if findings is None or not findings.warnings:
        return ""
    text = f"{when} {findings.sentence}".strip()
    return text[0].upper() + text[1:]


def tiles(findings: Findings | None) -> dict[str, str]:
    """Return the facts that pages show large."""
    return {} if findings is None else {name: findings.facts[name] for name in findings.headline}


def save_figures(folder: Path, figures: Iterable[MethodFigure]) -> list[Picture]:
    """Write a method's figures as PNG files, and return them for a page.

    Raises:
        BrokenContractError: if they are no figures.
    """
    check_given("figures", figures, Iterable)
    figures = [*figures]
    for figure in figures:
        check_given("figures", figure, MethodFigure)
    return [
        Picture(drawing.save_png(figure.figure, folder / f"{figure.name}.png"), figure.heading, figure.caption)
        for figure in figures
    ]
