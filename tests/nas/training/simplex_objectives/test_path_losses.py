import pytest
import torch
from torch.nn.functional import cross_entropy

from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.gradient_steps import GradientSteps
from kshot_ext.nas.training.simplex_objectives import SIMPLEX_OBJECTIVES

STEPS = GradientSteps("float32", torch.device("cpu"))
LOSSES = ["loss", "relative", "ranking"]


def published_step(training, images):
    """A step on the mean loss as K-shot's paper has it: one backward pass through net and supernet for each path."""
    paths = [training.supernet.space.sample(training.generator) for _ in range(4)]
    total = 0.0
    training.supernet.requires_grad_(False)
    for path, (batch, labels) in zip(paths, images):
        logits = training.supernet(batch, path, training.simplex_net([path])[0])
        loss = cross_entropy(logits, labels, label_smoothing=0.1)
        (loss / 4).backward()
        total += loss.item()
    training.supernet.requires_grad_(True)
    training.penalty().backward()
    training.optimizer.step()
    training.optimizer.zero_grad()
    training.schedule.step()
    return total / 4


@pytest.mark.parametrize(("per_layer", "widths"), [(False, None), (True, (0.5, 1.0))])
def test_the_default_is_the_published_step_bit_for_bit(make_training, batches, per_layer, widths):
    space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=3, channels=2, widths=widths)
    ours, published = (make_training("loss", space=space, codes={"per_layer": per_layer}) for _ in range(2))
    images, same_images = batches(), batches()
    for _ in range(3):
        assert ours.step(images, STEPS, DataParallel()) == pytest.approx(published_step(published, same_images))
    assert all(map(torch.equal, ours.simplex_net.parameters(), published.simplex_net.parameters()))
    assert torch.equal(next(images)[0], next(same_images)[0])


def relative_loss(losses, costs):
    """With the line through these four points alone, found by least squares."""
    points = losses.detach()
    line = torch.stack([torch.ones_like(costs), costs], dim=1)
    coefficients = torch.linalg.lstsq(line, points[:, None]).solution
    deviation = ((points - (line @ coefficients)[:, 0]).square().sum() / (len(points) - 2)).sqrt()
    slope = float(coefficients[1])

    def value(losses):
        return -deviation * ((-(losses - slope * costs) / deviation).exp().mean()).log()

    return value


def ranking_loss(losses, costs):
    hinges = [
        torch.relu(losses[i] - losses[j]) if costs[i] > costs[j] else torch.relu(losses[j] - losses[i])
        for i in range(len(losses))
        for j in range(i)
    ]
    return losses.mean() + torch.stack(hinges).mean() / 2


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("per_layer", [False, True])
def test_the_gradient_is_that_of_the_equation(make_double_tools, batches, seeded, assert_slope, name, per_layer):
    tools = make_double_tools(codes={"per_layer": per_layer})
    space, net = tools.supernet.space, tools.simplex_net
    generator = seeded(5)
    paths = [space.sample(generator) for _ in range(4)]
    costs = torch.tensor([space.count_macs(path) for path in paths]).double().log()
    assert len(set(costs.tolist())) == 4
    objective = SIMPLEX_OBJECTIVES[name]()

    @torch.no_grad()
    def losses(simplex_net):
        images = batches()
        shown = [next(images) for _ in paths] if name == "loss" else [next(images)] * 4
        codes = [simplex_net([path])[0] for path in paths]
        return torch.stack(
            [
                cross_entropy(tools.supernet(images, path, code), labels, label_smoothing=0.1)
                for path, code, (images, labels) in zip(paths, codes, shown)
            ]
        )

    mean = objective.backward(paths, batches(), tools)
    assert mean == pytest.approx(losses(net).mean().item())
    value = {
        "loss": lambda values: values.mean(),
        "relative": relative_loss(losses(net), costs),
        "ranking": lambda values: ranking_loss(values, costs),
    }[name]
    gradients = [parameter.grad for parameter in net.parameters()]
    assert_slope(lambda moved: value(losses(moved)), net, gradients)
    if name != "loss":
        plain = torch.autograd.grad(_mean_loss_of(tools, paths, next(batches())), list(net.parameters()))
        assert not all(torch.allclose(g, p, rtol=0.01) for g, p in zip(gradients, plain)), "no other than the mean's"
    assert all(p.grad is None and p.requires_grad for p in tools.supernet.parameters())


def _mean_loss_of(tools, paths, batch):
    losses = [
        cross_entropy(tools.supernet(batch[0], path, tools.simplex_net([path])[0]), batch[1], label_smoothing=0.1)
        for path in paths
    ]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("name", ["relative", "ranking"])
def test_paths_that_are_compared_see_the_same_images(make_training, batches, monkeypatch, name):
    seen, forward = [], Supernet.forward
    monkeypatch.setattr(
        Supernet, "forward", lambda self, images, *rest: seen.append(images) or forward(self, images, *rest)
    )
    make_training(name).step(batches(), STEPS, DataParallel())
    assert len(seen) == 4
    assert all(torch.equal(images, seen[0]) for images in seen)
