"""Random cases of every operator.

A profile says what is large in a call, so that each stays small: many samples of tiny images, many copies, wide layers
whose channels fill vectors and leave some over, large kernels of depthwise layers, single pixels.
"""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st
from repeatable import integers

from .case import DTYPES, LAYOUTS, OWN_PLACES, Case

COPIES = (1, 2, 3, 4, 5, 8, 16, 17, 32, 33, 40)
CHANNELS = (1, 2, 3, 4, 5, 8, 16, 17, 31, 32, 33, 37)
ACTIVATIONS = ("identity", "relu", "relu6", "silu", "hardswish")
# Plain values most of the time: what is special hides everything else.
_ORDINARY = (
    "normal",
    "normal",
    "normal",
    "simplex",
    "one_hot",
    "zero",
    "negative",
    "spread",
    "small",
    "large",
    "integers",
)
_SPECIAL = ("huge", "denormal", "nan", "infinite", "one_nan", "one_infinite")


def cases(operator: str) -> st.SearchStrategy[Case]:
    """Random cases of one operator."""
    return _STRATEGIES[operator]()


def _case(
    pick: Any, operator: str, sizes: dict[str, Any], names: list[str], special: tuple[str, ...] = _SPECIAL, **more: Any
) -> Case:
    """A case of these sizes: dtypes, values, layouts, threads and the rest are drawn here."""
    values, layouts = {}, {}
    for name in [*names, "cotangent"]:
        kind = pick(st.sampled_from(_ORDINARY))
        if kind not in ("simplex", "one_hot") or name == "code":
            values[name] = kind
        layouts[name] = pick(st.sampled_from(more.pop(f"{name}_layouts", LAYOUTS)))
    if pick(integers(0, 3)) == 0:
        values[pick(st.sampled_from([*names, "cotangent"]))] = pick(st.sampled_from(special))
    dtype = pick(st.sampled_from(["float32", "float32", "float32", *DTYPES]))
    return Case(
        operator,
        sizes,
        dtype=dtype,
        parameter_dtype=pick(st.sampled_from(["", "", "", "float32"])),
        values={name: kind for name, kind in values.items() if kind != "normal"},
        layouts={name: kind for name, kind in layouts.items() if kind != "contiguous"},
        constant=pick(st.lists(st.sampled_from(names), unique=True, max_size=2)) if pick(integers(0, 2)) == 0 else [],
        seed=pick(integers(0, 99)),
        threads=pick(integers(1, 3)),
        instruction_set=pick(st.sampled_from(["auto", "portable", "avx2", "avx512"])),
    )


