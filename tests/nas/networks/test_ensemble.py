import pytest
import torch
from torch import nn

from kshot_ext.nas.networks.ensemble import Ensemble


class Constant(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return self.logits.expand(len(images), -1)


def test_the_mean_of_logits_decides():
    """Two of three networks prefer the first class, but the third is surer of the second."""
    networks = [Constant(torch.tensor(logits)) for logits in ([1.0, 0.0], [2.0, 0.0], [0.0, 6.0])]
    logits = Ensemble(networks)(torch.zeros(4, 1))
    torch.testing.assert_close(logits, torch.tensor([1.0, 2.0]).expand(4, 2))
    with pytest.raises(ValueError, match="expected one at the least, got none"):
        Ensemble([])
