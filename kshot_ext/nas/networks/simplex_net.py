"""The simplex-net: from an architecture to the code that mixes the K weight copies for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kshot_ext.nas.checks import check_at_least
from kshot_ext.nas.networks.code_settings import CodeForm, CodeSettings
from kshot_ext.nas.networks.code_starts import CODE_STARTS, CodeStart
from kshot_ext.nas.randomness import seeded_by
from kshot_ext.nas.spaces.architecture import Architecture
from kshot_ext.nas.spaces.space import SearchSpace


class SimplexNet(nn.Module):
    """Codes by a network of one hidden layer, formed as :class:`CodeSettings` says from

        logits(a) = W2 relu(W1 onehot(a) + b1) + b2

    Where the space searches widths, a second branch reads them: ``V onehot(widths)`` is added inside the relu.

    W2 and b2 start at zero, so an untrained simplex-net gives every architecture the code of the settings' ``start``.
    Su et al., "K-shot NAS: Learnable Weight-Sharing for NAS with K-shot Supernets", ICML 2021.

    Args:
        space: the space whose architectures it reads.
        num_shots: K, the length of a code, at least 1.
        generator: source of the initial weights.
        hidden_features: width of the hidden layer.
        settings: how codes are formed; the default is one code per path, ``softmax(logits)``.

    Example:
        >>> from kshot_ext.nas.spaces import create_space
        >>> space = create_space("nas-bench-macro", image_shape=(1, 8, 8), num_classes=10)
        >>> simplex_net = SimplexNet(space, 4, torch.Generator().manual_seed(0))
        >>> simplex_net([space.cheapest(), space.largest()]).tolist()
        [[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]
    """

    free_share: Tensor
    temperature: Tensor

    def __init__(
        self,
        space: SearchSpace,
        num_shots: int,
        generator: torch.Generator,
        hidden_features: int = 100,
        settings: CodeSettings | None = None,
    ) -> None:
        super().__init__()
        check_at_least("num_shots", num_shots, 1)
        check_at_least("hidden_features", hidden_features, 1)
        self.space = space
        self.num_shots = num_shots
        self.settings = settings or CodeSettings()
        num_inputs = space.encode(space.cheapest()).numel()
        num_codes = space.num_layers if self.settings.per_layer else 1
        with seeded_by(generator):
            self.operation_branch = nn.Linear(num_inputs, hidden_features)
            self.output = nn.Linear(hidden_features, num_codes * num_shots)
            self.width_branch = None
            if space.widths is not None:
                num_inputs = space.encode_widths(space.cheapest()).numel()
                self.width_branch = nn.Linear(num_inputs, hidden_features, bias=False)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        kind = CODE_STARTS[self.settings.start] if num_shots > 1 else None
        self.start: CodeStart | None = None if kind is None else kind(space, num_shots, self.settings.spread, generator)
        # Buffers, so that a checkpoint knows them; the final form is what a trained one has.
        for name, value in self.settings.form_at(1)._asdict().items():
            self.register_buffer(name, torch.tensor(value))

    def set_form(self, form: CodeForm) -> None:
        """Forms codes like this from now on; training does it, so that they part by degrees."""
        self.free_share.fill_(form.free_share)
        self.temperature.fill_(form.temperature)

    def forward(self, architectures: Sequence[Architecture]) -> Tensor:
        """Codes of M architectures: no entry is negative and each row sums to 1.

        Returns:
            float32 ``[M, K]``; with codes per layer ``[M, L, K]``.
        """
        hidden = self.operation_branch(self._encoded(self.space.encode, architectures))
        if self.width_branch is not None:
            hidden = hidden + self.width_branch(self._encoded(self.space.encode_widths, architectures))
        logits = self.output(torch.relu(hidden)).unflatten(1, (-1, self.num_shots))  # [M, 1 or L, K]
        if self.start is not None:
            logits = logits + self.start(architectures)
        free = (logits / self.temperature).softmax(dim=2)
        codes = torch.lerp(torch.full_like(free, 1 / self.num_shots), free, self.free_share)
        return codes if self.settings.per_layer else codes[:, 0]

    @torch.no_grad()
    def code(self, architecture: Architecture) -> Tensor:
        """The code of one architecture, float32 ``[K]`` or, with codes per layer, ``[L, K]``; without gradient."""
        return self([architecture])[0]

    def _encoded(self, encode: Callable[[Architecture], Tensor], architectures: Sequence[Architecture]) -> Tensor:
        encoded = torch.stack([encode(architecture) for architecture in architectures])
        return encoded.flatten(1).to(self.output.weight.device)


@dataclass(frozen=True)
class CodeStatistics:
    """How the codes of random architectures spread; a spread near 0 means that K-shot has become one-shot.

    Args:
        distance: mean L1 distance between the codes of two architectures, 0 to 2; of all layers' codes on average.
        entry_shares: mean share of each of the K entries, summing to 1; over all layers.
    """

    distance: float
    entry_shares: tuple[float, ...]


@torch.no_grad()
def code_statistics(
    simplex_net: SimplexNet, space: SearchSpace, generator: torch.Generator, num_architectures: int = 256
) -> CodeStatistics:
    """Measures the codes of random architectures.

    Args:
        simplex_net: gives the codes.
        space: where the architectures are drawn from, uniformly.
        generator: draws them.
        num_architectures: how many, at least 2.
    """
    check_at_least("num_architectures", num_architectures, 2)
    codes = simplex_net([space.sample(generator) for _ in range(num_architectures)])
    rows = codes.reshape(num_architectures, -1, simplex_net.num_shots)  # [M, 1 or L, K]
    distance = torch.pdist(rows.flatten(1), p=1).mean() / rows.shape[1]
    return CodeStatistics(float(distance), tuple(rows.mean(dim=(0, 1)).tolist()))
