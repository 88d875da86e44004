"""What people are told, and shown, of the codes of a method: the same on the console, on pages and in files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kshot_ext.nas.charts import HeatMap
from kshot_ext.nas.findings import Curve, Figure, Findings, Number
from kshot_ext.nas.networks.code_report import K_SHOT, LEAST_DISTANCE, ONE_COPY, VERDICTS, CodeReport
from kshot_ext.nas.networks.coded_supernet import CodedSupernet
from kshot_ext.nas.spaces.architecture import Architecture

_VERDICT, _DISTANCE = "K-shot or one-shot", "distance of codes"
_LEAST_SHARE, _RANK = "least share of a copy", "effective rank of the weights"
_MOST_COLUMNS = 64
"""Of a figure; thousands of shots are more than a page has room for."""

LEAST_OF_K_SHOT = LEAST_DISTANCE, "least of a K-shot run"
"""What distances of codes are drawn beside."""
DISTANCE_LABEL = "mean L1 distance of codes"

CODE_NUMBERS = (
    Number("codes.verdict", _VERDICT, VERDICTS),
    Number("codes.distance", _DISTANCE),
    Number("codes.least_share", _LEAST_SHARE),
    Number("codes.effective_rank", _RANK),
    Number("verdict", _VERDICT, VERDICTS),
    Number("code_distance", _DISTANCE),
    Number("min_entry_share", _LEAST_SHARE),
    Number("effective_rank", _RANK),
)
"""Where :func:`code_findings` puts its numbers."""

CODE_CURVES = (Curve("supernet", "code_distance", "Distance of codes", DISTANCE_LABEL, LEAST_OF_K_SHOT),)


def code_findings(codes: CodeReport) -> Findings:
    """What a report on codes amounts to."""
    return Findings(
        heading="Weight copies",
        facts=code_facts(codes),
        headline=(_VERDICT,),
        sentence=verdict_sentence(codes),
        warnings=tuple(f"this is a one-shot run, as {shortfall}" for shortfall in codes.shortfalls),
        results={"codes": codes.numbers()},
        ranking={
            "verdict": codes.verdict,
            "code_distance": codes.distance,
            "min_entry_share": codes.least_share,
            "effective_rank": codes.spectrum.effective_rank,
        },
    )


def code_facts(codes: CodeReport) -> Mapping[str, str]:
    """Verdict and numbers by name; of a single copy there is nothing to say but that."""
    verdict = {_VERDICT: codes.verdict}
    if codes.verdict == ONE_COPY:
        return verdict
    whole = codes.spectrum
    return {
        **verdict,
        _DISTANCE: f"{codes.distance:.3f}",
        _LEAST_SHARE: f"{codes.least_share:.4f}",
        _RANK: f"{whole.effective_rank:.2f} of {len(whole.singular_values)}",
    }


def verdict_sentence(codes: CodeReport) -> str:
    """Whether the copies are put to use, and if not, what to change."""
    if codes.verdict == ONE_COPY:
        return "this is a one-shot run, as one copy was asked for"
    if codes.verdict == K_SHOT:
        return f"this is a K-shot run: codes differ, and all {codes.num_shots} copies are in use"
    reasons = ". ".join(reason[0].upper() + reason[1:] for reason in codes.shortfalls)
    return f"this is a one-shot run: its {codes.num_shots} copies act as one. {reasons}."


def codes_figure(coded: CodedSupernet, architectures: Sequence[Architecture]) -> Figure:
    """The codes of architectures, in their order."""
    codes = coded.simplex_net(architectures).detach().cpu()
    content = codes_map(codes, [architecture.short() for architecture in architectures])
    caption = "How architectures mix the weight copies; digits (a is ten) are each layer's operation, then the widths."
    return Figure("Simplex codes", caption, content)


def codes_map(codes: Tensor, labels: Sequence[str]) -> HeatMap:
    """Simplex codes as shades: a row per architecture, a column per shot.

    A shade means the same coefficient in every run, so codes that hardly differ look alike.

    Args:
        codes: ``[M, K]``; or ``[M, L, K]``, of which the mean over the L layers is drawn. Of very many shots each
            column is the largest of some neighbours.
        labels: name of each row.
    """
    per_layer = codes.dim() == 3
    codes = codes.mean(dim=1) if per_layer else codes
    shots = codes.shape[1]
    neighbours = codes.split(math.ceil(shots / _MOST_COLUMNS), dim=1)
    firsts = [1 + sum(columns.shape[1] for columns in neighbours[:index]) for index in range(len(neighbours))]
    shades = torch.stack([columns.amax(dim=1) for columns in neighbours], dim=1)
    return HeatMap(
        values=shades.tolist(),
        rows=labels,
        columns=[
            str(first) if columns.shape[1] == 1 else f"{first} to {first + columns.shape[1] - 1}"
            for first, columns in zip(firsts, neighbours)
        ],
        row_label="architecture, cheapest first",
        column_label="shot (mean over the layers)" if per_layer else "shot",
        label="coefficient",
        mark=(1 / shots, f"the equal share 1/{shots}"),
    )
