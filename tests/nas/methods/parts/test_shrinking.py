"""When operations are dropped, and which, against values by hand."""

from __future__ import annotations

from kshot_ext.nas.methods.parts.shrinking import mean_by_operation, ranks, shrinking_schedule, without_the_worst


def test_the_schedule_is_even_and_ends_at_what_is_to_be_kept():
    # 24 operations, 16 of which stay: a third of 8 goes each time, rounded up, after epochs 1.5, 3 and 4.5
    assert shrinking_schedule([3] * 8, least=2, epochs=6, times=3) == {2: 21, 3: 18, 5: 16}
    assert shrinking_schedule([3, 1, 2], least=2, epochs=4, times=1) == {2: 5}  # only the first layer has one to lose
    assert shrinking_schedule([2, 2], least=2, epochs=4, times=3) == {}
    assert shrinking_schedule([3, 3], least=2, epochs=4, times=0) == {}
    assert shrinking_schedule([3, 3], least=1, epochs=1, times=4) == {1: 2}  # all at once, where epochs are few


def test_the_worst_go_first_and_each_layer_keeps_the_least():
    worth = {(0, 0): 1.0, (0, 2): 2.0, (1, 1): 3.0, (1, 3): 4.0, (1, 5): 5.0}
    kept = [(0, 2), (1, 3, 5)]
    assert without_the_worst(kept, worth, target=4, least=1) == [[2], [1, 3, 5]]
    assert without_the_worst(kept, worth, target=4, least=2) == [[0, 2], [3, 5]]
    assert without_the_worst(kept, worth, target=0, least=2) == [[0, 2], [3, 5]]
    assert without_the_worst(kept, worth, target=5, least=1) == [[0, 2], [1, 3, 5]]
    assert kept == [(0, 2), (1, 3, 5)]


def test_an_operation_counts_once_for_all_networks_that_have_it():
    found = [([[0, 1], [0, 0]], 1.0), ([[1, 1], [1, 1]], 4.0), ([[1, 0], [0, 1]], 16.0)]
    assert mean_by_operation([(0, 1), (1,)], found) == {(0, 0): 17 / 2, (0, 1): 20 / 2, (1, 1): 21 / 3}


def test_equal_values_have_their_mean_rank():
    assert ranks({(0, 0): 5.0, (0, 1): 2.0, (1, 0): 2.0}) == {(0, 0): 1.0, (0, 1): 0.25, (1, 0): 0.25}
    assert ranks({(0, 0): 1.0}) == {(0, 0): 0.0}
