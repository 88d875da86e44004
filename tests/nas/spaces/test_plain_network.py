import subprocess
import sys

import torch
from torch import nn

from kshot_ext.nas.spaces import create_space, space_names
from kshot_ext.nas.spaces.plain_network import to_plain_network

LOAD_WITHOUT_THE_PACKAGE = """
import sys

class Refuse:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "kshot_ext":
            raise ImportError(f"{name} must not be needed")

sys.meta_path.insert(0, Refuse())
import torch

for network, images, expected in torch.load(sys.argv[1], weights_only=False):
    assert torch.equal(network(images), expected)
print("loaded")
"""


def test_saved_networks_of_all_spaces_load_without_this_package(tmp_path):
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    saved = []
    for name in space_names():
        space = create_space(name, image_shape=(1, 32, 32), num_classes=10, channels=2)
        for architecture in (space.cheapest(), space.largest()):
            network = space.build(architecture, torch.Generator().manual_seed(0)).eval()
            saved.append((network, images, network(images)))
    torch.save(saved, tmp_path / "model.pt")
    command = [sys.executable, "-c", LOAD_WITHOUT_THE_PACKAGE, str(tmp_path / "model.pt")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.stdout == "loaded\n", result.stderr


class Scale(nn.Module):
    """A layer that is not torch's."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(3.0))

    def forward(self, input):
        return self.factor * input


def test_other_classes_dissolve_into_the_graph():
    network = nn.Sequential(nn.Linear(2, 2), Scale())
    plain = to_plain_network(network)
    assert {type(module).__module__.partition(".")[0] for module in plain.children()} == {"torch"}
    assert torch.equal(plain(torch.ones(1, 2)), network(torch.ones(1, 2)))
