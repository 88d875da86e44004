"""Similarities of choices, against gradients that are computed one by one."""

import pytest
import torch
from torch.nn import functional as F

from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.training.choice_similarity import choice_similarities
from kshot_ext.nas.training.data_parallel import DataParallel
from kshot_ext.nas.training.gradient_steps import GradientSteps

STEPS = GradientSteps("float32", torch.device("cpu"))


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("widths", [None, (0.5, 1.0)])
def test_similarities_are_cosines_of_the_gradients_of_what_is_shared(shots, widths, seeded):
    space = create_space("nas-bench-201", image_shape=(3, 8, 8), num_classes=3, channels=2, cells=1, widths=widths)
    supernet = Supernet(space, shots, seeded(0), perturbation=0.0).train()
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    batches = [(torch.randn(6, 3, 8, 8, generator=seeded(s)), torch.arange(6) % 3) for s in range(5)]
    code = torch.full((shots,), 1 / shots)
    found = choice_similarities(supernet, code, batches, seeded(3), STEPS, DataParallel(), 0.1)
    assert [tuple(matrix.shape) for matrix in found] == [(count, count) for count in space.num_choices]
    assert all(torch.equal(value, supernet.state_dict()[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in supernet.parameters())

    generator = seeded(3)
    paths = [space.genes(space.sample(generator)) for _ in batches]
    for gene in (1, len(space.num_choices) - 1):
        rows = []
        for choice in range(space.num_choices[gene]):
            supernet.zero_grad()
            for genes, (images, labels) in zip(paths, batches):
                path = space.from_genes([*genes[:gene], choice, *genes[gene + 1 :]])
                F.cross_entropy(supernet(images, path, code), labels, label_smoothing=0.1).backward()
            rows.append(
                {
                    name: p.grad.sum(dim=0).double().flatten()  # of the effective weight
                    for name, p in supernet.named_parameters()
                    if p.grad is not None and p.dim() > 2 and not name.startswith(f"layers.{gene}.")
                }
            )
        for one, other in ((0, 1), (1, len(rows) - 1)):
            shared = rows[one].keys() & rows[other].keys()
            ours, theirs = (torch.cat([rows[side][name] for name in sorted(shared)]) for side in (one, other))
            cosine = float(F.cosine_similarity(ours, theirs, dim=0))
            assert float(found[gene][one, other]) == pytest.approx(cosine, abs=1e-3)
            assert found[gene][other, one] == found[gene][one, other]
        assert found[gene].min() < 0.9999
