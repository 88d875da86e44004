"""Fronts of known tables."""

from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.searchers.pareto import Evaluated, pareto_front
from kshot_ext.nas.spaces.architecture import Architecture


def test_pareto_front_of_a_known_table():
    path = Architecture((0,))
    table = [(0.5, 10), (0.5, 12), (0.7, 20), (0.6, 30), (0.9, 40), (0.9, 41), (0.4, 10)]
    for score, scores in {"loss": lambda merit: Scores(0, -merit), "accuracy": lambda merit: Scores(merit, 0)}.items():
        front = pareto_front([Evaluated(path, scores(merit), macs, 1, score=score) for merit, macs in table])
        assert [(result.merit, result.macs) for result in front] == [(0.5, 10), (0.7, 20), (0.9, 40)]


def test_pareto_front_over_several_costs():
    path = Architecture((0,))
    rows = [(0.9, 9, 5, 1.0), (0.8, 9, 4, 1.0), (0.8, 9, 6, 0.5), (0.8, 9, 6, 0.7), (0.7, 1, 9, 9.0), (0.6, 9, 9, 9.0)]
    results = [Evaluated(path, Scores(0, -merit), *costs) for merit, *costs in rows]
    front = pareto_front(results, ("macs", "parameters", "latency"))
    assert set(front) == {results[0], results[1], results[2], results[4]}
