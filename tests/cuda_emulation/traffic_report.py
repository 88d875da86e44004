"""What every kernel moves for real layers: `PYTHONPATH=tests python -m cuda_emulation.traffic_report`.

Counts on the emulator, for the first, the middle and the last dense and depthwise convolution of each layer set of the
benchmarks. The emulator is slow, so images are cut; each row says to what. Writes benchmarks/results/cuda_traffic.json
and .md; with --set only these layer sets, the rows of others stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from cuda_emulation import build, chain_cases, dense_cases, depthwise_cases, workloads
from cuda_emulation.workloads import Workload

from benchmarks.layers import ConvLayer, LayerSet
from benchmarks.networks import layer_sets
from benchmarks.reporting.markdown import markdown_table
from benchmarks.reporting.results import write_json
from benchmarks.works import WORKS

COMMAND = "PYTHONPATH=tests python -m cuda_emulation.traffic_report"
RESULTS = build.ROOT / "benchmarks" / "results" / "cuda_traffic.json"
MOST_SIZE = 28
MOST_NUMBERS = 2**21  # of input and output
MOST_MULTIPLICATIONS = 2**26
LEAST_SAMPLES = 4  # with codes per sample
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Cut:
    """A layer on images as the emulator gets them."""

    layer: ConvLayer
    batch: int
    num_shots: int
    per_sample: bool
    dtype: str

    @property
    def dictionary(self) -> tuple[int, ...]:
        return (self.num_shots, *self.layer.weight_shape)

    @property
    def code(self) -> str:
        return "per sample" if self.per_sample else "shared"


def cut(layer: ConvLayer, layer_set: LayerSet, per_sample: bool, dtype: str) -> Cut:
    """The layer on smaller images and fewer of them, where they are larger than what takes a few seconds."""
    layer = replace(layer, size=min(layer.size, MOST_SIZE))
    numbers = layer.in_channels * layer.size**2 + layer.out_channels * layer.out_size**2
    batch = min(layer_set.batch, MOST_NUMBERS // numbers, MOST_MULTIPLICATIONS // layer.multiplications)
    return Cut(layer, max(batch, LEAST_SAMPLES if per_sample else 1), layer_set.num_shots, per_sample, dtype)


def _mixing(call: Cut) -> dict[str, Workload]:
    in_channels, kernel = call.dictionary[2], call.layer.kernel_size
    channels_last = in_channels > 1 and kernel > 1  # as dense kernels take them
    dictionary = workloads.random_dictionary(call.dictionary, DTYPES[call.dtype], channels_last)
    samples = call.batch if call.per_sample else None
    return {
        "mixing": workloads.mixing(dictionary, samples=samples),
        "mixing backward": workloads.mixing_backward(dictionary, samples=samples),
        "SGD, one use": workloads.sgd(dictionary, 1),
    }


def _batch_norm(call: Cut) -> dict[str, Workload]:
    positions, channels = call.batch * call.layer.out_size**2, call.layer.out_channels
    return {
        "forward": workloads.batch_norm(positions, channels, DTYPES[call.dtype]),
        "backward": workloads.batch_norm_backward(positions, channels, DTYPES[call.dtype]),
    }


def _axis(layer: ConvLayer) -> depthwise_cases.Axis:
    return depthwise_cases.Axis(layer.size, layer.kernel_size, layer.stride, layer.padding, layer.padding)


def _depthwise_case(call: Cut) -> depthwise_cases.Case:
    axis = _axis(call.layer)
    code = "sample" if call.per_sample else "shared"
    case = depthwise_cases.Case(axis, axis, call.batch, call.layer.in_channels, call.num_shots, code)
    return replace(case, dtype=call.dtype)


def _depthwise(call: Cut) -> dict[str, Workload]:
    case = _depthwise_case(call)
    directions = {"forward": "conv2d", "input gradient": "input_gradient", "weight gradient": "weight_gradient"}
    return {name: workloads.depthwise(case, direction) for name, direction in directions.items()}


def _depthwise_link(call: Cut) -> dict[str, Workload]:
    return _link(chain_cases.Link(_depthwise_case(call)))


def _pointwise_link(call: Cut) -> dict[str, Workload]:
    layer, axis = call.layer, _axis(call.layer)
    dtype = "tf32" if call.dtype == "float32" else call.dtype
    return _link(
        chain_cases.Link(chain_cases.DenseCase(axis, axis, call.batch, layer.in_channels, layer.out_channels, dtype))
    )


def _link(link: chain_cases.Link) -> dict[str, Workload]:
    return {direction: workloads.chained(link, direction) for direction in ("forward", "backward")}


def _dense(call: Cut) -> dict[str, Workload]:
    layer = call.layer
    axis = dense_cases.Axis(layer.size, layer.kernel_size, layer.stride, layer.padding, 1)
    case = dense_cases.Case(
        precision="tf32" if call.dtype == "float32" else call.dtype,
        shots=call.num_shots,
        batch=call.batch,
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        spare_in=0,
        spare_out=0,
        height=axis,
        width=axis,
        code="samples" if call.per_sample else "shared",
        gate="none",
        bias="none",
        seed=0,
    )
    weight = "per_sample_gradient" if call.per_sample else "weight_gradient"
    directions = {"forward": "forward", "input gradient": "input_gradient", "weight gradient": weight}
    return {name: workloads.dense(case, direction) for name, direction in directions.items()}


@dataclass(frozen=True)
class Family:
    """Kernels that one table shows.

    Args:
        kinds: of the layers that it is about, as `chosen` knows them.
        target: most bytes over the least that are aimed at; None where caches must absorb what is read again.
        note: what explains its figures.
        per_sample: whether it is also about layers with a code per sample.
    """

    title: str
    kinds: tuple[str, ...]
    workloads: Callable[[Cut], dict[str, Workload]]
    target: float | None
    note: str = ""
    per_sample: bool = True


_FEW_BLOCKS = (
    "Where images are few and small, a block has one sample, to keep the device busy, and each block reads the"
    " dictionary of its channels: 33 KB for the layer of 232 channels in bfloat16, read 8 times. The L2 cache has it."
)
_NARROW_ROWS = (
    "Where rows of channels are no multiple of 16 bytes (3, and 116 in bfloat16), results are stored in the widest"
    " accesses of 8, 4 or 2 bytes that fit them, and weights are mixed element by element."
)
_LINK = (
    "Norm, ReLU, convolution and the moments of its output; backward all gradients. The least: each raw tensor, each"
    " gradient and the dictionary once. The L2 cache has what is read again: margins of tiles, and the dictionary."
)
_POINTWISE_LINK = (
    "The weight is mixed beforehand. Backward makes the gradients of input and weight one after the other, so the least"
    " counts what both read twice."
)
FAMILIES = (
    Family("mixing and SGD", ("dense", "depthwise"), _mixing, 1.15),
    Family("batch norm + ReLU, training", ("dense", "depthwise"), _batch_norm, 1.15),
    Family("depthwise convolution", ("depthwise",), _depthwise, 1.5, _FEW_BLOCKS),
    Family("dense convolution", ("dense",), _dense, None, _NARROW_ROWS),
    Family("depthwise link of a chain", ("depthwise",), _depthwise_link, None, _LINK, per_sample=False),
    Family("1x1 link of a chain", ("pointwise",), _pointwise_link, None, _POINTWISE_LINK, per_sample=False),
)


@dataclass(frozen=True)
class Row:
    """Counts of one call. `images`: what was counted, and of what it was cut."""

    layer_set: str
    family: str
    layer: str
    dtype: str
    code: str
    images: str
    operation: str
    least_bytes: int
    moved: float
    moved_by_blocks: float
    sectors: float
    worst_sectors: float
    bank_conflict: float
    worst_bank_conflict: int


def chosen(layer_set: LayerSet, kind: str) -> list[ConvLayer]:
    """The first, the middle and the last distinct convolution of a kind; those of single pixels are left out.

    Args:
        kind: "dense", "depthwise", or "pointwise": dense, 1x1 and without a stride, as links of chains are.
    """
    layers = [layer for layer in layer_set.distinct_convolutions() if layer.size > 1]
    if kind == "pointwise":
        layers = [layer for layer in layers if layer.kind == "dense" and layer.kernel_size == layer.stride == 1]
    else:
        layers = [layer for layer in layers if layer.kind == kind]
    return [layers[0], layers[len(layers) // 2], layers[-1]]


def families_of(layer_set: LayerSet) -> list[Family]:
    """Those that are about the layers of a set."""
    per_sample = layer_set.name in WORKS["per_sample_code"].sets
    return [family for family in FAMILIES if family.per_sample or not per_sample]


def count(layer_set: LayerSet, family: Family, layer: ConvLayer, dtype: str) -> Iterable[Row]:
    """The rows of one layer in one family."""
    per_sample = layer_set.name in WORKS["per_sample_code"].sets
    call = cut(layer, layer_set, per_sample, dtype)
    torch.manual_seed(0)
    for operation, workload in family.workloads(call).items():
        traffic = workload.count()
        yield Row(
            layer_set=layer_set.name,
            family=family.title,
            layer=f"{layer.name}: {layer.geometry}",
            dtype=dtype,
            code=call.code,
            images=f"{_images(call.batch, call.layer)} of {_images(layer_set.batch, layer)}",
            operation=operation,
            least_bytes=traffic.least,
            moved=round(traffic.moved / traffic.least, 3),
            moved_by_blocks=round(traffic.moved_by_blocks / traffic.least, 3),
            sectors=round(traffic.sector_ratio, 3),
            worst_sectors=round(max(kernel["worst_sector_ratio"] for kernel in traffic.kernels), 3),
            bank_conflict=round(traffic.bank_conflict, 3),
            worst_bank_conflict=traffic.worst_bank_conflict,
        )


def _images(batch: int, layer: ConvLayer) -> str:
    return f"{batch} x {layer.size}x{layer.size}"


def count_set(layer_set: LayerSet) -> list[Row]:
    """All rows of a layer set."""
    return [
        row
        for family in families_of(layer_set)
        for kind in family.kinds
        for layer in chosen(layer_set, kind)
        for dtype in DTYPES
        for row in count(layer_set, family, layer, dtype)
    ]


def load_rows(path: Path) -> list[Row]:
    """Rows of a result file; none if there is no file."""
    return [Row(**fields) for fields in json.loads(path.read_text())["rows"]] if path.is_file() else []


def text(rows: list[Row]) -> str:
    """The rows as Markdown, a table for each family."""
    head = f"""# What the CUDA kernels move, counted on the emulator

