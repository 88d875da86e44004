"""What is in the folder of a search, to be used: its history, its front, and its networks."""

from __future__ import annotations

from functools import cached_property
from typing import Any, SupportsIndex

from kshot_ext.nas.api.export import Exported, export
from kshot_ext.nas.api.retrain import retrain
from kshot_ext.nas.api.runs import RetrainedRun, TrainedSupernetRun
from kshot_ext.nas.files import is_there
from kshot_ext.nas.messages import file_name, in_shell, one_line
from kshot_ext.nas.networks.classifier import Classifier
from kshot_ext.nas.runs.results import ConsideredNetwork, RetrainedNetwork, read_run_results
from kshot_ext.nas.runs.run_folder import RETRAINED, RunRecord
from kshot_ext.nas.runs.search_job import SearchJob
from kshot_ext.nas.runs.settings import RunSettings
from kshot_ext.nas.runs.spread import Comparison, Spread
from kshot_ext.nas.runs.trained import evaluated_from, method_of, trained_classifier
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace

_SEARCH = "search"
_EXPECTED = "expected a key, a place in the history, a title, or an Architecture"


class SearchRun(TrainedSupernetRun[RunSettings]):
    """A search: what it evaluated, what it found, and its networks.

    Architectures are named by their place in the :attr:`history` (an int), by their key or the title of a network
    (text), or are an :class:`kshot_ext.nas.spaces.architecture.Architecture`.
    """

    @cached_property
    def results(self) -> dict[str, Any]:
        """The content of ``results.json``, that of older versions in the form of this one.

        Raises:
            RunFolderError: if the run has not ended.
        """
        return self._read("results.json", read_run_results)

    @cached_property
    def history(self) -> tuple[ConsideredNetwork, ...]:
        """Every architecture that was evaluated with the supernet's weights, in order.

        Of a run that has not ended it is what has been evaluated and saved so far.
        """
        if is_there(self.path / "results.json") and self.results["history"]:
            return self._named(self.results["history"])
        return self._history_of_checkpoint()

    @cached_property
    def front(self) -> tuple[ConsideredNetwork, ...]:
        """Those of the history that no other beats in score and costs, cheapest first."""
        return self._named(self.results["front"])

    @cached_property
    def networks(self) -> tuple[RetrainedNetwork, ...]:
        """All networks that were trained from scratch: those that were selected, the winner first, then its rivals."""
        return tuple(map(RetrainedNetwork.from_json, (*self.results["networks"], *self.results["rivals"])))

    @property
    def winner(self) -> RetrainedNetwork:
        """The best of those that were selected."""
        return self.networks[0]

    @property
    def rivals(self) -> tuple[RetrainedNetwork, ...]:
        """The random networks that the winner is compared with."""
        return self.networks[len(self.results["networks"]) :]

    @property
    def comparison(self) -> Comparison | None:
        """The winner beside its rivals: means and standard deviations of test accuracies; None without rivals."""
        if not self.rivals:
            return None
        rivals = Spread.of([rival.test_accuracy for rival in self.rivals])
        return Comparison(Spread.of(self.winner.test_accuracies), rivals)

    def architecture(self, which: int | str | Architecture) -> Architecture:
        """The architecture that is meant.

        Args:
            which: its place in the history, its key, the title of a network (``"winner"``, ``"random-2"``), or itself.
                Digits are a key if they are as many as one has, else a place in the history.

        Raises:
            ValueError: if there is none, saying what there is.
        """
        if isinstance(which, Architecture):
            return which
        if isinstance(which, str):
            titled = {network.title: network for network in self._trained()}
            if which in titled:
                return titled[which].architecture
            by_key = {network.key: network.architecture for network in self.history}
            if which in by_key:
                return by_key[which]
            if not (which.isascii() and which.isdigit() and len(which) != self._result_space.num_layers):
                return self._parsed(which)
        elif isinstance(which, bool) or not isinstance(which, SupportsIndex):
            raise ValueError(f"architecture: {_EXPECTED}, got {which!r}")
        number, history = int(which), self.history
        if not 0 <= number < len(history):
            raise ValueError(
                f"architecture: expected one of the {len(history)} that were evaluated, from 0, or a key, got {which!r}"
            )
        return history[number].architecture

    def network(self, which: int | str | Architecture = "winner", weights: str | None = None) -> Classifier:
        """A network of the run, from images to scores of classes, in evaluation mode.

        Args:
            which: see :meth:`architecture`.
            weights: ``"trained"`` for those of training from scratch, by the search, else by :meth:`retrain` in a
                folder inside the run's; ``"inherited"`` for the supernet's, with batch-norm statistics measured on
                training images; None for trained ones where there are any. The result's ``weights`` says which it has.

        Returns:
            A module that takes uint8 images ``[N, C, H, W]``; its ``network`` is the plain network, which takes
            normalised ones.

        Raises:
            ValueError: if there is no such architecture, it has not been trained from scratch, or only after the
                search, and several times.
            RunFolderError: if the images are not those of the run, which inherited weights need.
        """
        if weights not in (None, "trained", "inherited"):
            raise ValueError(f"weights: expected trained or inherited, got {weights!r}")
        architecture = self.architecture(which)
        trained = {network.architecture: network.title for network in reversed(self._trained())}
        if isinstance(which, str) and which in trained.values():
            trained[architecture] = which
        if weights == "inherited":
            return self._inherited(architecture)
        if architecture in trained:
            return self._of_training(trained[architecture], architecture)
        later = [run for run in self.retrained if run.settings.chosen == architecture]
        if len(later) > 1:
            folders = ", ".join(str(run.path) for run in later)
            raise ValueError(
                f"weights: {architecture.short()} was trained {len(later)} times after the search; expected one of "
                f"these folders as the run: {folders}; or inherited weights"
            )
        if later:
            return later[0].network()
        if weights is None:
            return self._inherited(architecture)
        raise ValueError(
            f"weights: {architecture.short()} has not been trained from scratch; do it by kshot-ext retrain "
            f"{in_shell(self.path)} --architecture {architecture.short()}, or run.retrain, or take inherited ones"
        )

    def retrain(self, which: int | str | Architecture = "winner", **options: Any) -> RetrainedRun:
        """Train a network of the run from scratch, in a folder of its own.

        Args:
            which: see :meth:`architecture`.
            **options: see :func:`kshot_ext.nas.api.retrain.retrain`.
        """
        folder = retrain(self, which, **options)
        return RetrainedRun(RunRecord(folder), self._source, self._space)

    def export(self, which: int | str | Architecture = "winner", **options: Any) -> Exported:
        """Write a network of the run with its preprocessing as a file that needs neither this package nor a pickle.

        Args:
            which: see :meth:`architecture`.
            **options: see :func:`kshot_ext.nas.api.export.export`.
        """
        titles = {network.title for network in self._trained()}
        name = which if isinstance(which, str) and which in titles else self.architecture(which).short()
        weights = options.pop("weights", None)
        options.setdefault("out", self.path / "export" / file_name(name))
        return export(self.network(which, weights), **options)

    @property
    def retrained(self) -> tuple[RetrainedRun, ...]:
        """The networks that were trained from scratch after the run, in folders inside its own."""
        folders = sorted(path.parent for path in (self.path / RETRAINED).glob("*/results.json"))
        return tuple(RetrainedRun(RunRecord(folder), self._source, self._space) for folder in folders)

    def _trained(self) -> tuple[RetrainedNetwork, ...]:
        """Networks of a run that has ended; none of another."""
        return self.networks if is_there(self.path / "results.json") else ()

    def _parsed(self, key: str) -> Architecture:
        for read in (Architecture.from_short, self._result_space.from_key):
            try:
                architecture = read(key)
                self._result_space.validate(architecture)
                return architecture
            except ValueError as error:
                refused = error
        again = f"the run has not ended; go on with it by kshot-ext search --resume {in_shell(self.path)}"
        titles = ", ".join(network.title for network in self._trained()) or f"none yet: {again}"
        raise ValueError(
            f"architecture: expected a key, a place in the history of {len(self.history)}, or a title ({titles}), "
            f"got {key!r} ({one_line(refused)})"
        )

    def _named(self, networks: list[dict[str, Any]]) -> tuple[ConsideredNetwork, ...]:
        return self._read("results.json", lambda _: tuple(map(ConsideredNetwork.from_json, networks)))

    def _history_of_checkpoint(self) -> tuple[ConsideredNetwork, ...]:
        checkpoint = self._record.load_checkpoint(_SEARCH)
        if checkpoint is None or "archive" not in checkpoint.state:
            return ()
        space, score = self._result_space, self.settings.evaluation.score
        rows = enumerate(checkpoint.state["archive"]["results"])
        return tuple(ConsideredNetwork.of(number, evaluated_from(row, space, score), space) for number, row in rows)

    def _of_training(self, title: str, architecture: Architecture) -> Classifier:
        return trained_classifier(
            self._record, self._read("architecture.json"), self._result_space, f"retrain-{title}", architecture
        )

    @cached_property
    def _result_space(self) -> SearchSpace:
        self._check_space_given()
        return method_of(self._record).result_space

    @cached_property
    def job(self) -> SearchJob:
        """The run's job, ready to train on its images."""
        self._check_space_given()
        return SearchJob(self.settings, self._images())

    @cached_property
    def _job(self) -> SearchJob:
        self.job.restore(self._record)
        return self.job
