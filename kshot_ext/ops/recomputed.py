"""What `torch.utils.checkpoint` makes anew for a backward pass must be what the forward pass had.

It runs a checkpointed part again with the code that the layers have by then. torch compares shapes only, so gradients
of another code would come out without a word. Formulas that keep a code compare: `ctx.code` is the one that was given.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def require_same_code(given: Tensor, code: Tensor) -> None:
    """Refuse a code that a backward pass found saved, `code`, if it is not the given one's value.

    Callers ask for identity before: this is called where it is another tensor, as after a recomputation.
    """
    if type(code) not in (Tensor, nn.Parameter) or code.data_ptr() == given.data_ptr():
        return
    if not torch.equal(code, given):
        raise RuntimeError(
            "the code was changed (kshot_ext.set_code) after a forward pass under torch.utils.checkpoint, which the "
            "backward pass runs again: call backward before, or let the checkpointed function take the code as an "
            "argument and set it"
        )
