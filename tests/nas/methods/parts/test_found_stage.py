"""Selection of what a training has found: scored, best first, and within the limits."""

from __future__ import annotations

from kshot_ext.nas.methods.parts.found_stage import FoundStage
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.limits import SearchLimits


def made(space, found, most=None):
    archive = Archive(lambda path: Scores(0.5, float(sum(path.operations))), space, SearchLimits(most))
    return FoundStage(archive, lambda: found)


def found_by(stage):
    return tuple(result.architecture for result in stage.work.results)


def test_what_was_found_is_scored_and_the_best_comes_first(tiny_space):
    cheapest, largest = tiny_space.cheapest(), tiny_space.largest()
    stage = made(tiny_space, [largest, cheapest, largest])
    assert (stage.done, stage.total) == (0, 1)
    numbers = stage.step(lambda position: None)
    assert stage.done == 1
    assert found_by(stage) == (cheapest, largest)
    assert numbers["best_loss"] == sum(cheapest.operations)
    assert numbers["evaluated"] == 2


def test_only_what_is_within_the_limits_counts(tiny_space):
    cheapest, largest = tiny_space.cheapest(), tiny_space.largest()
    least, most = (tiny_space.count_macs(path) for path in (cheapest, largest))
    stage = made(tiny_space, [largest, cheapest], (least + most) // 2)
    stage.step(lambda position: None)
    assert found_by(stage) == (cheapest,)
    stage = made(tiny_space, [largest], (least + most) // 2)  # nothing is: it is changed until it is
    stage.step(lambda position: None)
    [repaired] = found_by(stage)
    assert tiny_space.count_macs(repaired) <= (least + most) // 2


def test_where_none_is_within_the_limits_the_cheapest_is_changed(tiny_space):
    """Its last layers are the cheapest there are, so nothing there need change; the other one's are not."""
    cheaper, largest = Architecture((2, 2, 2, 2, 0, 0, 0, 0)), tiny_space.largest()
    stage = made(tiny_space, [largest, cheaper], tiny_space.count_macs(cheaper) - 1)
    stage.step(lambda position: None)
    [repaired] = found_by(stage)
    assert repaired.operations[4:] == (0, 0, 0, 0)
    assert sum(a != b for a, b in zip(repaired.operations, cheaper.operations)) == 1


def test_it_goes_on_from_its_state(tiny_space):
    found = [tiny_space.largest(), tiny_space.cheapest()]
    stage, other = made(tiny_space, found), made(tiny_space, [])
    other.work.load_state_dict(stage.work.state_dict())
    assert other.done == 0
    stage.step(lambda position: None)
    other.work.load_state_dict(stage.work.state_dict())
    assert other.done == 1
    assert other.work.results == stage.work.results
