"""One generation of NSGA-II at a time, by pymoo.

pymoo's own algorithm object can only be kept by pickling it. Here each generation is rebuilt from its parents
and a seed, so that a search stores nothing but architectures and scores.
Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.individual import Individual
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.ux import UniformCrossover

Genes = tuple[int, ...]


class Generation:
    """One generation: parents in, children out, then the children's objectives in and the survivors out.

    Args:
        parents: genes of the population, one choice per layer and per width.
        objectives: float64 ``[P, M]``, all to be minimised.
        num_children: how many children at most.
        num_choices: number of choices of each gene.
        repair: makes a child legal.
        is_known: whether a child needs no evaluation any more, and so is not wanted.
        mutation_probability: chance of each gene to be drawn anew.
        seed: of all random choices of this generation.
    """

    def __init__(
        self,
        parents: Sequence[Genes],
        objectives: NDArray[np.float64],
        *,
        num_children: int,
        num_choices: Sequence[int],
        repair: Callable[[Genes], Genes],
        is_known: Callable[[Genes], bool],
        mutation_probability: float,
        seed: int,
    ) -> None:
        upper = np.array(num_choices) - 1
        problem = Problem(n_var=len(upper), n_obj=objectives.shape[1], xl=0 * upper, xu=upper, vtype=int)
        self._algorithm = NSGA2(
            pop_size=len(parents),
            n_offsprings=num_children,
            sampling=_evaluated(Population.new(X=np.array(parents)), objectives),
            crossover=UniformCrossover(),
            mutation=_RandomChoice(mutation_probability),
            repair=_RepairEach(repair),
            eliminate_duplicates=_DropKnown(is_known),
        ).setup(problem, seed=seed, termination=NoTermination())
        self._algorithm.tell(infills=self._algorithm.ask())
        self._children: Population | None = None

    def children(self) -> list[Genes]:
        """New genes, all different; none if the legal ones are used up."""
        self._children = self._algorithm.ask()
        return [] if self._children is None else [_genes(child) for child in self._children]

    def survivors(self, objectives: NDArray[np.float64]) -> list[Genes]:
        """The next population: the best fronts of parents and children, the last one thinned by crowding.

        Args:
            objectives: float64 ``[number of children, M]``.
        """
        self._algorithm.tell(infills=_evaluated(self._children, objectives))
        return [_genes(survivor) for survivor in self._algorithm.pop]


class _RandomChoice(Mutation):
    """Draws each gene anew with a given probability."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def _do(self, problem, X, random_state=None, **kwargs):
        fresh = random_state.integers(problem.xl, problem.xu, size=X.shape, endpoint=True)
        return np.where(random_state.random(X.shape) < self.probability, fresh, X)


class _RepairEach(Repair):
    """Applies a function to the genes of each child."""

    def __init__(self, repair: Callable[[Genes], Genes]) -> None:
        super().__init__()
        self.repair_genes = repair  # pymoo's operators have a `repair` of their own

    def _do(self, problem, X, **kwargs):
        return np.array([self.repair_genes(tuple(row.tolist())) for row in X])


class _DropKnown(DuplicateElimination):
    """Drops children that are evaluated already or appear twice; parents, all known, stay."""

    def __init__(self, is_known: Callable[[Genes], bool]) -> None:
        super().__init__()
        self.is_known = is_known

    def do(self, pop, *others, **kwargs):
        seen = {_genes(individual) for other in others for individual in other}
        kept = []
        for index, individual in enumerate(pop):
            genes = _genes(individual)
            if genes in seen or (not individual.evaluated and self.is_known(genes)):
                continue
            seen.add(genes)
            kept.append(index)
        return pop[kept]


def _genes(individual: Individual) -> Genes:
    return tuple(individual.X.tolist())


def _evaluated(population: Population, objectives: NDArray[np.float64]) -> Population:
    population.set("F", objectives)
    for individual in population:
        individual.evaluated.add("F")
    return population