@st.composite
def _convolutions(pick: Any, operator: str) -> Case:
    dims = int(operator[-2])
    profile = pick(st.sampled_from(["plain", "wide", "many_copies", "many_samples", "depthwise", "pixel"]))
    small = integers(1, 3)
    groups, group_in, group_out = 1, pick(integers(1, 5)), pick(integers(1, 5))
    batch, shots = pick(integers(0, 4)), pick(integers(1, 4))
    kernel = pick(st.tuples(*[small] * dims))
    if profile == "plain":
        groups = pick(small)
    elif profile == "wide":
        group_in, group_out = pick(st.sampled_from(CHANNELS)), pick(st.sampled_from(CHANNELS))
        kernel = kernel if dims < 3 else (1, *kernel[1:])
        batch = pick(integers(1, 6))
    elif profile == "many_copies":
        shots = pick(st.sampled_from(COPIES))
    elif profile == "many_samples":
        batch, groups = pick(integers(60, 70)), pick(st.sampled_from([1, 1, 2, 5, 20]))
        group_in, group_out = (1, pick(integers(1, 2))) if groups > 1 else (group_in, group_out)
    elif profile == "depthwise":
        groups, group_in, group_out = pick(st.sampled_from(CHANNELS)), 1, 1
        kernel = pick(st.tuples(*[integers(1, 7 if dims < 3 else 3)] * dims))
    else:
        kernel = (1,) * dims
        batch = pick(integers(1, 9))
    in_channels, out_channels = groups * group_in, groups * group_out
    if groups == 1:
        input_width, output_width = pick(integers(1, in_channels)), pick(integers(1, out_channels))
    else:
        groups_in = pick(integers(1, groups))
        input_width, output_width = group_in * groups_in, group_out * pick(integers(1, groups_in))
    dilation = pick(st.tuples(*[integers(1, 2)] * dims))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    # Now and then windows of padding alone, on which oneDNN, as torch 2.13 calls it, may crash the process.
    pads = st.tuples(*[integers(0, r + (profile == "pixel")) for r in reach])
    padding: Any = pick(st.one_of(pads, st.sampled_from(["same", "valid"])))
    room = 1 if profile in ("many_samples", "pixel") else 9 if dims == 1 else 5 if dims == 2 else 2
    inside = padding if isinstance(padding, tuple) else [(r - 1) // 2 if padding == "same" else 0 for r in reach]
    least = pick(st.sampled_from([1, 1, 1, 1, 1, 1, 1, 0]))
    step = st.one_of(small, small, small, st.just(2**20))
    sizes = {
        "spatial": [max(least, r - 2 * p + pick(integers(0, room))) for r, p in zip(reach, inside)],
        "kernel": list(kernel),
        "batch": batch,
        "shots": 1 if operator == "gated_conv2d" else shots,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "groups": groups,
        "stride": 1 if padding == "same" else list(pick(st.tuples(*[step] * dims))),
        "padding": padding if isinstance(padding, str) else list(padding),
        "dilation": list(dilation),
        "bias": pick(st.sampled_from([None, "shared", "dictionary"])),
        "gate": pick(st.sampled_from([None, "shared", "per_sample", "active"])),
        "input_width": pick(st.sampled_from([in_channels, input_width])),
        "output_width": pick(st.sampled_from([None, output_width])),
        "algorithm": pick(st.sampled_from(["auto", "fused", "mix_then_conv"])),
    }
    if sizes["input_width"] < in_channels and groups > 1 and sizes["output_width"] is None:
        sizes["output_width"] = output_width
    if operator == "gated_conv2d":
        sizes["bias"] = sizes["bias"] and "shared"
    else:
        code = pick(st.sampled_from(["shared", "shared", "per_sample", "by_place"]))
        sizes["code_per_sample"], sizes["code_by_place"] = code != "shared", code == "by_place"
        if code == "by_place" and sizes["bias"] == "dictionary":  # which has no places
            sizes["bias"] = "shared"
    names = ["input", "weight", *(["code"] if operator != "gated_conv2d" else [])]
    return _case(pick, operator, sizes, names + [name for name in ("bias", "gate") if sizes[name]])


@st.composite
def _linear_maps(pick: Any) -> Case:
    in_features, out_features = pick(st.sampled_from(CHANNELS)), pick(st.sampled_from(CHANNELS))
    sizes = {
        "batch": pick(st.sampled_from([0, 1, 2, 3, 5, 64, 67])),
        "rows": list(pick(st.lists(integers(0, 3), max_size=2))),
        "shots": pick(st.sampled_from(COPIES)),
        "in_features": in_features,
        "out_features": out_features,
        "input_width": pick(integers(1, in_features)),
        "output_width": pick(st.one_of(st.none(), integers(1, out_features))),
        "code_per_sample": pick(st.booleans()),
        "bias": pick(st.sampled_from([None, "shared", "dictionary"])),
        "gate": pick(st.sampled_from([None, "shared", "per_sample"])),
    }
    return _case(pick, "kshot_linear", sizes, ["input", "weight", "code", *(n for n in ("bias", "gate") if sizes[n])])


def _dictionary(pick: Any) -> list[int]:
    """Sizes of a dictionary: many copies, long rows or odd ones."""
    rank = pick(integers(2, 6))
    if pick(integers(0, 4)) == 0:
        return [pick(integers(1, 3)), pick(integers(1, 3)), pick(st.sampled_from([511, 512, 513, 1031, 4097]))]
    shots = pick(st.sampled_from(COPIES))
    return [shots, *(pick(st.sampled_from([1, 2, 3, 4, 5, 8])) for _ in range(rank - 1))]


@st.composite
def _mixtures(pick: Any) -> Case:
    weight = _dictionary(pick)
    sizes = {
        "weight": weight,
        "samples": pick(st.sampled_from([0, 1, 2, 3, 4, 5, 9])),
        "code_per_sample": pick(st.booleans()),
        "gate": pick(st.sampled_from([None, "shared", "active", "per_sample"])),
        "out_channels": pick(st.one_of(integers(1, weight[1]), st.just(weight[1]))),
    }
    if len(weight) > 2:
        few = min(weight[2], 99)
        all_but_few = integers(0, few - 1).map(lambda others: weight[2] - others)
        sizes["in_channels"] = pick(st.one_of(st.none(), integers(1, few), all_but_few))
    return _case(pick, "effective_weight", sizes, ["weight", "code", *(["gate"] if sizes["gate"] else [])])


def _gates(pick: Any, case: Case) -> Case:
    """The case with its gates closed and open, most of the time."""
    if pick(integers(0, 3)):
        case.values["group_gates"] = "binary"
    return case


# What is left out may be infinite; a gate of zero then has a derivative that is not finite, or zero in the reference.
_OF_GROUPS = ("huge", "denormal")


@st.composite
def _groupings(pick: Any) -> Case:
    gates = pick(integers(0, 4))
    shots, *rest = _dictionary(pick)
    channels = [pick(integers(1, 3)) << gates for _ in range(2)]
    sizes = {
        "weight": [min(shots, 8) if gates > 2 else shots, *channels, *(min(size, 3) for size in rest[2:4])],
        "gates": gates,
        "samples": pick(st.sampled_from([0, 1, 2, 3, 5])),
        "code_per_sample": pick(st.booleans()),
    }
    names = ["weight", "code", "group_gates"]
    return _gates(pick, _case(pick, "dynamic_group_weight", sizes, names, _OF_GROUPS))


@st.composite
def _grouped_convolutions(pick: Any) -> Case:
    gates, kernel = pick(integers(0, 3)), [pick(integers(1, 3)) for _ in range(2)]
    sizes = {
        "spatial": [size + pick(integers(0, 4)) for size in kernel],
        "kernel": kernel,
        "batch": pick(integers(0, 4)),
        "shots": pick(integers(1, 5)),
        "in_channels": pick(integers(1, 3)) << gates,
        "out_channels": pick(integers(1, 3)) << gates,
        "stride": pick(integers(1, 3)),
        "padding": pick(integers(0, 1)),
        "bias": pick(st.sampled_from([None, "shared", "dictionary"])),
        "code_per_sample": pick(st.booleans()),
        "gates": gates,
    }
    names = ["input", "weight", "code", "group_gates", *(["bias"] if sizes["bias"] else [])]
    return _gates(pick, _case(pick, "dynamic_group_conv2d", sizes, names, _OF_GROUPS))


@st.composite
def _many_mixtures(pick: Any) -> Case:
    weights = [_dictionary(pick)[1:] for _ in range(pick(integers(1, 4)))]
    sizes = {
        "weights": weights,
        "shots": pick(st.sampled_from(COPIES)) if max(map(math.prod, weights)) < 1000 else 2,
        "samples": pick(integers(0, 5)),
        "code_per_sample": pick(st.booleans()),
    }
    return _case(pick, "mix_weights", sizes, ["code", *(f"weight{i}" for i in range(len(weights)))])


@st.composite
def _norms(pick: Any) -> Case:
    rank, channels = pick(integers(2, 5)), pick(st.sampled_from(CHANNELS))
    batch = pick(st.sampled_from([0, 1, 2, 3, 7, 65]))
    most = 3 if batch > 9 else 6
    sizes = {
        "input": [batch, channels, *(pick(integers(1, most)) for _ in range(rank - 2))],
        "channels": channels + pick(st.sampled_from([0, 0, 1, 5])),
        "shots": pick(st.sampled_from(COPIES)),
        "weight": pick(st.sampled_from([None, "plain", "dictionary"])),
        "bias": pick(st.sampled_from([None, "plain", "dictionary"])),
        "code_per_sample": pick(st.booleans()),
        "residual": pick(st.booleans()),
        "running": pick(st.booleans()),
        "training": pick(st.booleans()),
        "activation": pick(st.sampled_from(ACTIVATIONS)),
        "momentum": pick(st.sampled_from([0.0, 0.1, 1.0])),
        "eps": pick(st.sampled_from([1e-5, 1e-3, 0.1])),
    }
    if not sizes["running"]:
        sizes["training"] = True
    names = ["input", *(name for name in ("weight", "bias", "residual") if sizes[name])]
    if "dictionary" in (sizes["weight"], sizes["bias"]):
        names.append("code")
    case = _case(pick, "batch_norm_act", sizes, names)
    if pick(st.booleans()):
        case.values["input"] = pick(st.sampled_from(["offset", "constant", "positive"]))
    return case


def _updated(pick: Any) -> dict[str, Any]:
    """Shapes of some weights, and the widths of their uses."""
    weights, uses = [], []
    for _ in range(pick(integers(1, 3))):
        shape = _dictionary(pick) if pick(integers(0, 4)) else pick(st.sampled_from([[], [7], [33]]))
        weights.append(shape)
        widths = []
        for _ in range(pick(integers(0, 4)) if len(shape) > 1 else 0):
            in_channels = pick(st.sampled_from([shape[2], 1])) if len(shape) > 2 else 1
            widths.append([pick(st.sampled_from([shape[1], 1])), in_channels, pick(st.booleans())])
        uses.append(None if len(shape) < 2 or pick(integers(0, 4)) == 0 else widths)
    return {"weights": weights, "uses": uses}


@st.composite
def _sgd_updates(pick: Any) -> Case:
    sizes = _updated(pick)
    momentum = pick(st.sampled_from([0.0, 0.5, 0.9]))
    nesterov = bool(momentum) and pick(st.booleans())
    sizes["settings"] = {
        "lr": pick(st.sampled_from([0.0, 0.1, 1.0])),
        "momentum": momentum,
        "dampening": 0.0 if nesterov else pick(st.sampled_from([0.0, 0.25, 1.0])),
        "weight_decay": pick(st.sampled_from([0.0, 0.01])),
        "nesterov": nesterov,
        "maximize": pick(st.booleans()),
    }
    own = {"weight_layouts": OWN_PLACES, "momentum_layouts": OWN_PLACES}
    return _case(pick, "sgd_update", sizes, ["weight", "momentum", "grad", "code", "gate", "use"], **own)


@st.composite
def _adamw_updates(pick: Any) -> Case:
    sizes = _updated(pick)
    sizes["steps"] = [pick(st.sampled_from([1.0, 2.0, 50.0])) for _ in sizes["weights"]]
    sizes["settings"] = {
        "lr": pick(st.sampled_from([0.0, 0.1, 1.0])),
        "beta1": pick(st.sampled_from([0.0, 0.5, 0.9])),
        "beta2": pick(st.sampled_from([0.0, 0.5, 0.999])),
        "eps": pick(st.sampled_from([1e-8, 1e-3, 1.0])),
        "weight_decay": pick(st.sampled_from([0.0, 0.01])),
        "maximize": pick(st.booleans()),
    }
    moments = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if pick(st.booleans()) else [])]
    sizes["moments"] = moments
    own = {f"{name}_layouts": OWN_PLACES for name in ("weight", *moments)}
    return _case(pick, "adamw_update", sizes, ["weight", *moments, "grad", "code", "gate", "use"], **own)


