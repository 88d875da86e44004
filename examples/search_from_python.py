"""A whole search from a program: follow it, look at the front, train a smaller network of it, and export that.

    python examples/search_from_python.py --out my_search

It takes about a minute on digits. Give `nas.search` your own data and space, and more epochs, to mean it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from kshot_ext import nas


def main(out: Path, epochs: int = 20, max_images: int | None = None) -> torch.Tensor:
    """Search, and return the class scores of the exported network for two blank images."""
    losses: list[float] = []

    # 1. Search. Every keyword is a setting of a file; `kshot-ext search --print-config` prints all.
    run = nas.search(
        out=out,
        shots=2,
        epochs=epochs,
        max_images=max_images,
        search={"population": 8, "generations": 3},
        retrain={"epochs": max(epochs // 2, 1), "seeds": 1},
        rivals=2,
        on_evaluated=lambda network: losses.append(network.supernet_loss),  # loggers hang here
    )
    print(f"{len(losses)} architectures evaluated, the best loss {min(losses):.3f}")
    print(f"winner {run.winner.test_accuracy:.3f}, rivals {[round(rival.test_accuracy, 3) for rival in run.rivals]}")

    # 2. The front: no other network is better and cheaper.
    for network in run.front:
        print(f"{network.key}  {network.macs:>9,} multiply-accumulates, loss {network.supernet_loss:.3f}")

    # 3. Train another point of it from scratch, here the cheapest.
    smallest = min(run.front, key=lambda network: network.macs)
    another = run.retrain(smallest.key)
    print(f"the smallest, trained from scratch: {another.described.test_accuracy:.3f}")

    # 4. One file with the preprocessing inside, which needs nothing of this package.
    exported = run.export("winner", format="pt2")
    program = torch.export.load(exported.path).module()
    return program(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("my_search"), help="run folder to create")
    print(main(parser.parse_args().out).shape)
