"""What every start of codes must do, and what each is for."""

from itertools import product

import pytest
import torch

from kshot_ext.nas.networks.code_settings import CodeSettings
from kshot_ext.nas.networks.code_starts import CODE_STARTS
from kshot_ext.nas.networks.code_starts.decisions import Decision, TwoDecisions, join_choices, mean_similarity
from kshot_ext.nas.networks.code_starts.neighbours import Neighbours
from kshot_ext.nas.networks.code_starts.ordered_groups import OrderedGroups
from kshot_ext.nas.networks.code_starts.parametrised import ParametrisedCount
from kshot_ext.nas.networks.code_starts.random_groups import RandomGroups
from kshot_ext.nas.networks.cost_rank import CostRank
from kshot_ext.nas.networks.simplex_net import SimplexNet, code_statistics
from kshot_ext.nas.spaces import create_space, space_names

KINDS = {name: kind for name, kind in CODE_STARTS.items() if kind is not None}


def small_space(name, **options):
    channels = {"mobilenet-v2-se": 5, "shufflenet-v2": 3, "split-attention": 3}.get(name, 2)
    return create_space(name, image_shape=(3, 16, 16), num_classes=3, channels=channels, **options)


@pytest.fixture(scope="module")
def cells():
    """NAS-Bench-201, whose operations 0, 1 and 4 have no weights."""
    return create_space("nas-bench-201", image_shape=(3, 8, 8), num_classes=3, channels=2, cells=1)


