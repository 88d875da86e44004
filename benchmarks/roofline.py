"""Times on an H100 that bytes and operations predict, layer by layer: `python -m benchmarks.roofline`.

A prediction, not a measurement: every stage of a form (`conv_stages.py`) takes as long as its bytes or its operations
at the peak rates of the data sheet, whichever is longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.conv_stages import FORMS, ConvCall, Stage
from benchmarks.cost import least_time
from benchmarks.layers import ConvLayer, LayerSet
from benchmarks.networks import layer_sets
from benchmarks.reporting.markdown import markdown_table
from benchmarks.reporting.results import write_json
from benchmarks.works import WORKS

COMMAND = "python -m benchmarks.roofline"
NOTE = "prediction, not a measurement"
RESULTS = Path(__file__).resolve().parent / "results"
FILE_NAME = "h100_prediction"
OURS, THEIRS = FORMS
_WHAT_IS_LEFT_OUT = (
    "A stage of a form (`conv_stages.py`) takes as long as its bytes or its operations at peak rates, whichever is"
    " longer, and stages follow each other. Left out are launches, what stays in a cache from stage to stage, and that"
    " no kernel reaches a peak: the times of small layers say little."
)


@dataclass(frozen=True)
class Precision:
    """How images and dictionaries are stored, and on which unit dense products are made."""

    name: str
    element_bytes: int
    unit: str


MACHINE = "NVIDIA H100 SXM"
SOURCE = "NVIDIA H100 Tensor Core GPU data sheet (H100 SXM); tensor cores without sparsity, half of the figures there"
RATES = {
    "bytes": 3.35e12,
    "float32 operations": 67e12,
    "tf32 operations": 494.7e12,
    "bfloat16 operations": 989.4e12,
}
VECTOR_UNIT = "float32 operations"  # of mixing and of depthwise products, which tensor cores do not make
PRECISIONS = (
    Precision("float32", 4, VECTOR_UNIT),
    Precision("tf32", 4, "tf32 operations"),
    Precision("bfloat16", 2, "bfloat16 operations"),
)
CODES = {"shared_code": False, "per_sample_code": True}  # works over convolutions: whether codes are per sample


@dataclass(frozen=True)
class Prediction:
    """The time of a form of a layer: of its stages, in order, each with what bounds it."""

    stages: list[tuple[str, float, str]]

    @property
    def seconds(self) -> float:
        return sum(seconds for _, seconds, _ in self.stages)

    @property
    def bound(self) -> str:
        """What bounds the stages that together take longest."""
        shares: dict[str, float] = {}
        for _, seconds, bound in self.stages:
            shares[bound] = shares.get(bound, 0.0) + seconds
        return max(shares, key=lambda bound: shares[bound])


def demands(stage: Stage, layer: ConvLayer, precision: Precision) -> dict[str, float]:
    """What a stage asks of the machine, under the names of `RATES`."""
    found: dict[str, float] = {"bytes": stage.bytes, VECTOR_UNIT: stage.mixing}
    unit = VECTOR_UNIT if layer.kind == "depthwise" else precision.unit
    found[unit] = found.get(unit, 0) + stage.products
    return found


def predict(form: str, call: ConvCall, precision: Precision) -> Prediction:
    """The prediction for a form, one of `conv_stages.FORMS`."""
    stages = FORMS[form](call)
    return Prediction([(s.name, *least_time(demands(s, call.layer, precision), RATES)) for s in stages])


@dataclass(frozen=True)
class Row:
    """A layer with the predictions for each form."""

    layer: ConvLayer
    forms: dict[str, Prediction]

    @property
    def speedup(self) -> float:
        """Time of mix + convolution over that of the fused form."""
        return self.forms[THEIRS].seconds / self.forms[OURS].seconds


@dataclass(frozen=True)
class Part:
    """The distinct convolutions of a layer set, with one kind of code, in one precision."""

    work: str
    layer_set: LayerSet
    precision: Precision
    rows: list[Row]

    def seconds(self, form: str) -> float:
        """Of all layers of the network."""
        return sum(row.layer.count * row.forms[form].seconds for row in self.rows)


def predictions() -> Iterator[Part]:
    """Every layer set with the codes that it is measured with, in every precision."""
    for work, per_sample in CODES.items():
        for name in WORKS[work].sets:
            layer_set = layer_sets()[name]
            for precision in PRECISIONS:
                yield Part(work, layer_set, precision, _rows(layer_set, per_sample, precision))


def _rows(layer_set: LayerSet, per_sample: bool, precision: Precision) -> list[Row]:
    rows = []
    for layer in layer_set.distinct_convolutions():
        call = ConvCall(layer, layer_set.batch, layer_set.num_shots, per_sample, precision.element_bytes)
        rows.append(Row(layer, {form: predict(form, call, precision) for form in FORMS}))
    return rows


def document(parts: list[Part]) -> dict[str, Any]:
    """The predictions as JSON has them, times in microseconds."""
    return {
        "note": NOTE,
        "command": COMMAND,
        "machine": MACHINE,
        "source_of_rates": SOURCE,
        "rates_per_second": RATES,
        "parts": [
            {
                "note": NOTE,
                "work": part.work,
                "layer_set": part.layer_set.name,
                "batch": part.layer_set.batch,
                "num_shots": part.layer_set.num_shots,
                "precision": part.precision.name,
                "rows": [
                    {
                        "layer": row.layer.name,
                        "kind": row.layer.kind,
                        "geometry": row.layer.geometry,
                        "count": row.layer.count,
                        **{form: _prediction(prediction) for form, prediction in row.forms.items()},
                    }
                    for row in part.rows
                ],
            }
            for part in parts
        ],
    }


def _prediction(prediction: Prediction) -> dict[str, Any]:
    stages = {name: float(f"{1e6 * seconds:.4g}") for name, seconds, _ in prediction.stages}
    return {"microseconds": float(f"{1e6 * prediction.seconds:.4g}"), "bound": prediction.bound, "stages": stages}


def _microseconds(seconds: float) -> str:
    microseconds = 1e6 * seconds
    return f"{microseconds:.3g}" if microseconds < 1000 else f"{microseconds:.0f}"


def text(parts: list[Part]) -> str:
    """The predictions as Markdown: a table of the sums, then one for each layer set and its codes."""
    rates = ", ".join(f"{rate:.4g} {unit}" for unit, rate in RATES.items())
    head = [
        f"# {MACHINE}: {NOTE}",
        "",
        f"Made by `{COMMAND}`. {_WHAT_IS_LEFT_OUT}",
        "",
        f"* Rates per second: {rates}. From: {SOURCE}.",
        "* Times in microseconds, forward and backward; b: bound by bytes, o: by operations.",
        f"* x: time of {THEIRS} over that of the {OURS} form.",
        "* The fused form of a dense layer mixes once for 128 output positions; the bytes of the copies count once a",
        "  stage, as if the L2 cache held them. What kernels move on top of the least: `cuda_traffic.md`.",
        "",
    ]
    sums = [
        (
            f"{part.layer_set.name}, {part.work}",
            part.precision.name,
            *(_microseconds(part.seconds(form)) for form in FORMS),
            f"{part.seconds(THEIRS) / part.seconds(OURS):.2f}",
        )
        for part in parts
    ]
    tables = [markdown_table((f"all convolutions of a network ({NOTE})", "precision", *FORMS, "x"), sums)]
    for first in range(0, len(parts), len(PRECISIONS)):
        tables.append(_set_table(parts[first : first + len(PRECISIONS)]))
    return "\n".join([*head, *tables])


def _set_table(parts: list[Part]) -> str:
    """A layer set with one kind of code, the precisions side by side."""
    layer_set = parts[0].layer_set
    columns = [f"{part.precision.name}: {what}" for part in parts for what in (*FORMS, "x")]
    rows = []
    for same in zip(*(part.rows for part in parts), strict=True):
        cells = [cell for row in same for cell in (*map(_time, row.forms.values()), f"{row.speedup:.2f}")]
        layer = same[0].layer
        rows.append((f"{layer.name}: {layer.geometry} {layer.kind}", str(layer.count), *cells))
    title = f"{layer_set.name}, {parts[0].work}, batch {layer_set.batch}, K = {layer_set.num_shots}"
    return f"## {title}\n\n" + markdown_table((f"layer ({NOTE})", "count", *columns), rows)


def _time(prediction: Prediction) -> str:
    return f"{_microseconds(prediction.seconds)} {'b' if prediction.bound == 'bytes' else 'o'}"


def main(out: Annotated[Path, typer.Option(help="Folder for the two files.")] = RESULTS) -> None:
    """Predict times on an H100; write h100_prediction.json and h100_prediction.md."""
    parts = list(predictions())
    write_json(out / f"{FILE_NAME}.json", document(parts))
    (out / f"{FILE_NAME}.md").write_text(text(parts), encoding="utf-8")
    print(text(parts))


if __name__ == "__main__":
    typer.run(main)
