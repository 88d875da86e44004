"""Calls the raw operators with arguments that are wrong in one to three places; the process must live.

    python tests/ops/raw_operator_fuzzer.py SEED CASES

Each case begins with good arguments and spoils some: sizes, ranks, dtypes, strides, numbers and the lengths of lists.
A call may return or raise. The last line counts what came; the line before a crash names the case that caused it.
"""

from __future__ import annotations

import collections
import random
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kshot_ext import backend

NUMBERS = (-(2**63), -(2**31), -7, -1, 0, 1, 2, 3, 9, 2**20, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64)
MEMORY = 1 << 30  # bytes beyond those in use; to be refused more must be an error, too


def convolution(rng: random.Random) -> tuple[dict[str, Any], tuple[int, ...]]:
    depthwise, per_sample = rng.random() < 0.5, rng.random() < 0.5
    batch, channels, out, shots = rng.randint(0, 3), rng.randint(1, 20), rng.randint(1, 20), rng.randint(1, 5)
    out = channels if depthwise else out
    rows = (batch,) if per_sample else ()
    gate_rows = rows if depthwise else ()
    gated = rng.random() < 0.5 and (depthwise or not per_sample)
    arguments = {
        "input": torch.randn(batch, channels, 6, 5),
        "weight": torch.randn(shots, out + 1, 1 if depthwise else channels + 1, 3, 2),
        "code": torch.randn(*rows, shots, *((3, 2) if per_sample and rng.random() < 0.3 else ())),
        "gate": torch.randn(*gate_rows, out) if gated else None,
    }
    window = {
        "stride": [2, 1],
        "padding": [1, 1, 0, 2],
        "dilation": [1, 2],
        "depthwise": depthwise,
        "allow_tf32": False,
    }
    arguments["bias"] = torch.randn(*rows, out) if rng.random() < 0.5 else None
    arguments["out_channels"] = out
    return {**arguments, **window, "depthwise": depthwise, "allow_tf32": False}, (batch, out, 3, 5)


def fused_conv2d(rng: random.Random) -> list[Any]:
    return list(convolution(rng)[0].values())


def fused_conv2d_backward(rng: random.Random) -> list[Any]:
    arguments, size = convolution(rng)
    del arguments["bias"], arguments["out_channels"]
    return [torch.randn(size), *arguments.values(), *[rng.random() < 0.7 for _ in range(5)]]


def effective_weight(rng: random.Random) -> list[Any]:
    shape = [rng.randint(1, 5), rng.randint(1, 9), rng.randint(1, 9), 2, 2][: rng.randint(2, 5)]
    rows = [3] if rng.random() < 0.5 else []
    out, inner = rng.randint(1, shape[1]), rng.randint(1, shape[2]) if len(shape) > 2 else 1
    gate = torch.randn(*rows, out) if rng.random() < 0.5 else None
    return [torch.randn(shape), torch.randn(*rows, shape[0]), gate, out, inner]


def effective_weight_backward(rng: random.Random) -> list[Any]:
    weight, code, gate, out, inner = effective_weight(rng)
    size = [*code.shape[:-1], out, *([inner] if weight.dim() > 2 else []), *weight.shape[3:]]
    return [torch.randn(size), weight, code, gate, True, rng.random() < 0.5, rng.random() < 0.5]


def dynamic_group_weight(rng: random.Random) -> list[Any]:
    gates, kernel = rng.randint(0, 3), [2, 2][: rng.randint(0, 2)]
    channels = [rng.randint(1, 3) << gates for _ in range(2)]
    code = torch.randn(*([3] if rng.random() < 0.5 else []), rng.randint(1, 5))
    return [torch.randn(code.shape[-1], *channels, *kernel), code, torch.randint(0, 2, (gates,)).float()]


def dynamic_group_weight_backward(rng: random.Random) -> list[Any]:
    weight, code, gates = dynamic_group_weight(rng)
    needs = [rng.random() < 0.7 for _ in range(3)]
    return [torch.randn(*code.shape[:-1], *weight.shape[1:]), weight, code, gates, *needs]