@st.composite
def _alignments(pick: Any) -> Case:
    rows, columns = (pick(st.sampled_from([1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 40])) for _ in range(2))
    sizes = {
        "count": pick(integers(0, 4)),
        "rows": rows,
        "columns": rows if pick(integers(0, 2)) == 0 else columns,
        "channels": pick(integers(1, 5)),
        "band": pick(st.sampled_from([None, 0, 1, 2, 5, 1000])),
        "norm": pick(integers(1, 2)),
        "lengths": pick(st.booleans()),
    }
    return _case(pick, "dtw_align", sizes, ["predictions", "targets"])


_STRATEGIES = {
    **{name: lambda name=name: _convolutions(name) for name in ("kshot_conv1d", "kshot_conv2d", "kshot_conv3d")},
    "gated_conv2d": lambda: _convolutions("gated_conv2d"),
    "kshot_linear": _linear_maps,
    "effective_weight": _mixtures,
    "dynamic_group_weight": _groupings,
    "dynamic_group_conv2d": _grouped_convolutions,
    "mix_weights": _many_mixtures,
    "dtw_align": _alignments,
    "batch_norm_act": _norms,
    "sgd_update": _sgd_updates,
    "adamw_update": _adamw_updates,
}
OPERATORS = tuple(_STRATEGIES)