Made by `{COMMAND}`: no GPU took part. A cell has

* bytes of all accesses of warps over the least possible, no cache helping; in parentheses, where it differs, with a
  cache for each block;
* sectors of 32 bytes touched over those that as many bytes side by side would touch;
* the worst bank conflict: passes of one access to shared memory where one could do; - where none is used.

The least: every operand read once and every result written once (batch norm in training reads its operands twice).
Images are cut for the emulator (at most {MOST_SIZE}x{MOST_SIZE}, and fewer of them): "counted of the benchmark's".
float32 products of dense layers are tf32. Sectors exceed the ideal where a row of channels is no whole number of them
(3, 24, 116 or 232 channels), and in the sums over blocks of depthwise weights' gradients, which are few.
"""
    return "\n".join([head, *(_family_table(family, rows) for family in FAMILIES)])


def _family_table(family: Family, rows: list[Row]) -> str:
    own = [row for row in rows if row.family == family.title]
    operations = list(dict.fromkeys(row.operation for row in own))
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in own:
        key = (f"{row.layer_set} {row.layer}", row.images, row.code, row.dtype)
        lines.setdefault(key, {})[row.operation] = cell(row)
    aim = f"to reach: {family.target}" if family.target else "no bound: the L2 cache has what blocks read again"
    worst = max((row.moved for row in own), default=1.0)
    table = markdown_table(
        ("layer", "images", "code", "dtype", *operations),
        [(*key, *(cells[operation] for operation in operations)) for key, cells in lines.items()],
    )
    title = f"## {family.title}: at most {worst:.2f} times the least bytes ({aim})"
    return f"{title}\n\n{family.note}\n\n{table}" if family.note else f"{title}\n\n{table}"


def cell(row: Row) -> str:
    """Bytes, sectors and conflicts of a row."""
    moved, by_blocks = f"{row.moved:.2f}", f"{row.moved_by_blocks:.2f}"
    bytes = moved if moved == by_blocks else f"{moved} ({by_blocks})"
    return f"{bytes}, {row.sectors:.2f}, {row.worst_bank_conflict or '-'}"


def main() -> None:
    """Counts, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", choices=layer_sets(), help="only this layer set; may be repeated")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the JSON file; the table is written beside it")
    options = parser.parse_args()
    asked = options.set or list(layer_sets())
    found = {name: [row for row in load_rows(options.out) if row.layer_set == name] for name in layer_sets()}
    found |= {name: count_set(layer_sets()[name]) for name in asked}
    rows = [row for name in layer_sets() for row in found[name]]
    write_json(options.out, {"command": COMMAND, "rows": [asdict(row) for row in rows]})
    options.out.with_suffix(".md").write_text(text(rows), encoding="utf-8")
    print(text(rows))


if __name__ == "__main__":
    main()
