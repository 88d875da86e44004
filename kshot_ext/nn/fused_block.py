"""Blocks with a forward of their own whose convolutions, norms, activations and residuals run as chains."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Proxy

from kshot_ext.nn.block_program import program_of, run_program
from kshot_ext.nn.deferred import Value
from kshot_ext.nn.flow import as_given, run_outermost
from kshot_ext.nn.fused_form import Fused


class FusedBlock(Fused):
    """Mixin of a module whose forward is plain to see (`nn/plain_forward.py`) with the settings that it has in a call.

    Where it is not, and under compilers, which see more than one block, the forward itself runs.
    """

    def forward(self, *inputs: Any, **options: Any) -> Any:
        if len(inputs) != 1 or options or isinstance(inputs[0], Proxy):  # which torch.fx traces a forward with
            return type(self).plain_kind.forward(self, *inputs, **options)
        return run_outermost(FusedBlock.run, self, inputs[0])

    def run(self, value: Value) -> Value:
        kind = type(self).plain_kind
        program = "compiling" if torch.compiler.is_compiling() else program_of(self, kind)
        if isinstance(program, str):
            output: Value = kind.forward(self, as_given(value))
            return output
        return run_program(self, program, value)

    def is_plain_to_see(self) -> bool:
        return not isinstance(program_of(self, type(self).plain_kind), str)
