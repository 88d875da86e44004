"""The roofline prediction: its rule, bytes and operations of every stage, and that the committed files are its own."""

import itertools
import json
import math

import pytest

from benchmarks import roofline
from benchmarks.conv_stages import FORMS, ConvCall, fused_stages, mix_then_conv_stages
from benchmarks.cost import least_time
from benchmarks.layers import ConvLayer
from benchmarks.networks import layer_sets
from benchmarks.reporting.markdown import markdown_table
from benchmarks.roofline import NOTE, PRECISIONS, RATES, document, predict, predictions, text

DENSE = ConvLayer("dense", 6, 10, 3, 8)
DEPTHWISE = ConvLayer("depthwise", 12, 12, 5, 8, stride=2, groups=12)
FLOAT32, TF32, BFLOAT16 = PRECISIONS


def test_least_time_is_that_of_the_longest_part():
    rates = {"bytes": 10.0, "operations": 100.0}
    assert least_time({"bytes": 20, "operations": 100}, rates) == (2.0, "bytes")
    assert least_time({"bytes": 20, "operations": 300}, rates) == (3.0, "operations")


def stages(form, layer, per_sample, batch=5, shots=3, element=4):
    return {stage.name: stage for stage in form(ConvCall(layer, batch, shots, per_sample, element))}


def test_stages_with_a_shared_code():
    copy, input, output = 6 * 10 * 9, 5 * 6 * 64, 5 * 10 * 64
    products = 2 * 5 * 10 * 64 * 6 * 9
    blocks = math.ceil(5 * 64 / 128)
    fused = stages(fused_stages, DENSE, False)
    assert fused["forward"].bytes == 4 * (input + 3 * copy + output)
    assert fused["input gradient"].bytes == 4 * (output + 3 * copy + input)
    assert fused["weight gradient"].bytes == 4 * (input + output + copy)
    assert fused["mixing backward"].bytes == 4 * (copy + 3 * copy)
    assert [stage.products for stage in fused.values()] == [products, products, products, 0]
    assert [stage.mixing for stage in fused.values()] == [6 * copy * blocks, 6 * copy * blocks, 0, 6 * copy]
    mixed = stages(mix_then_conv_stages, DENSE, False)
    assert mixed["mixing"].bytes == 4 * (3 * copy + copy)
    assert mixed["forward"].bytes == 4 * (input + copy + output)
    assert [stage.products for stage in mixed.values()] == [0, products, products, products, 0]
    assert [stage.mixing for stage in mixed.values()] == [6 * copy, 0, 0, 0, 6 * copy]


def test_stages_with_codes_per_sample():
    copy, images = 6 * 10 * 9, 5 * 64 * (6 + 10)
    fused = stages(fused_stages, DENSE, True)
    assert list(fused) == ["forward", "input gradient", "gradients of dictionary and codes"]
    assert fused["forward"].mixing == 5 * 6 * copy  # one block of places a sample
    assert fused["gradients of dictionary and codes"].bytes == 4 * images + 2 * 4 * 3 * copy
    mixed = stages(mix_then_conv_stages, DENSE, True)
    assert mixed["mixing"].bytes == 4 * (3 + 5) * copy
    assert mixed["mixing backward"].bytes == 4 * (5 + 2 * 3) * copy
    taps = 12 * 25
    depthwise = stages(fused_stages, DEPTHWISE, True)
    assert depthwise["weight gradient"].bytes == 4 * 5 * 12 * (64 + 16) + 4 * 5 * taps
    assert depthwise["forward"].mixing == 5 * 6 * taps


def test_half_types_halve_all_but_sums():
    copy = 6 * 10 * 9
    for name, stage in stages(fused_stages, DENSE, False).items():
        halved = stages(fused_stages, DENSE, False, element=2)[name].bytes
        sums = 4 * copy if name in ("weight gradient", "mixing backward") else 0
        assert halved == (stage.bytes - sums) / 2 + sums


def test_a_stride_beyond_the_kernel_skips_input():
    call = ConvCall(ConvLayer("identity", 4, 8, 1, 9, stride=2), 2, 3, False, 4)
    assert (call.input, call.used_input) == (2 * 4 * 81, 2 * 4 * 25)
    copy, output = 4 * 8, 2 * 8 * 25
    assert fused_stages(call)[0].bytes == 4 * (call.used_input + 3 * copy + output)
    assert fused_stages(call)[1].bytes == 4 * (output + 3 * copy + call.input)  # zeros are written, too
    call = ConvCall(ConvLayer("strided", 4, 8, 3, 9, stride=2), 2, 3, False, 4)
    assert call.used_input == call.input


def test_units():
    """Depthwise products and mixing are made without tensor cores, dense products by them unless in float32."""
    call = ConvCall(DENSE, 5, 3, False, 4)
    forward = fused_stages(call)[0]
    assert roofline.demands(forward, DENSE, TF32) == {
        "bytes": forward.bytes,
        "float32 operations": forward.mixing,
        "tf32 operations": forward.products,
    }
    together = {"bytes": forward.bytes, "float32 operations": forward.mixing + forward.products}
    assert roofline.demands(forward, DENSE, FLOAT32) == together
    depthwise = fused_stages(ConvCall(DEPTHWISE, 5, 3, False, 2))[0]
    assert set(roofline.demands(depthwise, DEPTHWISE, BFLOAT16)) == {"bytes", "float32 operations"}


def test_a_prediction_adds_its_stages():
    prediction = predict("mix + convolution", ConvCall(DENSE, 5, 3, False, 4), TF32)
    bytes = sum(stage.bytes for stage in mix_then_conv_stages(ConvCall(DENSE, 5, 3, False, 4)))
    assert prediction.bound == "bytes"
    assert prediction.seconds == pytest.approx(bytes / RATES["bytes"])


def test_every_layer_of_every_set_is_predicted():
    parts = list(predictions())
    assert {part.layer_set.name for part in parts} == set(layer_sets())
    for part in parts:
        assert [row.layer for row in part.rows] == part.layer_set.distinct_convolutions()
        assert all(set(row.forms) == set(FORMS) for row in part.rows)


def test_committed_files_are_what_the_command_writes():
    """Run `python -m benchmarks.roofline` after a change to layers, stages or rates."""
    parts = list(predictions())
    written = (roofline.RESULTS / f"{roofline.FILE_NAME}.json").read_text(encoding="utf-8")
    assert json.loads(written) == document(parts)
    assert (roofline.RESULTS / f"{roofline.FILE_NAME}.md").read_text(encoding="utf-8") == text(parts)


def test_every_table_says_that_it_is_a_prediction():
    lines = text(list(predictions())).splitlines()
    heads = [before for before, after in itertools.pairwise(lines) if after.startswith("| ---")]
    assert len(heads) == 1 + len(layer_sets())
    assert all(NOTE in head for head in heads)
    assert all(part["note"] == NOTE for part in document(list(predictions()))["parts"])


def test_rows_of_another_length_are_refused():
    assert markdown_table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |\n"
    with pytest.raises(ValueError, match="expected 2 cells"):
        markdown_table(("a", "b"), [("1",)])
