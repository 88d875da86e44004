"""What ``kshot-ext analyse`` does: the theory of K-shot weights, made visible for one run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from kshot_ext.nas.charts import curves_chart
from kshot_ext.nas.commands.frame import CommandError, exit_status, print_facts, tell, tell_findings, users_errors
from kshot_ext.nas.files import check_can_write, is_there, write_errors, write_text
from kshot_ext.nas.findings import Figure
from kshot_ext.nas.methods import allow_own_method
from kshot_ext.nas.methods.parts.code_findings import (
    DISTANCE_LABEL,
    LEAST_OF_K_SHOT,
    code_facts,
    code_findings,
    codes_map,
)
from kshot_ext.nas.networks.code_analysis import CodeDistances, Spectrum, code_distances, dictionary_factors, spectrum
from kshot_ext.nas.networks.code_report import PATHS_FOR_SPECTRUM, CodeReport
from kshot_ext.nas.own_classes import with_absolute_path
from kshot_ext.nas.randomness import named_generator
from kshot_ext.nas.reporting import method_parts, page
from kshot_ext.nas.reporting.page import Table
from kshot_ext.nas.runs.run_folder import RunRecord
from kshot_ext.nas.runs.trained import load_trained
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.strict_json import strict_json

_OUTPUTS = ("analysis.json", "analysis.html")
_CODE_ROWS = 32


@dataclass(frozen=True)
class Analysis:
    """What a trained supernet and its codes span.

    Args:
        epoch, epochs: epochs trained, and those that training has in all.
        codes: what codes and copies amount to, with the spectrum of the weights of all layers together.
        layers: spectrum of each layer's, by name.
        distances: of codes by distances of architectures.
    """

    epoch: int
    epochs: int
    codes: CodeReport
    layers: dict[str, Spectrum]
    distances: CodeDistances


def analyse_command(run: Path, space: str | None = None, method: str | None = None) -> int:
    """Analyse a run, finished or not; writes ``RUN/analysis/`` and prints the main numbers.

    Args:
        run: the run folder.
        space, method: ``FILE.py:CLASS``, if the run's is one's own.

    Returns:
        Exit status: 0 done, 2 an error that the user can mend, 130 interrupted.
    """

    def body(console: Console) -> None:
        with users_errors("jinja2", "safetensors"):
            allow_own_method(method)
            record: RunRecord[Any] = RunRecord(run)
            _check_can_write_outputs(record.path / "analysis")
            page.rehearse()
            analysis, shown, codes = _analyse(record, None if space is None else with_absolute_path(space))
        report = _write(record, analysis, shown, codes)
        print_facts(console, f"{record.name}, K = {record.settings.shots}", _summary(analysis))
        tell_findings(console, code_findings(analysis.codes))
        tell(console, f"report: {report}")

    return exit_status(body, lambda: "nothing of the run was changed; analyse it again then")


def _check_can_write_outputs(folder: Path) -> None:
    """Find out before the work what would keep its results from being written; writes nothing."""
    if folder.is_dir():
        check_can_write(folder, _OUTPUTS)
    elif is_there(folder):
        raise CommandError(f"{folder}: expected a folder; move it away")
    else:
        check_can_write(folder.parent, (folder.name,))


def _analyse(record: RunRecord, own_space: str | None) -> tuple[Analysis, list[Architecture], Tensor]:
    """The analysis, and some architectures with their codes, cheapest first."""
    coded, epoch = load_trained(record, own_space)
    supernet, simplex_net, space = coded.supernet, coded.simplex_net, coded.supernet.space
    generator = named_generator(record.settings.seed, "analysis")
    paths = [space.sample(generator) for _ in range(PATHS_FOR_SPECTRUM)]
    codes = simplex_net(paths).detach()
    factors = dictionary_factors(supernet)
    analysis = Analysis(
        epoch=epoch,
        epochs=record.settings.training.epochs,
        codes=coded.report(record.settings.seed),
        layers={name: spectrum(codes, {name: factor}) for name, factor in factors.items()},
        distances=code_distances(simplex_net, space, generator),
    )
    shown = sorted(paths[:_CODE_ROWS], key=space.count_macs)
    return analysis, shown, simplex_net(shown).detach()


def _summary(analysis: Analysis) -> dict[str, str]:
    whole = analysis.codes.spectrum
    return {
        "epochs trained": f"{analysis.epoch} of {analysis.epochs}",
        f"rank of the weights of {PATHS_FOR_SPECTRUM} paths": f"{whole.rank} of {len(whole.singular_values)}",
        **code_facts(analysis.codes),
    }


def _to_json(analysis: Analysis) -> str:
    content = {
        "epoch": analysis.epoch,
        "whole": asdict(analysis.codes.spectrum),
        "layers": {name: asdict(layer) for name, layer in analysis.layers.items()},
        "codes": analysis.codes.numbers(),
        "distances": asdict(analysis.distances),
    }
    return strict_json(content, indent=2) + "\n"


def _write(record: RunRecord, analysis: Analysis, shown: list[Architecture], codes: Tensor) -> Path:
    folder = record.path / "analysis"
    with write_errors(folder):
        folder.mkdir(exist_ok=True)
    write_text(folder / "analysis.json", _to_json(analysis))

    values = analysis.codes.spectrum.singular_values
    spectrum_curve = {"all layers": [(index, value / values[0]) for index, value in enumerate(values, start=1)]}
    distance_curves = {
        f"{kind} that differ": list(enumerate(distances, start=1))
        for kind, distances in asdict(analysis.distances).items()
        if distances
    }
    labels = [architecture.short() for architecture in shown]
    figures = [
        Figure(
            "What the weights span",
            f"Singular values of the weights of {PATHS_FOR_SPECTRUM} random paths: only one if all share a weight.",
            curves_chart(spectrum_curve, "number", "singular value, as a share of the first"),
        ),
        Figure("Simplex codes", "Random architectures; digits are their choices.", codes_map(codes, labels)),
        Figure(
            "Codes follow architectures",
            "Random pairs that differ in so many choices of operations, or of widths, and in nothing else.",
            curves_chart(distance_curves, "choices that differ", DISTANCE_LABEL, LEAST_OF_K_SHOT),
        ),
    ]
    heads = ("layer", "rank", "effective rank")
    rows = [(name, str(layer.rank), f"{layer.effective_rank:.3f}") for name, layer in analysis.layers.items()]
    text = page.render(
        "analysis.html",
        title=f"What run {record.name} learned to mix",
        lead=f"{record.settings.shots} weight copies, space {record.settings.space}, seed {record.settings.seed}",
        banner=method_parts.banner(
            code_findings(analysis.codes), f"After {analysis.epoch} of {analysis.epochs} epochs"
        ),
        tiles=_summary(analysis),
        figures=figures,
        layers=Table(heads, rows),
    )
    write_text(folder / "analysis.html", text)
    return folder / "analysis.html"
