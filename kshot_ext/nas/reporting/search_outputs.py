"""The files that a finished run leaves for its user."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kshot_ext.nas.extras import require
from kshot_ext.nas.files import atomic_path, write_bytes, write_text
from kshot_ext.nas.messages import one_line
from kshot_ext.nas.ranking.rank_correlation import RankCorrelation, rank_correlation
from kshot_ext.nas.reporting import plots
from kshot_ext.nas.reporting.code_pictures import CODE_ROWS, draw_codes
from kshot_ext.nas.reporting.page import Picture
from kshot_ext.nas.reporting.report import render_report, shown_correlation
from kshot_ext.nas.runs.results import RunResult
from kshot_ext.nas.runs.run_folder import RunFolder
from kshot_ext.nas.runs.search_job import SearchJob
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.runs.state_file import safetensors_errors
from kshot_ext.nas.search.pareto import Evaluated
from kshot_ext.nas.strict_json import strict_json
from kshot_ext.nas.tables import as_table, flatten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OUTPUTS = (
    *("architecture.json", "results.json", "model.pt", "model.safetensors", "report.html"),
    *("architecture.png", "search.png", "loss.png", "codes.png", "ranking.png"),
)
"""Names of the files that `write_outputs` leaves in the run folder."""

_TIMED = 12
_TRAINED = {"supernet": "supernet", "retrain-winner": "winner", "retrain-random": "random"}


def rehearse_outputs(job: SearchJob) -> None:
    """Bring to light before the work what would keep its results from being written.

    Raises:
        ValueError: if the networks of the space cannot be saved.
        OSError: if there is no room for temporary files.
    """
    plots.rehearse()
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
    network: nn.Module,
    records: Sequence[Mapping[str, Any]],
) -> Path:
    """Write the found network, the results, the figures and the report.

    Args:
        folder: the run folder.
        data_name: what the images are called.
        job: the finished job.
        result: what it found.
        network: the winner, trained from scratch.
        records: lines of ``metrics.jsonl``.

    Returns:
        Path of ``report.html``.
    """
    path = folder.path
    write_text(path / "architecture.json", _to_json(_network_card(data_name, job, result)))
    results = {
        "run": folder.card.run,
        **asdict(result),
        "codes": None if result.codes is None else result.codes.numbers(),
    }
    write_text(path / "results.json", _to_json(results))
    _save_network(network, path)
    pictures = _draw(path, job, result, records)
    correlation = None
    if job.truth is not None:
        correlation, picture = _compare_with_truth(path, job)
        pictures += picture
    page = render_report(
        f"Architecture search on {data_name}",
        _facts(data_name, job),
        result,
        job.search.pareto_front,
        pictures,
        flatten(as_table(job.settings)),
        correlation,
    )
    write_text(path / "report.html", page)
    return path / "report.html"


def _save_network(network: nn.Module, folder: Path) -> None:
    network = network.cpu().eval()
    file = io.BytesIO()  # torch writes files itself, with errors of its own when a disk is full
    torch.save(network, file)
    write_bytes(folder / "model.pt", file.getvalue())
    with atomic_path(folder / "model.safetensors") as temporary, safetensors_errors():
        require("safetensors.torch").save_model(network, temporary)


def _to_json(values: Mapping[str, Any]) -> str:
    return strict_json(values, indent=2, ensure_ascii=False) + "\n"


def _network_card(data_name: str, job: SearchJob, result: RunResult) -> dict[str, Any]:
    """Describe the network so that it can be built again, and fed with new images."""
    winner, splits = result.winner, job.splits
    return {
        "space": job.space.name,
        "channels": job.settings.channels,
        "operations": winner.architecture.operations,
        "operation_names": winner.operations,
        "widths": winner.architecture.widths,
        "width_ratios": winner.widths,
        "macs": winner.macs,
        "parameters": winner.parameters,
        "test_accuracy": winner.test_accuracy,
        "data": data_name,
        "class_names": splits.class_names,
        "input": {
            "shape": splits.image_shape,
            "mean": splits.mean.tolist(),
            "std": splits.std.tolist(),
            "note": "pixels divided by 255, then minus mean, then divided by std, per channel",
        },
    }


def _draw(folder: Path, job: SearchJob, result: RunResult, records: Sequence[Mapping[str, Any]]) -> list[Picture]:
    def picture(name: str, figure: Figure, heading: str, caption: str) -> Picture:
        return Picture(plots.save_png(figure, folder / f"{name}.png"), heading, caption)

    operation_names = dict.fromkeys(name for i in range(job.space.num_layers) for name in job.space.operations(i))
    return [
        picture(
            "architecture",
            plots.draw_architectures(result.networks, list(operation_names)),
            "Architectures",
            "Operation of each searched layer, from the image on the left to the classes on the right.",
        ),
        picture(
            "search",
            plots.plot_search(job.archive.history, job.search.pareto_front, result),
            "Search",
            "Every architecture that the search evaluated with the supernet's weights.",
        ),
        picture(
            "loss",
            plots.plot_losses(records, _TRAINED),
            "Training",
            "Loss of the supernet's sampled paths, and of both networks trained from scratch.",
        ),
        *draw_codes(folder, job.method.coded, [item.architecture for item in _evenly_by_cost(job.archive.history)]),
    ]


def _compare_with_truth(folder: Path, job: SearchJob) -> tuple[RankCorrelation | None, list[Picture]]:
    """How the search's scores rank the architectures that the table knows; nothing if it knows fewer than two."""
    known = [item for item in job.archive.history if item.architecture in job.truth]
    if len(known) < 2:
        return None, []
    truth, score = [job.truth[item.architecture] for item in known], job.settings.evaluation.score
    correlation = rank_correlation(truth, [item.merit for item in known])
    tau = shown_correlation(correlation.kendall_tau)
    legend = f"{len(known)} architectures, Kendall's tau {tau}"
    figure = plots.plot_ranking(truth, [item.scores for item in known], score, legend)
    png = plots.save_png(figure, folder / "ranking.png")
    caption = "The architectures of the search that the table of results knows; a search's choice, no random sample."
    return correlation, [Picture(png, "Ranking", caption)]


def _evenly_by_cost(history: Sequence[Evaluated], count: int = CODE_ROWS) -> list[Evaluated]:
    ordered = sorted(history, key=lambda item: item.macs)
    picks = torch.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().long()
    return [ordered[index] for index in picks.tolist()]


def _facts(data_name: str, job: SearchJob) -> dict[str, str]:
    splits, settings = job.splits, job.settings
    sizes = f"{len(splits.train):,} / {len(splits.validation):,} / {len(splits.test):,}"
    shape = "x".join(map(str, splits.image_shape))
    facts = {
        "data": f"{data_name}, {splits.num_classes} classes of {shape} images",
        "images": f"{sizes} for training / validation / test",
        "space": job.space.name,
        "method": f"method {settings.method.name}",
        "shots": f"{settings.shots} weight copies",
        "budget": f"budget {settings.budget} = {job.max_macs:,} multiply-accumulates for one image",
        "score": f"chosen by {settings.evaluation.score} on validation images",
        "seed": f"seed {settings.seed}",
    }
    if splits.notes:
        facts["notes on the data"] = "; ".join(splits.notes)
    if job.latency_table is not None:
        error = job.latency_table.error([item.architecture for item in _evenly_by_cost(job.archive.history, _TIMED)])
        facts["latency"] = (
            f"latency predicted from timed parts, {error.mean:.1%} off on average "
            f"(at worst {error.worst:.1%}) for {error.networks} whole networks"
        )
    return facts
