"""K-shot form of timm's `BatchNormAct2d`, a batch norm that holds the dropout and the activation behind it."""

from __future__ import annotations

from torch import Tensor, nn

from kshot_ext.nn.batch_norm import ACTIVATION_NAMES, NormalisesBatch
from kshot_ext.nn.conversions import register_conversion
from kshot_ext.nn.mixed import KShotMixed
from kshot_ext.nn.watched import is_free


class KShotBatchNormAct2d(NormalisesBatch, KShotMixed):
    """timm's `BatchNormAct2d` with K copies of weight and bias, `[K, C]`; made by `kshot_ext.convert` only.

    `forward(input, code=None)`: where nobody looks between, norm and activation are one operation.
    """

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor, code: Tensor | None = None) -> Tensor:  # type: ignore[override]  # adds nothing
        activation = ACTIVATION_NAMES.get(type(self.act))
        if activation is not None and self.holds_no_dropout() and is_free(self.act):
            return super().forward(input, code, activation=activation)
        output: Tensor = self.act(self.drop(super().forward(input, code)))
        return output

    def holds_no_dropout(self) -> bool:
        return type(self.drop) is nn.Identity and is_free(self.drop)


register_conversion("timm.layers.norm_act.BatchNormAct2d", KShotBatchNormAct2d.from_plain, KShotBatchNormAct2d.to_plain)
