"""A model of your own with four copies of every weight, trained under codes of its own, and made plain again.

    python examples/convert_a_model.py

Digits stand in for your images. Each image gets its own code from a small network, so the copies become experts.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import kshot_ext

SHOTS, STEPS, BATCH = 4, 200, 64


def plain_model() -> nn.Sequential:
    """Any model will do; `convert` finds its layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def main() -> tuple[float, float]:
    """Train, print both accuracies, and return them."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16  # [N, 1, 8, 8]
    labels = torch.tensor(digits.target)
    test = torch.arange(len(labels)) % 5 == 0

    # 1. K copies of every weight, a little apart from each other.
    model = kshot_ext.convert(plain_model(), num_shots=SHOTS)
    print(kshot_ext.conversion_report(model))

    # 2. What makes the codes. Here a linear map of the image; it may be any network.
    make_code = nn.Sequential(nn.Flatten(), nn.Linear(64, SHOTS), nn.Softmax(dim=1))

    # 3. KShotSGD keeps the gradients of the copies compact; the codes' network takes any optimiser.
    optimizers = [
        kshot_ext.optim.KShotSGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True),
        torch.optim.Adam(make_code.parameters(), lr=0.01),
    ]
    for step in range(STEPS):
        chosen = torch.randint(len(labels), (BATCH,))
        chosen = chosen[~test[chosen]]
        codes = make_code(images[chosen])  # [N, K]: one code for each image
        # Every other step uses their mean, [K], for all images, so that the merged model is good, too.
        kshot_ext.set_code(model, codes if step % 2 == 0 else codes.mean(0))
        loss = F.cross_entropy(model(images[chosen]), labels[chosen])
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    model.eval()
    with torch.no_grad():
        codes = make_code(images[test])
        kshot_ext.set_code(model, codes)
        accuracy = (model(images[test]).argmax(1) == labels[test]).float().mean().item()
        # 4. One code for all images gives a plain model, with torch's own layers.
        plain = kshot_ext.merge(model, codes.mean(0))
        merged = (plain(images[test]).argmax(1) == labels[test]).float().mean().item()
    print(f"test accuracy: {accuracy:.3f} with a code for each image, {merged:.3f} merged under their mean")
    return accuracy, merged


if __name__ == "__main__":
    main()
