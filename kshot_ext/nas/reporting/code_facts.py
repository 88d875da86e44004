"""What people are told about the codes of a run: the same words on the console and on every page."""

from __future__ import annotations

from kshot_ext.nas.networks.code_report import K_SHOT, ONE_COPY, CodeReport
from kshot_ext.nas.reporting import page


def code_facts(codes: CodeReport | None) -> dict[str, str]:
    """Return verdict and numbers by name; of a single copy there is nothing to say but that, without codes nothing."""
    if codes is None:
        return {}
    verdict = {"K-shot or one-shot": codes.verdict}
    if codes.verdict == ONE_COPY:
        return verdict
    whole = codes.spectrum
    return {
        **verdict,
        "distance of codes": f"{codes.distance:.3f}",
        "least share of a copy": f"{codes.least_share:.4f}",
        "effective rank of the weights": f"{whole.effective_rank:.2f} of {len(whole.singular_values)}",
    }


def verdict_sentence(codes: CodeReport) -> str:
    """Return whether the copies are put to use, and if not, what to change."""
    if codes.verdict == ONE_COPY:
        return "this is a one-shot run, as one copy was asked for"
    if codes.verdict == K_SHOT:
        return f"this is a K-shot run: codes differ, and all {codes.num_shots} copies are in use"
    reasons = ". ".join(map(_capitalised, codes.shortfalls))
    return f"this is a one-shot run: its {codes.num_shots} copies act as one. {reasons}."


def code_banner(codes: CodeReport | None, when: str = "") -> list[str]:
    """Return a page's warning that a supernet is a one-shot one; empty if it is not, or is to be.

    Args:
        codes: what is told of; None for a method without.
        when: the moment they were looked at; empty for the end.
    """
    if codes is None or not codes.shortfalls:
        return []
    return [page.warning(_capitalised(f"{when} {verdict_sentence(codes)}".strip()))]


def code_section(codes: CodeReport | None) -> list[str]:
    """Return a page's section on the copies; empty for a method without."""
    if codes is None:
        return []
    return [page.heading("Weight copies"), page.facts(code_facts(codes)), page.note(verdict_sentence(codes))]


def _capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
