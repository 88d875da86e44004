import copy
import re

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from kshot_ext.nas.networks.export import extract
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.nas.training.simplex_objectives import agreement, objective
from kshot_ext.nas.training.simplex_objectives.agreement import Agreement

STEPS = GradientSteps("float32", torch.device("cpu"))
PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_weights_of_pairs_are_standard_scores_that_forget():
    seen_before = Agreement()
    first, second = (torch.rand(6, 2, generator=torch.Generator().manual_seed(seed)).double() for seed in range(2))
    seen_before.weigh(first)
    found = seen_before.weigh(second)
    both = torch.cat([first, second])
    weights = torch.tensor([0.99] * 6 + [1.0] * 6).double()[:, None]
    mean = (weights * both).sum(dim=0) / weights.sum()
    deviation = ((weights * (both - mean).square()).sum(dim=0) / weights.sum()).sqrt()
    torch.testing.assert_close(found, (second - mean) / deviation)


def test_pairs_without_a_cosine_say_nothing():
    cosines = torch.tensor([[0.1, torch.nan], [0.5, torch.nan], [torch.nan, torch.nan]]).double()
    expected = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]).double()
    torch.testing.assert_close(Agreement().weigh(cosines), expected)
    assert not Agreement().weigh(torch.full((3, 1), 0.4).double()).any()


def plain_gradients(supernet, path, code, batch):
    """By the weights of the extracted network, for each of the supernet's layers that the path uses, by its name."""
    network = extract(supernet, path, code).train()
    cross_entropy(network(batch[0].double()), batch[1], label_smoothing=0.1).backward()
    modules = dict(network.named_modules())
    return {name: modules[name].weight.grad for name in modules if getattr(modules[name], "weight", None) is not None}


@pytest.mark.parametrize("per_layer", [False, True])
def test_the_gradient_is_that_of_the_equation(make_double_tools, batches, seeded, assert_slope, per_layer):
    tools = make_double_tools(codes={"per_layer": per_layer})
    supernet, net, space = tools.supernet, tools.simplex_net, tools.supernet.space
    generator, batch = seeded(5), next(batches())
    paths = [space.sample(generator) for _ in range(4)]
    gradients = []
    for path, code in zip(paths, net(paths).detach()):
        found = plain_gradients(supernet, path, code, batch)
        # A path's network calls its layers by their position: tell apart which operation it is.
        gradients.append({(name, _operation(name, path)): g for name, g in found.items() if g.dim() > 1})
    groups = range(space.num_layers) if per_layer else [None]
    cosines = torch.tensor([[_cosine(gradients[i], gradients[j], group) for group in groups] for i, j in PAIRS])
    known = cosines.isfinite()
    assert known.sum() > 8 if per_layer else known.all()
    count = known.sum(dim=0)
    mean = cosines.nan_to_num(0).sum(dim=0) / count
    deviation = ((cosines - mean).nan_to_num(0).square().sum(dim=0) / count).sqrt()
    scores = ((cosines - mean) / deviation).where(known & (deviation > 1e-6), 0.0)

    @torch.no_grad()
    def value(simplex_net):
        codes = simplex_net(paths).reshape(4, -1, 2)
        return -sum((z * (codes[i] * codes[j]).sum(dim=1)).mean() for (i, j), z in zip(PAIRS, scores)) / len(PAIRS)

    before = copy.deepcopy(supernet.state_dict())
    loss = Agreement().backward(paths, batches(), tools)
    assert_slope(value, net, [parameter.grad for parameter in net.parameters()])
    assert all(p.grad is None for p in supernet.parameters())
    assert all(torch.equal(p, before[name]) for name, p in supernet.named_parameters())
    losses = [cross_entropy(supernet(batch[0], p, net.code(p)), batch[1], label_smoothing=0.1).item() for p in paths]
    assert loss == pytest.approx(sum(losses) / 4)


def _layer_of(name):
    """The position of the searched layer that a module of nas-bench-macro's plain network belongs to, if to any."""
    found = re.match(r"layer(\d+)\.", name)
    return int(found[1]) if found else None


def _operation(name, path):
    layer = _layer_of(name)
    return None if layer is None else path.operations[layer]


def _cosine(one, other, layer):
    shared = [key for key in one if key in other and layer in (None, _layer_of(key[0]))]
    if not shared:
        return torch.nan
    return float(
        cosine_similarity(*(torch.cat([side[key].flatten() for key in shared]) for side in (one, other)), dim=0)
    )


def test_codes_of_paths_with_opposite_gradients_part(make_training, batches, monkeypatch):
    """Half the paths, by their first operation, have a gradient opposite to that of the rest."""
    weight = torch.nn.Parameter(torch.zeros(3))

    def opposite(supernet, path, *_):
        return {weight: torch.ones(3) if path.operations[0] == 0 else -torch.ones(3)}

    monkeypatch.setattr(agreement, "path_gradients", opposite)
    monkeypatch.setattr(objective, "path_loss", lambda *_: (torch.ones(()), torch.zeros(8, 3)))
    training = make_training("agreement", noise=0.05, simplex_learning_rate=0.003)
    space = training.supernet.space
    paths = [space.sample(torch.Generator().manual_seed(seed)) for seed in range(60)]
    first = torch.tensor([path.operations[0] == 0 for path in paths])

    def distances():
        codes = training.simplex_net(paths).detach()
        between = torch.cdist(codes[first], codes[~first], p=1).mean()
        within = (torch.pdist(codes[first], p=1).mean() + torch.pdist(codes[~first], p=1).mean()) / 2
        return float(between), float(within)

    assert max(distances()) < 0.3
    for _ in range(120):
        training.step(batches(), STEPS, DataParallel())
    between, within = distances()
    assert between > 1.5
    assert within < 0.3
