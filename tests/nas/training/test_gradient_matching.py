"""Similarities of choices, against gradients that are computed one by one."""

import pytest
import torch
from torch.nn import functional as F

from kshot_ext.nas.networks.supernet import Supernet
from kshot_ext.nas.spaces import create_space
from kshot_ext.nas.training.gradient_matching import choice_similarities


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("widths", [None, (0.5, 1.0)])
def test_similarities_are_cosines_of_the_gradients_of_what_is_shared(shots, widths, seeded):
    space = create_space("nas-bench-201", image_shape=(3, 8, 8), num_classes=3, channels=2, cells=1, widths=widths)
    supernet = Supernet(space, shots, seeded(0), perturbation=0.0).train()
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    batches = [(torch.randn(6, 3, 8, 8, generator=seeded(s)), torch.arange(6) % 3) for s in range(5)]
    code = torch.full((shots,), 1 / shots)
    found = choice_similarities(supernet, code, batches, seeded(3), 0.1)
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
            kept = [
                (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
                for name, p in supernet.named_parameters()
                if gene >= space.num_layers or not name.startswith(f"layers.{gene}.")
            ]
            rows.append(torch.cat(kept).double())
        cosines = F.cosine_similarity(torch.stack(rows)[:, None], torch.stack(rows)[None], dim=2)
        torch.testing.assert_close(found[gene].double(), cosines, rtol=1e-4, atol=1e-4)
        assert cosines.min() < 1 - 1e-6
