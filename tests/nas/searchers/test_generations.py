"""Every searcher on a table of known scores, where the best architectures are known too."""

import dataclasses
import io
import math
from collections import Counter
from itertools import product

import pytest
import torch

from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.searchers.generations import SEARCHERS, Generations, SearchSettings
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.limits import SearchLimits
from kshot_ext.nas.training.divergence import DivergedError

SETTINGS = SearchSettings(population=16, generations=12)


def score(architecture):
    """A known table: later layers and heavier operations count more."""
    return sum(operation * layer for layer, operation in enumerate(architecture.operations, 1)) / 72


def scored(value):
    """Scores whose loss falls as the value rises, and whose accuracy says the contrary."""
    return Scores(accuracy=1 - value, loss=1 - value) if math.isfinite(value) else Scores(0.0, math.inf)


def evaluate(architecture):
    return scored(score(architecture))


def value(result):
    return 1 - result.scores.loss


def installed(method):
    """The searcher's name, if its library is there."""
    if method == "tpe":
        pytest.importorskip("optuna", reason="optuna is not installed")
    return method


def make_search(evaluate, space, limits, settings, generator, score="loss"):
    return Generations(Archive(evaluate, space, limits, generator, score=score), settings)


@pytest.fixture
def limits(tiny_space):
    return SearchLimits(tiny_space.count_macs(tiny_space.largest()) * 6 // 10)


def finished(search):
    while not search.finished:
        search.step()
    return search


def test_finds_what_exhaustion_finds(tiny_space, limits, seeded):
    everything = [Architecture(operations) for operations in product(range(3), repeat=8)]
    within = [architecture for architecture in everything if limits.admit(tiny_space, architecture)]
    best = max(map(score, within))
    search = finished(make_search(evaluate, tiny_space, limits, SETTINGS, seeded(0)))
    assert value(search.archive.best) >= best - 0.06
    random_mean = sum(map(score, within)) / len(within)
    assert value(search.archive.best) > random_mean + 0.3


def test_searches_widths_too(seeded):
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=4, widths=(0.25, 0.5, 1.0))
    limits = SearchLimits(space.count_macs(space.largest()) // 3)
    search = finished(make_search(lambda a: scored(sum(a.widths) / 16), space, limits, SETTINGS, seeded(0)))
    assert all(limits.admit(space, result.architecture) for result in search.archive.history)
    first = max(value(result) for result in search.archive.history[: SETTINGS.population])
    assert value(search.archive.best) > first
    resumed = make_search(None, space, limits, SETTINGS, seeded(0))
    resumed.load_state_dict(search.state_dict())
    assert resumed.archive.history == search.archive.history


def test_budget_holds_and_nothing_is_evaluated_twice(tiny_space, limits, seeded):
    calls = Counter()

    def counted(architecture):
        calls[architecture] += 1
        return evaluate(architecture)

    search = finished(make_search(counted, tiny_space, limits, SETTINGS, seeded(1)))
    assert set(calls.values()) == {1}
    assert list(calls) == [result.architecture for result in search.archive.history]
    assert len(calls) == SETTINGS.population * SETTINGS.generations
    assert max(result.macs for result in search.archive.history) <= limits.max_macs


def test_seed_decides_everything(tiny_space, limits, seeded):
    runs = [
        finished(make_search(evaluate, tiny_space, limits, SETTINGS, seeded(seed))).archive.history
        for seed in (3, 3, 4)
    ]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("method", SEARCHERS)
def test_resumed_search_equals_an_uninterrupted_one(method, tiny_space, limits, seeded):
    settings = dataclasses.replace(SETTINGS, generations=4, method=installed(method))
    whole = finished(make_search(evaluate, tiny_space, limits, settings, seeded(5)))
    first = make_search(evaluate, tiny_space, limits, settings, seeded(5))
    for _ in range(2):
        first.step()
    resumed = make_search(evaluate, tiny_space, limits, settings, seeded(99))
    resumed.load_state_dict(first.state_dict())
    assert finished(resumed).archive.history == whole.archive.history
    assert resumed.archive.best == whole.archive.best


def test_reports_tell_of_new_evaluations_and_shares(tiny_space, limits, seeded):
    search = make_search(evaluate, tiny_space, limits, SETTINGS, seeded(6))
    reports = [search.step() for _ in range(3)]
    assert [report.generation for report in reports] == [1, 2, 3]
    assert sum((report.evaluated for report in reports), ()) == search.archive.history
    assert sum(reports[-1].operation_shares.values()) == pytest.approx(1)
    assert reports[-1].best == search.archive.best


def test_ends_when_the_space_is_used_up(tiny_space, seeded):
    counts = sorted(tiny_space.count_macs(Architecture(operations)) for operations in product(range(3), repeat=8))
    few = SearchLimits(counts[9])
    num_within = sum(macs <= few.max_macs for macs in counts)
    search = make_search(evaluate, tiny_space, few, SearchSettings(population=4, generations=20), seeded(0))
    assert len(finished(search).archive.history) <= num_within < 4 * 20


def slow(architecture):
    """Milliseconds on a device that is slow in what `score` likes least."""
    return sum(2.0 - operation / 2 for operation in architecture.operations)


def test_weighs_accuracy_against_any_costs(tiny_space, seeded):
    limits = SearchLimits(max_parameters=tiny_space.count_parameters(tiny_space.largest()) // 2, latency=slow)
    settings = SearchSettings(population=12, generations=6, objectives="parameters, latency")
    search = finished(make_search(evaluate, tiny_space, limits, settings, seeded(0)))
    assert all(result.parameters <= limits.max_parameters for result in search.archive.history)
    assert all(result.latency == slow(result.architecture) for result in search.archive.history)
    survivors = [search.archive[architecture] for architecture in search._population]
    assert min(result.parameters for result in survivors) == min(result.parameters for result in search.archive.history)
    assert min(result.latency for result in survivors) == min(result.latency for result in search.archive.history)
    file = io.BytesIO()
    torch.save(search.state_dict(), file)
    file.seek(0)
    resumed = make_search(None, tiny_space, limits, settings, seeded(0))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.archive.history == search.archive.history
    with pytest.raises(ValueError, match=r"latency needs limits\.latency"):
        make_search(evaluate, tiny_space, SearchLimits(), settings, seeded(0))


@pytest.mark.parametrize("method", SEARCHERS)
def test_every_searcher_keeps_the_budget_and_evaluates_nothing_twice(method, tiny_space, limits, seeded):
    settings = dataclasses.replace(SETTINGS, generations=5, method=installed(method))
    runs = []
    for _ in range(2):
        calls = Counter()
        search = make_search(
            lambda a, calls=calls: calls.update([a]) or evaluate(a), tiny_space, limits, settings, seeded(1)
        )
        runs.append(finished(search))
        assert set(calls.values()) == {1}
        assert len(calls) == settings.population * settings.generations
    assert runs[0].archive.history == runs[1].archive.history
    assert max(result.macs for result in search.archive.history) <= limits.max_macs


def test_evolution_finds_better_than_random_search_with_as_many_evaluations(tiny_space, limits, seeded):
    means = {}
    for method in ("nsga2", "evolution", "random"):
        settings = dataclasses.replace(SETTINGS, method=method)
        search = finished(make_search(evaluate, tiny_space, limits, settings, seeded(2)))
        best = sorted(map(value, search.archive.history))[-10:]
        means[method] = sum(best) / len(best)
    assert means["evolution"] > means["random"] + 0.01
    assert means["nsga2"] > means["random"] + 0.01


@pytest.mark.parametrize("method", SEARCHERS)
def test_every_searcher_ends_when_the_space_is_used_up(method, tiny_space, seeded):
    few = SearchLimits(sorted({tiny_space.count_macs(Architecture(o)) for o in product(range(3), repeat=8)})[3])
    settings = SearchSettings(population=4, generations=12, method=installed(method))
    search = make_search(evaluate, tiny_space, few, settings, seeded(0))
    reports = []
    while not search.finished:
        reports.append(search.step())
    assert len(search.archive.history) < 4 * 12
    assert all(report.evaluated for report in reports[:-1])  # it does not ask again and again
    assert (reports[-1].generation, reports[-1].evaluated) == (12, ())


def test_front_of_a_search_is_not_dominated(tiny_space, limits, seeded):
    search = finished(make_search(evaluate, tiny_space, limits, SETTINGS, seeded(7)))
    for result in search.archive.front(search.settings.costs):
        assert not any(value(other) > value(result) and other.macs <= result.macs for other in search.archive.history)
    assert search.archive.front(search.settings.costs)[-1].scores == search.archive.best.scores


def test_best_of_equals_is_the_cheapest(tiny_space, limits, seeded):
    search = make_search(lambda _: scored(0.5), tiny_space, limits, SETTINGS, seeded(8))
    search.step()
    assert search.archive.best.macs == min(result.macs for result in search.archive.history)


def test_a_population_that_the_limits_do_not_allow_is_refused_before_anything_is_drawn(tiny_space, seeded):
    """As long as a supernet is not trained in vain."""
    lightest = tiny_space.count_macs(tiny_space.cheapest())
    generator = seeded(0)
    before = generator.get_state()
    make_search(evaluate, tiny_space, SearchLimits(), SETTINGS, generator)
    with pytest.raises(ValueError, match=r"expected 16 different architectures .* found only 1 in"):
        make_search(evaluate, tiny_space, SearchLimits(lightest), SETTINGS, generator)
    assert torch.equal(generator.get_state(), before)


def test_misuse_is_refused(tiny_space, limits, seeded):
    with pytest.raises(ValueError, match="no architecture of space"):
        make_search(evaluate, tiny_space, SearchLimits(1), SETTINGS, seeded(0))
    search = make_search(evaluate, tiny_space, limits, SearchSettings(population=2, generations=1), seeded(0))
    with pytest.raises(RuntimeError, match="nothing has been evaluated yet"):
        _ = search.archive.best
    search.step()
    with pytest.raises(RuntimeError, match="finished"):
        search.step()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"population": 1}, "population: expected at least 2, got 1"),
        ({"generations": 0}, "generations: expected at least 1, got 0"),
        ({"method": "luck"}, "method: expected one of nsga2, evolution, tpe, random, got 'luck'"),
        ({"objectives": "macs,size"}, "objectives: expected different ones of macs, parameters, latency"),
        ({"objectives": "macs,macs"}, "objectives: expected different ones"),
        ({"mutation_probability": 1.5}, "mutation_probability.*got 1.5"),
    ],
)
def test_rejects_settings_out_of_range(changed, message):
    with pytest.raises(ValueError, match=message):
        SearchSettings(**changed)


