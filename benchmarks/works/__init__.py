"""The works: what is measured, on which layer sets. Each file here makes the rows of one kind of work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.layers import LayerSet
from benchmarks.networks import layer_sets
from benchmarks.place import PRECISIONS
from benchmarks.works.adamw import adamw_rows
from benchmarks.works.alignment import alignment_rows
from benchmarks.works.batch_norm import batch_norm_rows
from benchmarks.works.chain import chain_rows
from benchmarks.works.chain_evaluation import chain_evaluation_rows
from benchmarks.works.dynamic_groups import dynamic_group_rows
from benchmarks.works.fuse import fuse_rows
from benchmarks.works.own_supernets import own_supernet_rows
from benchmarks.works.per_sample_code import per_sample_code_rows
from benchmarks.works.routed import routed_rows
from benchmarks.works.row import Row
from benchmarks.works.sgd import sgd_rows
from benchmarks.works.shared_code import shared_code_rows
from benchmarks.works.supernet_training import supernet_training_rows
from benchmarks.works.training_step import training_step_rows
from benchmarks.works.widths import width_rows

SHARED_SETS = ("nas_bench_macro", "mobilenet_v2_se", "shufflenet_v2")


@dataclass(frozen=True)
class Work:
    """A kind of work.

    Args:
        rows: from a layer set to what is measured on it.
        sets: names of the layer sets that it is measured on unless others are asked for.
        precisions: those that it makes sense in.
    """

    name: str
    rows: Callable[[LayerSet], list[Row]]
    sets: tuple[str, ...]
    precisions: tuple[str, ...] = tuple(PRECISIONS)


WORKS = {
    work.name: work
    for work in (
        Work("shared_code", shared_code_rows, SHARED_SETS),
        Work("per_sample_code", per_sample_code_rows, ("efficientnet_b0",)),
        Work("widths", width_rows, SHARED_SETS),
        Work("batch_norm", batch_norm_rows, SHARED_SETS),
        Work("chain", chain_rows, ("nas_bench_macro",), ("float32", "tf32", "bfloat16", "float16")),
        Work("chain_evaluation", chain_evaluation_rows, ("nas_bench_macro",), ("float32", "bfloat16", "float16")),
        Work("dynamic_groups", dynamic_group_rows, ("nas_bench_macro",), ("float32", "bfloat16", "float16")),
        Work("sgd", sgd_rows, ("nas_bench_macro",), ("float32", "tf32")),  # weights to be trained stay in float32
        Work("adamw", adamw_rows, ("nas_bench_macro",), ("float32", "tf32")),
        Work("alignment", alignment_rows, ("nas_bench_macro",), ("float32",)),
        Work("training_step", training_step_rows, ("nas_bench_macro",)),
        Work("supernet_training", supernet_training_rows, ("nas_bench_macro",), ("float32", "tf32", "bfloat16")),
        Work("own_supernets", own_supernet_rows, ("nas_bench_macro",), ("float32", "tf32")),
        Work("fuse", fuse_rows, ("nas_bench_macro",), ("float32",)),
        Work("routed", routed_rows, ("nas_bench_macro",), ("float32",)),
    )
}


def find_row(work: str, set_name: str, row: str) -> Row:
    """The row of that name.

    Raises:
        KeyError: there is none.
    """
    rows = {found.name: found for found in WORKS[work].rows(layer_sets()[set_name])}
    if row not in rows:
        raise KeyError(f"{work} on {set_name} has no row {row!r}; it has {', '.join(rows)}")
    return rows[row]
