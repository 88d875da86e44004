"""The training of one architecture of a search from scratch, in a folder of its own.

It is a run of its own kind: its settings are those of the search, so that images, space and training are the same, and
the architecture. It can be gone on with, and needs nothing of the search's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.progress import ConsoleProgress
from kshot_ext.nas.runs.callbacks import SILENT, Callbacks
from kshot_ext.nas.runs.metrics import MetricsLog
from kshot_ext.nas.runs.results import RetrainedNetwork
from kshot_ext.nas.runs.run_folder import RunFolder
from kshot_ext.nas.runs.search_job import SearchJob
from kshot_ext.nas.runs.settings import RetrainRunSettings
from kshot_ext.nas.runs.stages import RetrainStage, run_stage

RETRAINING = "retrain-network"
"""Name of the one stage."""


def run_retraining(
    job: SearchJob,
    settings: RetrainRunSettings,
    scores: Scores,
    folder: RunFolder[RetrainRunSettings],
    metrics: MetricsLog,
    progress: ConsoleProgress,
    callbacks: Callbacks = SILENT,
) -> tuple[RetrainedNetwork, nn.Module, Mapping[str, Any]]:
    """Train, or do what is left of it; a checkpoint follows every epoch.

    Args:
        job: of the search's settings and images.
        settings: which architecture, and the seed of its training.
        scores: of the architecture with the supernet's weights.
        folder: where checkpoints are and go.
        metrics: where each epoch's numbers go.
        progress: where they are shown.
        callbacks: told of each epoch.

    Returns:
        The network as it is described, itself, and the seconds of its stage.
    """
    architecture = settings.chosen
    purpose = f"{architecture.short()}, seed {settings.training_seed}"
    trainer = job.retraining(purpose, architecture, settings.retrain)
    seconds = run_stage(RetrainStage("network", trainer), folder, metrics, progress, callbacks)
    described = job.describe("retrained", architecture, [trainer], scores)
    return described, trainer.network, {RETRAINING: seconds}