@pytest.mark.parametrize("score", ["loss", "accuracy"])
@pytest.mark.parametrize("method", SEARCHERS)
def test_a_network_without_numbers_ranks_last(method, score, tiny_space, limits, seeded):
    """Networks that begin with the lightest operation give none, though cheap; all others are as bad as can be."""
    worst, none = Scores(accuracy=0.0, loss=1e30), Scores(accuracy=0.9, loss=math.inf)

    def diverging(architecture):
        return none if architecture.operations[0] == 0 else worst

    settings = dataclasses.replace(SETTINGS, generations=3, method=installed(method))
    search = make_search(diverging, tiny_space, limits, settings, seeded(0), score=score)
    reports = [search.step() for _ in range(3)]
    assert any(not result.scores.finite for result in search.archive.history)
    assert [report.best.scores for report in reports] == [worst] * 3
    assert [report.mean for report in reports] == [Scores(0.0, pytest.approx(1e30))] * 3
    if method == "nsga2":  # the others keep no population
        population = [Architecture.from_json(text) for text in search.state_dict()["population"]]
        assert all(diverging(architecture).finite for architecture in population)
    assert [result.scores for result in search.archive.front(search.settings.costs)] == [worst]
    assert search.archive.front(search.settings.costs)[0] == search.archive.best
    file = io.BytesIO()
    torch.save(search.state_dict(), file)
    file.seek(0)
    resumed = make_search(None, tiny_space, limits, settings, seeded(0), score=score)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.archive.best == search.archive.best