def dtw_align(rng: random.Random) -> list[Any]:
    count, rows, columns, channels = rng.randint(0, 3), rng.randint(1, 40), rng.randint(1, 40), rng.randint(1, 4)
    lengths = [torch.randint(1, most + 1, (count,)) if rng.random() < 0.5 else None for most in (rows, columns)]
    points = [torch.randn(count, most, channels) for most in (rows, columns)]
    return [*points, *lengths, rng.choice((-1, 0, 3)), rng.randint(1, 2)]


def dtw_align_backward(rng: random.Random) -> list[Any]:
    arguments = dtw_align(rng)
    cost, path = torch.ops.kshot_ext.dtw_align(*arguments)
    return [torch.randn_like(cost), *arguments[:2], path, arguments[-1], rng.random() < 0.7, rng.random() < 0.7]


def mix_weights(rng: random.Random) -> list[Any]:
    shots = rng.randint(1, 5)
    return [[torch.randn(shots, rng.randint(1, 9), 3) for _ in range(rng.randint(0, 3))], torch.randn(shots)]


def mix_weights_backward(rng: random.Random) -> list[Any]:
    weights, code = mix_weights(rng)
    return [[w[0].clone() for w in weights], weights, code, [1] * len(weights), True]


def avg_pool2d(rng: random.Random) -> list[Any]:
    window = [rng.randint(1, 4), rng.randint(1, 4)], [rng.randint(1, 3), rng.randint(1, 3)], [0, 0]
    divisor = rng.choice((0, 0, 3))
    image = torch.randn(rng.randint(0, 3), rng.randint(1, 20), 5, 4)
    return [image, *window, rng.random() < 0.5, rng.random() < 0.5, divisor]


def avg_pool2d_backward(rng: random.Random) -> list[Any]:
    image, *settings = avg_pool2d(rng)
    grad = torch.ops.kshot_ext.avg_pool2d(image, *settings)
    return [torch.randn_like(grad), 5, 4, *settings]


def even_and_odd_channels(rng: random.Random) -> list[Any]:
    batch = rng.randint(0, 3)
    behind = torch.randn(batch, 2 * rng.randint(1, 20), 5, 4) if rng.random() < 0.5 else None
    return [torch.randn(batch, 2 * rng.randint(1, 20), 5, 4), behind]


def even_and_odd_channels_backward(rng: random.Random) -> list[Any]:
    return [torch.randn(2, 7, 5, 4), torch.randn(2, 7, 5, 4), 2 * rng.randint(0, 7)]


def norm(rng: random.Random) -> dict[str, Any]:
    batch, channels = rng.randint(0, 3), rng.randint(1, 20)
    rows, fixed, shots = (batch,) if rng.random() < 0.5 else (), rng.random() < 0.5, rng.choice((0, 3))
    return {
        "input": torch.randn(batch, channels, 3, 2),
        "weight": torch.randn(*((shots,) if shots else rows), channels) if rng.random() < 0.7 else None,
        "bias": torch.randn(*((shots,) if shots else ()), channels) if rng.random() < 0.7 else None,
        "code": torch.randn(*rows, shots) if shots else None,
        "residual": torch.randn(batch, channels, 3, 2) if rng.random() < 0.5 else None,
        "mean": torch.randn(channels) if fixed else None,
        "variance": torch.rand(channels) if fixed else None,
        "eps": 1e-5,
        "activation": rng.randint(0, 4),
    }


def batch_norm_act(rng: random.Random) -> list[Any]:
    return list(norm(rng).values())


def batch_norm_act_backward(rng: random.Random) -> list[Any]:
    arguments = norm(rng)
    channels = arguments["input"].shape[1]
    arguments |= {"mean": torch.randn(channels), "variance": torch.rand(channels)}
    return [torch.randn_like(arguments["input"]), *arguments.values(), *[rng.random() < 0.5 for _ in range(7)]]


