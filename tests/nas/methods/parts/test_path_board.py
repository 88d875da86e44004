import random

import torch

from kshot_ext.nas.methods.parts.path_board import BoardEntry, BoardSearcher, PathBoard
from kshot_ext.nas.networks.evaluation import Scores
from kshot_ext.nas.searchers.archive import Archive
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.limits import SearchLimits


def entry(choice, accuracy, macs):
    return BoardEntry(Architecture((choice,)), accuracy, macs, torch.full((2, 1), choice), torch.rand(2, 3))


def on(board):
    return [entry.path.operations[0] for entry in board.entries]


def test_the_best_come_first_and_of_equals_the_cheapest():
    board = PathBoard(4, 0.05)
    for item in (entry(0, 0.5, 9), entry(1, 0.7, 9), entry(2, 0.5, 3), entry(3, 0.6, 1)):
        board.put(item)
    assert on(board) == [1, 3, 2, 0]
    board.put(entry(4, 0.5, 5))
    assert on(board) == [1, 3, 2, 4]


def test_a_full_board_admits_by_accuracy_beyond_the_gap_or_by_cost():
    board = PathBoard(2, 0.0625)
    assert board.admits(Architecture((5,)), 0.0, 10**9)  # as long as there is room
    for item in (entry(0, 0.75, 9), entry(1, 0.5, 5)):
        board.put(item)
    admitted = {
        (accuracy, macs): board.admits(Architecture((5,)), accuracy, macs)
        for accuracy in (0.49, 0.5, 0.5625, 0.5626)
        for macs in (4, 5, 6)
    }
    assert [key for key, admits in admitted.items() if admits] == [
        (0.5, 4), (0.5625, 4), (0.5626, 4), (0.5626, 5), (0.5626, 6)
    ]  # fmt: skip


def test_a_path_on_the_board_is_measured_anew():
    board = PathBoard(2, 0.05)
    for item in (entry(0, 0.9, 9), entry(1, 0.5, 5)):
        board.put(item)
    assert board.admits(Architecture((0,)), 0.1, 9)
    board.put(entry(0, 0.1, 9))
    assert [(item.path.operations[0], item.accuracy) for item in board.entries] == [(1, 0.5), (0, 0.1)]
    assert [item.path.operations[0] for item in board.others(Architecture((1,)))] == [0]


def test_the_worst_rises_but_for_cheaper_ones_of_equal_accuracy():
    board, draw, worst = PathBoard(5, 0.05), random.Random(0), -1.0
    for choice in range(300):
        item = entry(choice, draw.randrange(21) / 20, draw.randrange(100))
        if board.admits(item.path, item.accuracy, item.macs):
            board.put(item)
        if len(board) == 5:
            assert board.entries[-1].accuracy >= worst
            worst = board.entries[-1].accuracy
    assert worst == 1.0
    assert sum(item.macs for item in board.entries) / 5 < 20


def test_its_state_has_all_of_it():
    board, other = PathBoard(3, 0.05), PathBoard(3, 0.05)
    for item in (entry(0, 0.5, 9), entry(1, 0.7, 9), entry(2, 0.5, 3)):
        board.put(item)
    other.put(entry(7, 0.9, 1))
    other.load_state_dict(board.state_dict(), torch.device("cpu"))
    assert on(other) == [1, 2, 0]
    for ours, theirs in zip(other.entries, board.entries):
        assert (ours.path, ours.accuracy, ours.macs) == (theirs.path, theirs.accuracy, theirs.macs)
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.probabilities, theirs.probabilities)


def on_board(space, *paths):
    board = PathBoard(10, 0.05)
    for rank, path in enumerate(paths):
        board.put(BoardEntry(path, 0.9 - rank / 10, space.count_macs(path), torch.zeros(0), torch.zeros(0)))
    return board


def test_a_searcher_asks_for_each_path_of_the_board_once(tiny_space, seeded):
    paths = list(dict.fromkeys(tiny_space.sample(seeded(seed)) for seed in range(7)))
    searcher = BoardSearcher(on_board(tiny_space, *paths))
    archive = Archive(lambda path: Scores(0.5, 1.0), tiny_space, SearchLimits())
    archive.evaluate(paths[:1])
    assert searcher.ask(archive, 3) == paths[1:4]
    resumed = BoardSearcher(searcher.board)
    resumed.load_state_dict(searcher.state_dict())
    assert resumed.ask(archive, 100) == searcher.ask(archive, 100) == paths[4:]
    assert searcher.ask(archive, 1) == []


def test_an_asked_path_is_brought_within_the_limits(tiny_space):
    largest, cheapest = tiny_space.largest(), tiny_space.cheapest()
    limits = SearchLimits(max_macs=(tiny_space.count_macs(largest) + tiny_space.count_macs(cheapest)) // 2)
    archive = Archive(lambda path: Scores(0.5, 1.0), tiny_space, limits)
    searcher = BoardSearcher(on_board(tiny_space, largest, cheapest))
    mended, kept = searcher.ask(archive, 2)
    assert kept == cheapest
    assert limits.admit(tiny_space, mended)
    assert searcher.ask(archive, 2) == []  # and not mended in another way
