"""The evaluation of many architectures, a few between two checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.ranking.ranking import Ranking
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace


@pytest.fixture
def paths(tiny_space: SearchSpace) -> list[Architecture]:
    generator = torch.Generator().manual_seed(0)
    return [tiny_space.sample(generator) for _ in range(25)]


def _scores(path: Architecture) -> Scores:
    return Scores(0.5, float(sum(path.operations)))


class _Asked:
    """A `map` that knows what it was asked for, and how far it got."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.evaluated = 0

    def __call__(self, function: Callable[[Architecture], Scores], paths: Sequence[Architecture]) -> Iterator[Scores]:
        self.calls.append(len(paths))
        for path in paths:
            self.evaluated += 1
            yield function(path)


def test_all_that_is_left_is_asked_for_at_once_and_taken_step_by_step(paths: list[Architecture]) -> None:
    """So workers, be they more than a step has architectures, never wait for its end."""
    asked = _Asked()
    ranking = Ranking(paths, _scores, asked)
    assert ranking.num_steps == 3
    for done, evaluated in ((1, 10), (2, 20), (3, 25)):
        moves: list[float] = []
        ranking.step(moves.append)
        assert (ranking.steps_done, len(ranking.scores), asked.evaluated) == (done, evaluated, evaluated)
        assert moves == [number / 10 for number in range(10 * done - 9, evaluated + 1)]
    assert asked.calls == [25]
    assert ranking.scores == [_scores(path) for path in paths]


def test_a_ranking_that_goes_on_asks_for_the_rest(paths: list[Architecture]) -> None:
    begun, asked = Ranking(paths, _scores), _Asked()
    begun.step(lambda _: None)
    state = begun.state_dict()
    ranking = Ranking(paths, _scores, asked)
    ranking.step(lambda _: None)
    ranking.load_state_dict(state)
    while ranking.steps_done < ranking.num_steps:
        ranking.step(lambda _: None)
    assert asked.calls == [25, 15]
    assert ranking.scores == [_scores(path) for path in paths]