def drawn(space, count, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [space.sample(generator) for _ in range(count)]


def similar_by_parts(sizes, parted):
    """Similarities of every gene: 0.9 between different choices, but for one gene, whose first choice is far off."""
    matrices = [torch.full((size, size), 0.9).fill_diagonal_(1) for size in sizes]
    for gene, similarity in parted.items():
        matrices[gene][0, 1:] = matrices[gene][1:, 0] = similarity
    return matrices


@pytest.mark.parametrize(
    ("name", "widths"),
    [*product(space_names(), [None]), *product((name for name in space_names() if name != "groupable"), [(0.5, 1.0)])],
)
@pytest.mark.parametrize("start", KINDS)
def test_parts_the_codes_of_any_space_and_keeps_every_copy_in_use(start, name, widths, seeded):
    space = small_space(name, widths=widths)
    settings = CodeSettings(start=start, per_layer=KINDS[start].per_layer)
    simplex_net = SimplexNet(space, 4 if start == "two-decisions" else 2, seeded(0), settings=settings)
    if KINDS[start].settles:
        assert code_statistics(simplex_net, space, seeded(1)).distance == 0  # nothing is known before warm-up
        simplex_net.start.settle(similar_by_parts(space.num_choices, {1: 0.1, 2: 0.2}))
    statistics = code_statistics(simplex_net, space, seeded(1))
    assert statistics.distance > 0.1
    assert min(statistics.entry_shares) > 0.25 / simplex_net.num_shots
    again = SimplexNet(space, simplex_net.num_shots, seeded(7), settings=settings)
    again.load_state_dict(simplex_net.state_dict())
    paths = drawn(space, 20)
    assert torch.equal(again(paths), simplex_net(paths))


@pytest.mark.parametrize("start", KINDS)
def test_one_copy_has_no_start(start, cells, seeded):
    settings = CodeSettings(start=start, per_layer=KINDS[start].per_layer)
    simplex_net = SimplexNet(cells, 1, seeded(0), settings=settings)
    assert simplex_net.start is None
    assert torch.equal(simplex_net(drawn(cells, 3)), torch.ones(3, *(6,) * KINDS[start].per_layer, 1))


def test_the_spread_is_how_far_logits_lie_apart(cells, seeded):
    paths = drawn(cells, 30)
    logits = ParametrisedCount(cells, 4, 2.5, seeded(0))(paths)
    assert logits.shape == (30, 1, 4)
    assert logits.sort(dim=-1).values[..., :].unique().tolist() == [0.0, 2.5]
    assert ParametrisedCount(cells, 4, None, seeded(0))(paths).softmax(dim=-1).max(dim=-1).values.min() > 0.99


def with_convolutions(space, count):
    return space.from_genes([2] * count + [1] * (6 - count))


def test_counts_are_cut_into_groups_of_nearly_equal_size(cells, seeded):
    """Of 6 edges, each with weights by 2/5: 0.04, 0.19, 0.31, 0.28, 0.14, 0.04, 0.004 have 0, 1, ... of them."""
    start = ParametrisedCount(cells, 4, None, seeded(0))
    counts = [with_convolutions(cells, count) for count in range(7)]
    assert start.groups(counts).tolist() == [0, 0, 1, 2, 3, 3, 3]
    shares = start.groups(drawn(cells, 2000)).bincount() / 2000
    assert shares.tolist() == pytest.approx([0.233, 0.311, 0.276, 0.179], abs=0.04)


def test_more_copies_than_counts_are_told_apart_by_cost(cells, seeded):
    start = ParametrisedCount(cells, 8, None, seeded(0))
    paths = drawn(cells, 2000)
    groups = start.groups(paths).tolist()
    shares = torch.tensor(groups).bincount(minlength=8) / 2000
    assert shares.min() > 0.05
    assert shares.max() < 0.25
    keys = [(cells.count_parametrised(path), cells.count_macs(path)) for path in paths]
    assert sorted(groups) == [group for _, group in sorted(zip(keys, groups))]  # groups follow the order of the keys


def test_groups_need_something_to_tell_apart(seeded):
    space = create_space("nas-bench-201", image_shape=(3, 8, 8), num_classes=3, channels=2, cells=1)
    with pytest.raises(ValueError, match="shots: expected at most 22, one for each number of layers with weights"):
        ParametrisedCount(space, 100, None, seeded(0))


def test_a_pair_belongs_to_the_group_below_the_first_cut_above_it():
    pairs = torch.tensor(list(product(range(4), range(5))), dtype=torch.float64)
    groups = OrderedGroups(pairs, 8, "things")  # 4 first numbers for 8 groups
    assert groups([(-1, 9), *pairs.tolist(), (9, -9)]).bincount().sum() == 22
    found = groups(pairs.tolist()).tolist()
    assert found == sorted(found)
    assert min(found.count(group) for group in range(8)) >= 2
    whole = OrderedGroups(pairs, 4, "things")
    assert whole(pairs.tolist()).tolist() == [int(first) for first, _ in pairs.tolist()]


def test_counts_of_a_space_without_weights_in_some_layers(cells, tiny_space):
    assert [cells.count_parametrised(with_convolutions(cells, count)) for count in range(7)] == list(range(7))
    # Where a stage begins, the identity of NAS-Bench-Macro is a convolution.
    assert tiny_space.count_parametrised(tiny_space.from_genes([0] * 8)) == 3
    assert tiny_space.count_parametrised(tiny_space.from_genes([1] * 8)) == 8


@pytest.mark.parametrize("common", [0, 3, 7])
def test_a_common_pair_leaves_no_group_empty(common):
    pairs = torch.tensor([[number, 0] for number in range(8) for _ in range(40 if number == common else 1)])
    groups = OrderedGroups(pairs, 8, "things")
    assert groups([(number, 0) for number in range(8)]).tolist() == list(range(8))
    assert groups([(common, 0)] * 2).tolist() == [common] * 2
    fewer = OrderedGroups(pairs, 5, "things")([(number, 0) for number in range(8)])
    assert fewer.unique().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("start", ["count", "neighbours"])
def test_eight_copies_of_a_cell_space(start, seeded):
    space = create_space("nas-bench-201", image_shape=(3, 8, 8), num_classes=3, channels=2, cells=1)
    groups = KINDS[start](space, 8, None, seeded(0)).groups(drawn(space, 500))
    rows = groups.reshape(500, -1).T
    assert all(row.unique().tolist() == list(range(8)) for row in rows)


def test_neighbours_are_what_a_layer_meets(cells, tiny_space):
    assert [tiny_space.neighbours(layer) for layer in (0, 3, 7)] == [(1,), (2, 4), (6,)]
    # Edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3: only 0-1 and 2-3, 0-2 and 1-3, 1-2 and 0-3 do not meet.
    assert [cells.neighbours(edge) for edge in range(3)] == [(1, 2, 3, 4), (0, 2, 3, 5), (0, 1, 4, 5)]


def test_neighbours_decide_a_layer_s_code_and_it_does_not_itself(cells, seeded):
    start = Neighbours(cells, 3, None, seeded(0))
    for edge in range(6):
        for path in drawn(cells, 20):
            genes = list(cells.genes(path))
            group = start.groups([path])[0, edge]
            other = 5 - edge  # the edge that it does not meet
            for gene in (edge, other):
                changed = [*genes[:gene], (genes[gene] + 2) % 5, *genes[gene + 1 :]]
                assert start.groups([cells.from_genes(changed)])[0, edge] == group
    many = cells.from_genes([1, 3, 3, 3, 3, 1])
    assert start.groups([many])[0].tolist()[0] == 2
    assert start.groups([cells.from_genes([3, 1, 1, 1, 1, 3])])[0].tolist()[0] == 0


def test_a_start_per_layer_asks_for_codes_per_layer():
    with pytest.raises(ValueError, match="start: neighbours gives each layer a code of its own, so expected per_layer"):
        CodeSettings(start="neighbours")


def test_the_decision_is_the_gene_whose_choices_agree_least(cells, seeded):
    start = Decision(cells, 2, None, seeded(0))
    assert not start.settled
    start.settle(similar_by_parts(cells.num_choices, {4: -0.3, 2: 0.5}))
    assert (start.settled, start.genes.tolist()) == (True, [4])
    groups = start.groups([cells.from_genes([0, 1, 2, 3, choice, 4]) for choice in range(5)])
    assert groups.tolist() == [0, 1, 1, 1, 0]  # of five choices at most three may share a copy


def test_two_decisions_are_taken_together(cells, seeded):
    start = TwoDecisions(cells, 4, None, seeded(0))
    start.settle(similar_by_parts(cells.num_choices, {4: -0.3, 2: 0.5}))
    assert start.genes.tolist() == [4, 2]
    pairs = [cells.from_genes([0, 0, one, 0, other, 0]) for other, one in product((0, 3), (0, 3))]
    assert start.groups(pairs).tolist() == [0, 1, 2, 3]
    assert TwoDecisions(cells, 8, None, seeded(0)).factors == [4, 2]


def test_a_width_may_be_the_decision(seeded):
    space = small_space("nas-bench-201", widths=(0.5, 1.0))
    start = Decision(space, 2, None, seeded(0))
    start.settle(similar_by_parts(space.num_choices, {7: 0.0}))
    genes = list(space.genes(space.largest()))
    narrow = space.from_genes([*genes[:7], 0, *genes[8:]])
    assert start.groups([space.largest(), narrow]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("kind", "shots", "expected"),
    [
        (Decision, 6, "at most 5, the most choices that a decision of space nas-bench-201 has"),
        (TwoDecisions, 7, "a product of 2 numbers of choices of space nas-bench-201, at most 5 each"),
        (TwoDecisions, 36, "a product of 2 numbers of choices of space nas-bench-201, at most 5 each"),
    ],
)
def test_a_decision_has_as_many_choices_as_copies(kind, shots, expected, cells, seeded):
    with pytest.raises(ValueError, match=rf"shots: expected {expected}, got {shots}"):
        kind(cells, shots, None, seeded(0))


def test_choices_that_agree_most_are_joined_first():
    similarity = torch.tensor([[1.0, 0.1, 0.8, 0.2], [0.1, 1.0, 0.1, 0.7], [0.8, 0.1, 1.0, 0.6], [0.2, 0.7, 0.6, 1.0]])
    assert join_choices(similarity, 4) == [0, 1, 2, 3]
    assert join_choices(similarity, 3) == [0, 1, 0, 2]
    assert join_choices(similarity, 2) == [0, 1, 0, 1]
    assert join_choices(similarity, 1) == [0, 0, 0, 0]
    assert mean_similarity(similarity) == pytest.approx((0.1 + 0.8 + 0.2 + 0.1 + 0.7 + 0.6) / 6)
    assert mean_similarity(torch.ones(1, 1)) == 1


def test_random_groups_follow_nothing_and_are_the_same_whenever_asked(cells, seeded):
    start = RandomGroups(cells, 4, None, seeded(0))
    paths = drawn(cells, 4000)
    groups = start.groups(paths)
    assert torch.equal(groups, start.groups(paths))
    assert (groups.bincount() / 4000).tolist() == pytest.approx([0.25] * 4, abs=0.03)
    # Of architectures that differ in one choice, a quarter share a group, as of any two.
    changed = [cells.from_genes([(genes[0] + 1) % 5, *genes[1:]]) for genes in map(cells.genes, paths)]
    assert float((start.groups(changed) == groups).float().mean()) == pytest.approx(0.25, abs=0.04)
    assert not torch.equal(RandomGroups(cells, 4, None, seeded(1)).groups(paths), groups)


def test_the_cost_rank_is_a_share_of_architectures(cells, seeded):
    rank = CostRank(cells, seeded(0))
    values = rank(drawn(cells, 2000))
    assert values.dtype == torch.float64
    assert float(values.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(values.quantile(0.9)) == pytest.approx(0.9, abs=0.06)