def chain_norm(rng: random.Random, input: Tensor) -> dict[str, Any]:
    """A norm on the input, or none."""
    batch, channels = input.shape[:2]
    rows = (batch,) if rng.random() < 0.5 else ()
    given = rng.random() < 0.7
    return {
        "mean": torch.randn(channels) if given else None,
        "variance": torch.rand(channels) if given else None,
        "norm_weight": torch.randn(*rows, channels) if given else None,
        "norm_bias": torch.randn(channels) if given and rng.random() < 0.5 else None,
        "eps": 1e-5,
        "activation": rng.randint(0, 4),
    }


def chain_link(rng: random.Random) -> tuple[dict[str, Any], tuple[int, ...]]:
    arguments, size = convolution(rng)
    if arguments["code"].dim() > (2 if arguments["depthwise"] else 1):
        arguments |= {"code": torch.randn(arguments["weight"].shape[0]), "gate": None}
    input, *mixing = (arguments[name] for name in ("input", "weight", "code", "gate", "out_channels"))
    window = {name: arguments[name] for name in ("stride", "padding", "dilation", "depthwise")}
    names = ("weight", "code", "gate", "out_channels")
    return {"input": input, **chain_norm(rng, input), **dict(zip(names, mixing)), **window}, size


def chained_conv2d(rng: random.Random) -> list[Any]:
    return [*chain_link(rng)[0].values(), rng.random() < 0.7]


def chained_conv2d_backward(rng: random.Random) -> list[Any]:
    arguments, size = chain_link(rng)
    window = [arguments.pop(name) for name in ("stride", "padding", "dilation", "depthwise")]
    del arguments["out_channels"]
    of_moments = [torch.randn(size[1]) if rng.random() < 0.7 else None for _ in range(2)]
    needs = [rng.random() < 0.7 for _ in range(5)]
    output = torch.randn(size), torch.randn(size[1])
    return [torch.randn(size), *of_moments, *arguments.values(), *output, *window, *needs]


def folded_conv2d(rng: random.Random) -> list[Any]:
    arguments, _ = chain_link(rng)
    input, weight, code = (arguments[name] for name in ("input", "weight", "code"))
    channels, rows = arguments["out_channels"], (input.shape[0],) if code.dim() == 2 and rng.random() < 0.5 else ()
    norm = [torch.randn(channels), torch.rand(channels)]
    norm += [torch.randn(*rows, channels) if rng.random() < 0.7 else None for _ in range(2)]
    window = [arguments[name] for name in ("stride", "padding", "dilation", "depthwise")]
    return [input, weight, code, *norm, 1e-5, rng.randint(0, 4), channels, *window]


def chained_norm_act(rng: random.Random) -> list[Any]:
    input = torch.randn(rng.randint(0, 3), rng.randint(1, 20), 3, 2)
    *norm, eps, activation = chain_norm(rng, input).values()
    norm[:2] = torch.randn(input.shape[1]), torch.rand(input.shape[1])
    return [input, *norm, torch.randn_like(input) if rng.random() < 0.5 else None, eps, activation]


def chained_norm_act_backward(rng: random.Random) -> list[Any]:
    arguments = chained_norm_act(rng)
    return [torch.randn_like(arguments[0]), *arguments, rng.random() < 0.5]


def updated_weights(rng: random.Random) -> list[Tensor]:
    return [torch.randn(3, rng.randint(1, 9), 4) for _ in range(rng.randint(0, 3))]


def update_gradients(rng: random.Random, weights: list[Tensor]) -> list[Any]:
    """Dense gradients, counts of uses, and the uses' codes, gates and gradients."""
    dense = [rng.random() < 0.5 for _ in weights]
    uses = [weight for weight, is_dense in zip(weights, dense) if not is_dense]
    return [
        [torch.randn_like(weight) if is_dense else None for weight, is_dense in zip(weights, dense)],
        [0 if is_dense else 1 for is_dense in dense],
        [torch.randn(3) for _ in uses],
        [None for _ in uses],
        [torch.randn(weight.shape[1:]) for weight in uses],
    ]


