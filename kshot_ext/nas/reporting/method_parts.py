"""What pages show of any run: what its method found, and what it takes to repeat it."""

from __future__ import annotations

import time
from collections.abc import Iterable

from kshot_ext.nas.checks import check_given
from kshot_ext.nas.findings import Figure, Findings
from kshot_ext.nas.messages import in_shell
from kshot_ext.nas.provenance import environment
from kshot_ext.nas.runs.run_card import RunCard

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


def provenance(card: RunCard) -> dict[str, str]:
    """Return what it takes to repeat a run, and what its numbers may depend on."""
    return {
        **({"command line": " ".join(map(in_shell, card.command_line))} if card.command_line else {}),
        **({"begun": card.begun} if card.begun else {}),
        "reported": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "run": card.run,
        **{f"SHA-256 of {name}": digest for name, digest in card.inputs.items()},
        **environment(),
    }


def own_figures(figures: Iterable[Figure]) -> list[Figure]:
    """Return a method's figures.

    Raises:
        BrokenContractError: if they are no figures.
    """
    check_given("figures", figures, Iterable)
    given = [*figures]
    for figure in given:
        check_given("figures", figure, Figure)
    return given
