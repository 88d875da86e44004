"""What an archive takes in, refuses, and hands out."""

from collections import Counter

import pytest

from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.bit_widths import parse_bits
from kshot_ext.nas.spaces.limits import SearchLimits


def evaluate(architecture):
    return Scores(0.5, 10.0 - sum(architecture.operations))


LIGHT, MIDDLE, HEAVY = (Architecture((operation,) * 8) for operation in range(3))


def test_nothing_is_evaluated_twice_and_results_come_in_the_order_asked(tiny_space):
    calls, moves = Counter(), []
    archive = Archive(lambda a: calls.update([a]) or evaluate(a), tiny_space, SearchLimits())
    with archive.listening(lambda result: moves.append((len(archive), result.architecture))):
        archive.evaluate([MIDDLE])
        results = archive.evaluate([LIGHT, MIDDLE, LIGHT])
    archive.evaluate([HEAVY])  # which nobody listens to
    assert [result.architecture for result in results] == [LIGHT, MIDDLE, LIGHT]
    assert calls == {MIDDLE: 1, LIGHT: 1, HEAVY: 1}
    assert [result.architecture for result in archive.history] == [MIDDLE, LIGHT, HEAVY]
    assert moves == [(1, MIDDLE), (2, LIGHT)]
    assert (MIDDLE in archive, Architecture((0, 1) * 4) in archive, len(archive)) == (True, False, 3)
    assert archive[LIGHT].scores == Scores(0.5, 10.0)
    assert archive.best.architecture == HEAVY


def test_an_architecture_beyond_the_limits_is_refused_and_none_is_evaluated(tiny_space):
    limits = SearchLimits(tiny_space.count_macs(HEAVY) - 1)
    archive = Archive(evaluate, tiny_space, limits)
    with pytest.raises(ValueError, match=r"at most .* multiply-accumulates, got 22222222; repair\(\) it first"):
        archive.evaluate([LIGHT, HEAVY])
    assert len(archive) == 0
    repaired = archive.repair(HEAVY)
    archive.evaluate([repaired])
    assert tiny_space.count_macs(archive.best.architecture) <= limits.max_macs


def test_distinct_ones_are_new_legal_and_no_more_than_asked_for(tiny_space, seeded):
    limits = SearchLimits(tiny_space.count_macs(MIDDLE))
    archive = Archive(evaluate, tiny_space, limits, seeded(0))
    archive.evaluate([LIGHT])
    drawn = iter([LIGHT, MIDDLE, MIDDLE, Architecture((1, 0, 0, 0, 0, 0, 0, 0)), HEAVY, HEAVY])
    found = archive.distinct(lambda: next(drawn), 2, besides={MIDDLE})
    assert found[0] == Architecture((1, 0, 0, 0, 0, 0, 0, 0))
    assert all(limits.admit(tiny_space, architecture) for architecture in found)
    assert len(set(found)) == 2
    assert not {LIGHT, MIDDLE, HEAVY} & set(found)
    assert archive.distinct(lambda: LIGHT, 3) == []
    assert archive.random(0) == []


def test_of_equals_the_cheapest_come_first():
    """Of equal multiply-accumulates those of fewer bit operations."""
    options = {"image_shape": (1, 8, 8), "num_classes": 3, "channels": 2, "bits": parse_bits("w2a2,w4a4")}
    space = create_space("nas-bench-macro", **options)
    archive = Archive(lambda a: Scores(0.5, 1.0), space, SearchLimits())
    [few, many] = (space.operations(0).index(f"mb3_k3@{bits}") for bits in ("w2a2", "w4a4"))
    cheapest = space.cheapest()
    ordered = [cheapest, cheapest.with_operation(0, few), cheapest.with_operation(0, many), space.largest()]
    archive.evaluate([ordered[2], ordered[3], ordered[0], ordered[1]])
    assert [result.architecture for result in archive.best_first()] == ordered
    assert archive[ordered[1]].macs == archive[ordered[2]].macs


def test_its_generator_decides_what_is_random_and_goes_on(tiny_space, seeded):
    one, other = (Archive(evaluate, tiny_space, SearchLimits(), seeded(seed)) for seed in (4, 5))
    assert one.random(3) != other.random(3)
    one.evaluate(one.random(3))
    other.evaluate(other.random(2))
    other.load_state_dict(one.state_dict())
    assert other.history == one.history
    assert other.random(3) == one.random(3)


def test_before_an_evaluation_there_is_no_best(tiny_space):
    with pytest.raises(RuntimeError, match="nothing has been evaluated yet"):
        _ = Archive(evaluate, tiny_space, SearchLimits()).best