def sgd_update(rng: random.Random) -> list[Any]:
    weights, momentum = updated_weights(rng), rng.choice([0.0, 0.9])
    buffers = [torch.zeros_like(weight) for weight in weights] if momentum else []
    return [weights, buffers, *update_gradients(rng, weights), *(0.1, momentum, 0.0, 0.01, False, False)]


def adamw_update(rng: random.Random) -> list[Any]:
    weights = updated_weights(rng)
    moments = [[torch.ones_like(weight) for weight in weights] for _ in range(3)]
    if rng.random() < 0.5:
        moments[2] = []
    steps = [float(rng.randint(1, 9)) for _ in weights]
    return [weights, *moments, steps, *update_gradients(rng, weights), *(0.1, 0.9, 0.99, 0.1, 0.01, False)]


OPERATORS = {
    builder.__name__: builder
    for builder in (
        avg_pool2d, avg_pool2d_backward, even_and_odd_channels, even_and_odd_channels_backward,
        dtw_align, dtw_align_backward, fused_conv2d, fused_conv2d_backward, dynamic_group_weight,
        dynamic_group_weight_backward, effective_weight,
        effective_weight_backward, mix_weights, mix_weights_backward, batch_norm_act, batch_norm_act_backward,
        chained_conv2d, chained_conv2d_backward, chained_norm_act, chained_norm_act_backward, folded_conv2d, sgd_update,
        adamw_update,
    )
}  # fmt: skip


def spoilt_tensor(rng: random.Random, tensor: Tensor) -> Tensor | None:
    shape = list(tensor.shape)
    ways = [
        lambda: None,
        lambda: tensor.to(rng.choice(DTYPES)),
        lambda: tensor[None],
        lambda: tensor.flatten(),
        lambda: tensor.new_zeros(()),
        lambda: tensor.new_zeros(0),
        lambda: tensor.to("meta"),
        lambda: tensor.mT if tensor.dim() > 1 else tensor.flip(0),
    ]
    if shape:
        at = rng.randrange(len(shape))
        resized = [*shape[:at], max(0, shape[at] + rng.choice((-2, -1, 1, 2))), *shape[at + 1 :]]
        emptied = [*shape[:at], 0, *shape[at + 1 :]]
        ways += [
            lambda: torch.randn(resized).to(tensor.dtype),
            lambda: torch.randn(resized).to(tensor.dtype),
            lambda: tensor.new_zeros(emptied),
            lambda: tensor.new_zeros(1).expand(shape),
            lambda: torch.cat([tensor, tensor], at).narrow(at, 0, shape[at]),
            lambda: tensor.squeeze(at),
            lambda: tensor.new_zeros(1).expand([*shape[:at], rng.choice((2**20, 2**31, 2**40)), *shape[at + 1 :]]),
        ]
    return rng.choice(ways)()


def spoilt(rng: random.Random, value: Any) -> Any:
    if isinstance(value, Tensor):
        return spoilt_tensor(rng, value)
    if isinstance(value, list) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return [*value[:at], spoilt(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, list):
        return rng.choice((value[:-1], value + value[:1], []))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(NUMBERS)
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e300))
    return rng.choice((torch.ones(1), torch.ones(0), torch.ones(3, 5)))  # where there was None


def run(seed: int, cases: int) -> collections.Counter[str]:
    outcomes: collections.Counter[str] = collections.Counter()
    for case in range(seed, seed + cases):
        rng = random.Random(case)
        torch.manual_seed(case)
        name = rng.choice(list(OPERATORS))
        arguments = OPERATORS[name](rng)
        print(f"case {case}: {name}", flush=True)
        try:
            for _ in range(rng.randint(0, 3)):
                at = rng.randrange(len(arguments))
                arguments[at] = spoilt(rng, arguments[at])
            getattr(torch.ops.kshot_ext, name)(*arguments)
            outcomes["returned"] += 1
        except Exception as error:
            outcomes[type(error).__name__] += 1
    return outcomes


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert backend.native(), backend.info()
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY,) * 2)
    print(dict(run(int(sys.argv[1]), int(sys.argv[2]))))
