"""What is in a run folder, to be used: what all runs have, and those of rankings and of trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Generic

from kshot_ext.nas.api.export import Exported, export
from kshot_ext.nas.datasets import ImageSource
from kshot_ext.nas.datasets.source import Part
from kshot_ext.nas.datasets.splits import DataSplits
from kshot_ext.nas.files import is_there, read_json
from kshot_ext.nas.messages import file_name, in_shell, one_line
from kshot_ext.nas.networks.classifier import Classifier, Preprocessing
from kshot_ext.nas.networks.coded_supernet import InheritedNetworks
from kshot_ext.nas.own_classes import is_own, with_absolute_path
from kshot_ext.nas.progress import ConsoleProgress, new_console
from kshot_ext.nas.ranking.rank_job import RankJob
from kshot_ext.nas.runs.metrics import read_records
from kshot_ext.nas.runs.results import RetrainedNetwork, read_run_results
from kshot_ext.nas.runs.results_file import read_results
from kshot_ext.nas.runs.retraining import RETRAINING
from kshot_ext.nas.runs.run_folder import RunFolderError, RunRecord
from kshot_ext.nas.runs.settings import AnySettings, RankSettings, RetrainRunSettings
from kshot_ext.nas.runs.supernet_job import SupernetJob, load_data
from kshot_ext.nas.runs.trained import method_of, trained_classifier
from kshot_ext.nas.spaces.architecture import Architecture


class Run(Generic[AnySettings]):
    """What all runs have in common.

    Args:
        record: of the folder.
        source: images that no setting can name; None for those that the settings name.
        space: name of the run's own space, if it was given.

    Attributes:
        path: the folder.
        settings: what the run was told.
        card: its identity, and the shape of its images.
    """

    def __init__(self, record: RunRecord[AnySettings], source: ImageSource | None, space: str | None) -> None:
        self._record = record
        self._source = source
        self._space = space
        self.path = record.path
        self.settings = record.settings
        self.card = record.card

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``: numbers of every epoch and generation."""
        return read_records(self.path / "metrics.jsonl").records

    def _read(self, name: str, read: Callable[[Path], Any] = read_json) -> Any:
        """The content of a file of results.

        Raises:
            RunFolderError: if it is not there, or damaged.
        """
        path = self.path / name
        again = f"kshot-ext {self.card.command} --resume {in_shell(self.path)}"
        try:
            if not is_there(path):
                raise RunFolderError(f"{path}: the run has not ended; go on with it by {again}")
            return read(path)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise RunFolderError(f"{path}: damaged results ({one_line(error)}); make them again by {again}") from error

    def _check_space_given(self) -> None:
        """Refuse to run a file that only the run's own settings name."""
        named = self.settings.space
        if is_own(named) and (self._space is None or with_absolute_path(self._space) != named):
            raise RunFolderError(f"{self.path}: expected space={named!r}, as this runs that code")

    def _images(self, held_out: Mapping[Any, float] | None = None) -> DataSplits:
        """The run's images, checked to be those that it began with."""
        options = {} if held_out is None else {"held_out": held_out}
        _, splits = load_data(self.settings, ConsoleProgress(new_console(quiet=True)), source=self._source, **options)
        try:
            self.card.check_continues(self.settings, splits)
        except ValueError as error:
            raise RunFolderError(f"{self.path}: {error}") from error
        return splits


class TrainedSupernetRun(Run[AnySettings]):
    """A run that has trained a supernet."""

    @cached_property
    def _job(self) -> SupernetJob:
        """The run's job with the weights of its last checkpoint."""
        raise NotImplementedError

    def supernet(self) -> InheritedNetworks:
        """The networks of the space with the weights that training has left them so far.

        ``with run.supernet().network(architecture) as network`` gives the supernet's own modules; of K-shot methods the
        attributes ``supernet`` and ``simplex_net`` are the two parts. This reads the images.

        Raises:
            RunFolderError: if no epoch of training is saved yet, or the images are not those of the run.
        """
        return self._job.method.networks

    def _inherited(self, architecture: Architecture) -> Classifier:
        job = self._job
        space, splits = job.method.result_space, job.splits
        space.validate(architecture)
        resize = self.settings.image_size is not None
        statistics = splits.mean.tolist(), splits.std.tolist()
        preprocessing = Preprocessing(splits.image_shape, *statistics, resize, splits.test.dtype)
        return Classifier(job.inherited(architecture), preprocessing, splits.class_names, "inherited")


class RankRun(TrainedSupernetRun[RankSettings]):
    """A ranking: how a supernet ranks architectures whose accuracies a table knows."""

    @property
    def results(self) -> dict[str, Any]:
        """The run's entry in ``ranking.json``: rank correlations, and what they are of.

        Raises:
            RunFolderError: if the run has not ended.
        """
        return self._read("ranking.json", lambda path: read_results(path)[0])

    @property
    def evaluated(self) -> list[dict[str, Any]]:
        """Key, accuracy in the table, scores and cost of every architecture that was evaluated."""
        return self._read("evaluated.json")

    def network(self, which: str | Architecture) -> Classifier:
        """The network of an architecture, given as such or by its key, with inherited weights.

        Raises:
            ValueError: if there is no such architecture.
            RunFolderError: as of :meth:`supernet`.
        """
        if not isinstance(which, (str, Architecture)):
            raise ValueError(f"architecture: expected a key or an Architecture, got {which!r}")
        architecture = Architecture.from_short(which) if isinstance(which, str) else which
        return self._inherited(architecture)

    @cached_property
    def _job(self) -> RankJob:
        self._check_space_given()
        job = RankJob(self.settings, self._images({Part.VALIDATION: self.settings.held_out}))
        job.restore(self._record)
        return job


class RetrainedRun(Run[RetrainRunSettings]):
    """One architecture that was trained from scratch after a search."""

    @property
    def described(self) -> RetrainedNetwork:
        """What it is and what it reached.

        Raises:
            RunFolderError: if the training has not ended.
        """
        return self._read("results.json", lambda path: RetrainedNetwork.from_json(read_run_results(path)["winner"]))

    def network(self) -> Classifier:
        """The trained network, from uint8 images to scores of classes."""
        self._check_space_given()
        space = method_of(self._record).result_space
        architecture = self.settings.chosen
        return trained_classifier(self._record, self._read("architecture.json"), space, RETRAINING, architecture)

    def export(self, **options: Any) -> Exported:
        """Write the trained network with its preprocessing as a file.

        Args:
            **options: see :func:`kshot_ext.nas.api.export.export`; ``out`` is inside the run's folder by default.
        """
        options.setdefault("out", self.path / "export" / file_name(self.settings.chosen.short()))
        return export(self.network(), **options)
