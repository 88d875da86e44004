"""Tree-structured Parzen estimator: choices that are frequent among good architectures and rare among others.

For each choice, with l(z) its density over the best tenth of what is known (25 at most) and g(z) over the rest,
candidates are drawn from l, and that of the largest l(z) / g(z) is taken; optuna does it.
Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kshot_ext.nas.extras import require
from kshot_ext.nas.randomness import draw_seed
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.pareto import Evaluated
from kshot_ext.nas.searchers.searcher import Searcher
from kshot_ext.nas.spaces.architecture import Architecture

_TRIES_PER_ARCHITECTURE = 5  # a proposal takes milliseconds


class TreeStructuredParzenEstimator(Searcher):
    """Models each choice on its own, by the archive; costs count through its limits only.

    What is proposed and not scored yet counts as bad, so that the architectures of one call differ. Where the model
    proposes nothing new any more, random ones fill up.

    Raises:
        MissingExtraError: if optuna is not installed.
    """

    def __init__(self) -> None:
        self._optuna = require("optuna", extra="tpe")

    def ask(self, archive: Archive, count: int) -> list[Architecture]:
        optuna = self._optuna
        choices = {
            str(gene): optuna.distributions.CategoricalDistribution(range(number))
            for gene, number in enumerate(archive.space.num_choices)
        }
        with _quietly(optuna):
            sampler = optuna.samplers.TPESampler(
                seed=draw_seed(archive.generator), multivariate=False, constant_liar=True
            )
            study = optuna.create_study(sampler=sampler)
            study.add_trials([self._trial(archive, result, choices) for result in archive.history])

            def propose() -> Architecture:
                params = study.ask(choices).params
                return archive.space.from_genes([params[gene] for gene in choices])

            proposed = archive.distinct(propose, count, tries=_TRIES_PER_ARCHITECTURE)
        return proposed + archive.random(count - len(proposed), besides=set(proposed))

    def _trial(self, archive: Archive, result: Evaluated, choices: Mapping[str, Any]) -> Any:
        """What optuna is told of an evaluated architecture: its choices, and what is to be made small."""
        params = dict(zip(choices, archive.space.genes(result.architecture)))
        return self._optuna.trial.create_trial(params=params, distributions=choices, value=-result.merit)


@contextmanager
def _quietly(optuna: Any) -> Iterator[None]:
    """Inside the context optuna neither reports on its study nor warns of what it calls experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