@pytest.mark.parametrize("method", SEARCHERS)
def test_the_score_asked_for_decides(method, tiny_space, limits, seeded):
    """Of networks whose loss and accuracy rise together one score likes the best, the other the worst."""
    settings = dataclasses.replace(SETTINGS, generations=6, method=installed(method))
    found = {}
    for score in ("loss", "accuracy"):
        search = finished(make_search(evaluate, tiny_space, limits, settings, seeded(3), score=score))
        found[score] = search.archive.best
        values = [value(result) for result in search.archive.history]
        assert value(search.archive.best) == (max(values) if score == "loss" else min(values))
        front = [result.merit for result in search.archive.front(search.settings.costs)]
        assert front == sorted(front)
    assert value(found["loss"]) > value(found["accuracy"]) + 0.3
    with pytest.raises(ValueError, match="score: expected one of loss, accuracy, got 'luck'"):
        make_search(evaluate, tiny_space, limits, settings, seeded(3), score="luck")


def test_without_any_numbers_there_is_no_winner(tiny_space, limits, seeded):
    search = make_search(lambda _: scored(math.nan), tiny_space, limits, SETTINGS, seeded(0))
    with pytest.raises(DivergedError, match="all 16 networks of the first generation give NaN"):
        search.step()
    assert search.generation == 0
