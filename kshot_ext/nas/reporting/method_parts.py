"""What pages show of a method's own findings and figures, whatever the method."""

from __future__ import annotations

from kshot_ext.nas.findings import Findings

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

