"""The files that a finished run leaves for its user."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kshot_ext.nas.extras import require
from kshot_ext.nas.files import atomic_path, write_bytes, write_text
from kshot_ext.nas.findings import Figure
from kshot_ext.nas.messages import in_shell, one_line
from kshot_ext.nas.ranking.rank_correlation import RankCorrelation, rank_correlation
from kshot_ext.nas.reporting import method_parts, page, plots
from kshot_ext.nas.reporting.architectures import catalogue, choices_legend
from kshot_ext.nas.reporting.report import ReportFigures, render_report, shown_correlation
from kshot_ext.nas.runs.results import RetrainedNetwork, RunResult
from kshot_ext.nas.runs.run_folder import RunFolder
from kshot_ext.nas.runs.search_job import SearchJob
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.runs.state_file import safetensors_errors
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.spaces.bit_width_space import OUTER_BITS, BitWidthSpace
from kshot_ext.nas.strict_json import strict_json
from kshot_ext.nas.tables import as_table, flatten

OUTPUTS = ("architecture.json", "results.json", "model.pt", "model.safetensors", "report.html")
"""Names of the files that `write_outputs` leaves in the run folder; for each network after the first, some more."""

_SPREAD_CAPTION = "A point is a training, a bar the mean minus and plus a standard deviation."
_TIMED = 12
_NORMALISED = "pixels divided by 255, then minus mean, then divided by std, per channel"
_TRANSFORMED = "what the transform of the images gives minus mean, then divided by std, per channel"


def rehearse_outputs(job: SearchJob) -> None:
    """Bring to light before the work what would keep its results from being written.

    Raises:
        ValueError: if the networks of the space cannot be saved.
        OSError: if there is no room for temporary files.
    """
    page.rehearse()
    with tempfile.TemporaryDirectory() as folder:
        try:
            _save_network(job.space.build(job.space.cheapest(), job.generator("rehearsal")), Path(folder))
        except OSError:
            raise
        except Exception as error:  # pickle passes on whatever a class of the user's raises
            raise ValueError(
                f"space: expected networks that torch.save and safetensors can keep, got {type(error).__name__}: "
                f"{one_line(error)}"
            ) from error


def write_outputs(
    folder: RunFolder[RunSettings],
    data_name: str,
    job: SearchJob,
    result: RunResult,
    networks: Sequence[nn.Module],
    records: Sequence[Mapping[str, Any]],
) -> Path:
    """Write the found networks, the results and the report.

    Args:
        folder: the run folder.
        data_name: what the images are called.
        job: the finished job.
        result: what it found.
        networks: those selected, trained from scratch.
        records: lines of ``metrics.jsonl``.

    Returns:
        Path of ``report.html``.
    """
    path = folder.path
    for number, (described, network) in enumerate(zip(result.networks, networks, strict=True), start=1):
        write_network(path, data_name, job, described, network, "" if number == 1 else f"-{number}")
    write_text(path / "results.json", _to_json({"run": folder.card.run, **result.to_json()}))
    correlation, ranking = _compare_with_truth(job, result.considered)
    space = job.method.result_space
    report = render_report(
        f"Architecture search on {data_name}",
        _facts(data_name, job),
        result,
        _figures(job, result, records, ranking),
        catalogue(space, result, f"kshot-ext retrain {in_shell(path)} --architecture"),
        choices_legend(space),
        flatten(as_table(job.settings)),
        method_parts.provenance(folder.card),
        correlation,
    )
    write_text(path / "report.html", report)
    return path / "report.html"


def write_network(
    folder: Path, data_name: str, job: SearchJob, described: RetrainedNetwork, network: nn.Module, suffix: str = ""
) -> None:
    """Write a trained network, and what it is: ``architecture.json``, ``model.pt`` and ``model.safetensors``.

    Args:
        folder: where.
        data_name: what the images are called.
        job: whose space and images they are.
        described: what it is.
        network: it itself.
        suffix: added to the files' names.
    """
    write_text(folder / f"architecture{suffix}.json", _to_json(_network_card(data_name, job, described)))
    _save_network(network, folder, suffix)


def _save_network(network: nn.Module, folder: Path, suffix: str = "") -> None:
    network = network.cpu().eval()
    file = io.BytesIO()  # torch writes files itself, with errors of its own when a disk is full
    torch.save(network, file)
    write_bytes(folder / f"model{suffix}.pt", file.getvalue())
    with atomic_path(folder / f"model{suffix}.safetensors") as temporary, safetensors_errors():
        require("safetensors.torch").save_model(network, temporary)


def _to_json(values: Mapping[str, Any]) -> str:
    return strict_json(values, indent=2, ensure_ascii=False) + "\n"


def _network_card(data_name: str, job: SearchJob, network: RetrainedNetwork) -> dict[str, Any]:
    """Describe a network so that it can be built again, and fed with new images."""
    splits = job.splits
    return {
        "space": job.method.result_space.name,
        "channels": job.settings.channels,
        "operations": network.architecture.operations,
        "operation_names": network.operations,
        "widths": network.architecture.widths,
        "width_ratios": network.widths,
        "macs": network.macs,
        "parameters": network.parameters,
        **_bits_card(job, network),
        "test_accuracy": network.test_accuracy,
        "data": data_name,
        "class_names": splits.class_names,
        "input": {
            "shape": splits.image_shape,
            "dtype": "uint8" if splits.test.dtype == torch.uint8 else "float32",
            "mean": splits.mean.tolist(),
            "std": splits.std.tolist(),
            "note": _NORMALISED if splits.test.dtype == torch.uint8 else _TRANSFORMED,
        },
    }


def _bits_card(job: SearchJob, network: RetrainedNetwork) -> dict[str, Any]:
    """Which bits a network has, and what its files hold; nothing of a network without."""
    space = job.method.result_space
    if not isinstance(space, BitWidthSpace):
        return {}
    return {
        "bit_operations": network.bit_operations,
        "bits": [bits and str(bits) for bits in space.bit_widths(network.architecture)],
        "bits_of_stem_and_head": str(OUTER_BITS),
        "quantisation": "simulated: weights are saved in float32 before they are rounded, and the network in model.pt "
        "rounds them, and each layer's input, to the levels of so many bits when it runs",
    }


def _figures(
    job: SearchJob,
    result: RunResult,
    records: Sequence[Mapping[str, Any]],
    ranking: Sequence[Figure],
) -> ReportFigures:
    considered = result.considered
    trained = {"supernet": "supernet"} | {f"retrain-{network.title}": network.title for network in result.compared}
    architectures = [item.architecture for item in _evenly_by_cost(considered)]
    spread = Figure("Test accuracy", _SPREAD_CAPTION, plots.spread_chart(result))
    search = Figure(
        "Search",
        "Every architecture that was evaluated with the supernet's weights.",
        plots.search_chart(result),
    )
    training = Figure(
        "Training",
        "Loss of the supernet, and of the networks trained from scratch.",
        plots.losses_chart(records, trained),
    )
    own = method_parts.own_figures(job.method.figures(architectures, records))
    return ReportFigures(spread, search if considered else None, [*own, training, *ranking])


def _compare_with_truth(
    job: SearchJob, considered: Sequence[Evaluated]
) -> tuple[RankCorrelation | None, Sequence[Figure]]:
    """How the scores rank the architectures that the table knows; nothing if it knows fewer than two."""
    table = job.truth or {}
    known = [item for item in considered if item.architecture in table]
    if len(known) < 2:
        return None, ()
    truth, score = [table[item.architecture] for item in known], job.settings.evaluation.score
    correlation = rank_correlation(truth, [item.merit for item in known], [item.macs for item in known])
    tau = shown_correlation(correlation.kendall_tau)
    legend = f"{len(known)} architectures, Kendall's tau {tau}"
    chart = plots.ranking_chart(truth, [item.scores for item in known], score, legend)
    caption = "The architectures of the search that the table of results knows; a search's choice, no random sample."
    return correlation, [Figure("Ranking", caption, chart)]


def _bit_budget(job: SearchJob) -> str:
    return f"bit budget {job.settings.bit_budget} = {job.max_bit_operations:,} bit operations for one image"


def _evenly_by_cost(history: Sequence[Evaluated], count: int = method_parts.MOST_ARCHITECTURES) -> list[Evaluated]:
    ordered = sorted(history, key=lambda item: item.macs)
    picks = torch.linspace(0, max(len(ordered) - 1, 0), min(count, len(ordered))).round().long()
    return [ordered[index] for index in picks.tolist()]


def _facts(data_name: str, job: SearchJob) -> dict[str, str]:
    splits, settings = job.splits, job.settings
    sizes = f"{len(splits.train):,} / {len(splits.validation):,} / {len(splits.test):,}"
    shape = "x".join(map(str, splits.image_shape))
    facts = {
        "data": f"{data_name}, {splits.targets_described} of {shape} images",
        "images": f"{sizes} for training / validation / test",
        "space": job.space.name,
        "method": f"method {settings.method.name}",
        "shots": f"K = {settings.shots}",
        "budget": f"budget {settings.budget} = {job.max_macs:,} multiply-accumulates for one image",
        **({} if job.max_bit_operations is None else {"bit budget": _bit_budget(job)}),
        "score": f"chosen by {splits.task.score_name(settings.evaluation.score)} on validation images",
        "seed": f"seed {settings.seed}",
    }
    if splits.notes:
        facts["notes on the data"] = "; ".join(splits.notes)
    if job.latency_table is not None and len(job.archive) > 0:
        error = job.latency_table.error([item.architecture for item in _evenly_by_cost(job.archive.history, _TIMED)])
        facts["latency"] = (
            f"latency predicted from timed parts, {error.mean:.1%} off on average "
            f"(at worst {error.worst:.1%}) for {error.networks} whole networks"
        )
    return facts
