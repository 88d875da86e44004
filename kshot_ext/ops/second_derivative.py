"""The native kernels have first derivatives only; asking for more is an error, not a silent zero."""

from __future__ import annotations

import torch


def refuse_second_derivative(backward_op: str) -> None:
    """Register an autograd formula for `backward_op` that raises when it is differentiated."""

    def refuse(ctx, *grads):
        raise RuntimeError(
            f"{backward_op} has no derivative: the native kernels of kshot_ext differentiate once. "
            "For second derivatives run under `with kshot_ext.backend.use_reference():` "
            "or set KSHOT_EXT_BACKEND=reference."
        )

    torch.library.register_autograd(backward_op, refuse)
