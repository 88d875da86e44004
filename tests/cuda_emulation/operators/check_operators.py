"""Run by test_operators.py under plugin.py: public functions through CUDA's glue and kernels, against the reference."""

import random
from collections.abc import Callable

import pytest
import torch
from allocations import allocations
from torch import Tensor

from kshot_ext import functional, reference
from kshot_ext.ops.compact_gradient import SumOfUses
from kshot_ext.ops.gradient_slot import gradient_in_slot
from kshot_ext.optim import KShotAdamW, KShotSGD

SMALL = 2048  # bytes: allocators of GPUs give whole multiples of 512, to each of a few tensors
NARROW = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float64: 1e-9}


def leaf(*shape: int, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> Tensor:
    tensor = torch.randn(shape, dtype=torch.float64).to(dtype)
    if channels_last:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor.requires_grad_()


def inner_channels_last(dictionary: Tensor) -> Tensor:
    """The dictionary with its input channels innermost in memory."""
    return dictionary.detach().movedim(2, -1).contiguous().movedim(-1, 2).requires_grad_()


def assert_close(name: str, result: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert result.shape == expected.shape
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    error = (result.double() - expected).abs().max().item() / scale if expected.numel() else 0.0
    assert error <= NARROW[dtype], f"{name}: error {error}"


def check(name: str, tensors: dict[str, Tensor | None], arguments: dict, only_native: dict | None = None) -> None:
    """Values and gradients of functional.NAME against those of reference.NAME in float64."""
    given = {key: tensor for key, tensor in tensors.items() if tensor is not None}
    exact = {key: tensor.detach().double().requires_grad_(tensor.requires_grad) for key, tensor in given.items()}
    output = getattr(functional, name)(**given, **arguments, **(only_native or {}))
    expected = getattr(reference, name)(**exact, **arguments)
    dtype = output.dtype
    assert_close("output", output.detach(), expected.detach(), dtype)
    grad = torch.randn_like(expected)
    leaves = [key for key, tensor in given.items() if tensor.requires_grad]
    gradients = torch.autograd.grad(output, [given[key] for key in leaves], grad.to(dtype))
    references = torch.autograd.grad(expected, [exact[key] for key in leaves], grad.to(dtype).double())
    for key, gradient, right in zip(leaves, gradients, references):
        assert gradient.dtype == given[key].dtype, key
        assert_close(key, gradient, right, max(dtype, gradient.dtype, key=NARROW.get))


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("depthwise", [False, True])
def test_kshot_conv2d(depthwise: bool, per_sample: bool, seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dtype = draw.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16])
    dtype = torch.float64 if depthwise and seed % 6 == 5 else dtype
    batch, shots, kernel = draw.choice([1, 2, 3]), draw.choice([1, 2, 5]), draw.choice([1, 3, 5])
    total_in, total_out = draw.choice([4, 8, 13]), draw.choice([4, 9, 16])
    width_in, width_out = draw.choice([total_in, (total_in + 1) // 2]), draw.choice([None, (total_out + 1) // 2])
    if depthwise:
        total_out, width_out = total_in, None
    out = width_in if depthwise else width_out or total_out
    weight = leaf(shots, total_out, 1 if depthwise else total_in, kernel, kernel, dtype=dtype)
    if draw.random() < 0.5:
        weight = inner_channels_last(weight)
    gates = [None, leaf(out), leaf(batch, total_out)]
    tensors = {
        "input": leaf(batch, width_in, 7, 6, dtype=dtype, channels_last=draw.random() < 0.5),
        "weight": weight,
        "code": leaf(*((batch,) if per_sample else ()), shots),
        "bias": draw.choice([None, leaf(total_out, dtype=dtype), leaf(shots, total_out, dtype=dtype)]),
        "gate": draw.choice(gates),
    }
    arguments = {
        "stride": draw.choice([1, 2]),
        "padding": draw.choice([kernel // 2, kernel // 2 + 1]) if kernel > 1 else draw.choice([0, 1]),
        "dilation": draw.choice([1, 1, 2]) if kernel < 5 else 1,
        "groups": total_in if depthwise else 1,
        "out_channels": width_out,
    }
    check("kshot_conv2d", tensors, arguments, {"algorithm": "fused"})


def backward_of(y: Tensor, *leaves: Tensor) -> Callable[[], object]:
    grad = torch.ones_like(y)
    return lambda: torch.autograd.grad(y, leaves, grad)


@pytest.mark.parametrize("per_sample", [False, True])
def test_of_a_dense_dictionary_only_the_part_in_use_is_copied(per_sample: bool) -> None:
    """Where it must be, for its input channels are not innermost."""
    weight, x = leaf(4, 64, 32, 3, 3).detach(), leaf(2, 8, 3, 3, channels_last=True)
    code = leaf(*((2,) if per_sample else ()), 4)
    part, output, image = 4 * (4 * 4 * 8 * 9), 4 * (2 * 4 * 9), 4 * (2 * 8 * 9)
    results: list[Tensor] = []

    def forward() -> None:
        call = {"padding": 1, "out_channels": 4, "algorithm": "fused"}
        results.append(functional.kshot_conv2d(x, weight, code, **call))

    assert sum(allocations(forward)) <= part + output + SMALL
    # Gradients of input and code; with a code per sample also the kernel's, of the dictionary's part and all of it.
    least = part + image + (part + weight.nbytes if per_sample else 2 * part)
    assert sum(allocations(backward_of(results[0], x, code))) <= least + 8192  # kernels' scratch memory


@pytest.mark.parametrize("per_sample", [False, True])
def test_depthwise_dictionaries_under_autocast(per_sample: bool) -> None:
    """Only the part in use is cast, and gradients stay compact and in the dictionary's dtype."""
    torch.manual_seed(6)
    weight, x = torch.nn.Parameter(torch.randn(8, 256, 1, 5, 5)), leaf(2, 16, 4, 4, channels_last=True)
    optimizer = KShotSGD([weight], lr=0.1)
    code = leaf(*((2,) if per_sample else ()), 8)
    part, output = 2 * (8 * 16 * 25), 2 * (2 * 16 * 16)
    results: list[Tensor] = []

    def forward() -> None:
        with torch.autocast(x.device.type, torch.bfloat16):
            results.append(functional.kshot_conv2d(x, weight, code, padding=2, groups=256, algorithm="fused"))

    assert sum(allocations(forward)) <= part + 2 * output + SMALL  # the cast input is as large as the output
    assert results[0].dtype == torch.bfloat16
    largest = max(allocations(lambda: results[0].sum().backward()))
    exact = weight.detach().double().requires_grad_()
    call = {"padding": 2, "groups": 256}
    reference.kshot_conv2d(x.detach().double(), exact, code.detach().double(), **call).sum().backward()
    assert isinstance(gradient_in_slot(weight), torch.Tensor if per_sample else SumOfUses)
    assert largest < weight.nbytes or per_sample
    optimizer.step()
    assert_close("weight", weight.grad, exact.grad, torch.bfloat16)


@pytest.mark.parametrize("seed", range(12))
def test_dtw_align(seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dtype = draw.choice([torch.float32, torch.float64, torch.bfloat16, torch.float16])
    rows, columns, norm = draw.choice([1, 9, 40]), draw.choice([1, 12, 40]), draw.choice([1, 2])
    tensors = {name: leaf(3, size, 2, dtype=dtype) for name, size in (("predictions", rows), ("targets", columns))}
    if draw.random() < 0.5:
        tensors["targets"] = tensors["targets"].detach().mT.contiguous().mT.requires_grad_()
    lengths = {}
    if draw.random() < 0.5:
        lengths = {"prediction_lengths": torch.randint(1, rows + 1, (3,), device=tensors["targets"].device)}
    options = {"band": draw.choice([None, 0, 4]), "norm": norm}
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in tensors.items()}
    found = functional.dtw_align(**tensors, **lengths, **options)
    expected = reference.dtw_align(**exact, **lengths, **options)
    assert torch.equal(found.path, expected.path)
    assert_close("cost", found.cost.detach(), expected.cost.detach(), found.cost.dtype)
    grad = torch.randn_like(expected.cost).bfloat16()
    gradients = torch.autograd.grad(found.cost, list(tensors.values()), grad.to(found.cost.dtype))
    references = torch.autograd.grad(expected.cost, list(exact.values()), grad.double())
    for name, gradient, right in zip(tensors, gradients, references):
        assert gradient.dtype == dtype
        assert_close(name, gradient, right, dtype)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("per_sample", [False, True])
def test_effective_weight(per_sample: bool, seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dtype = draw.choice([torch.float32, torch.float64, torch.bfloat16, torch.float16])
    samples = (3,) if per_sample else ()
    weight = leaf(draw.choice([1, 3, 8]), 6, 5, 3, 3, dtype=dtype)
    if draw.random() < 0.5:
        weight = inner_channels_last(weight)
    code_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = {
        "weight": weight,
        "code": leaf(*samples, weight.shape[0], dtype=code_dtype),
        "gate": draw.choice([None, leaf(6, dtype=code_dtype), leaf(*samples, 6, dtype=code_dtype)]),
    }
    check("effective_weight", tensors, {"out_channels": draw.choice([None, 4]), "in_channels": draw.choice([None, 3])})


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("per_sample", [False, True])
def test_dynamic_group_conv2d(per_sample: bool, seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dtype = draw.choice([torch.float32, torch.float64, torch.bfloat16, torch.float16])
    code_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    gates, shots = draw.randint(1, 3), draw.choice([1, 3, 9])
    out, inner = draw.choice([1, 3]) << gates, draw.choice([1, 2]) << gates
    weight = leaf(shots, out, inner, 3, 3, dtype=dtype)
    if draw.random() < 0.5:
        weight = inner_channels_last(weight)
    tensors = {
        "input": leaf(3, inner, 5, 4, dtype=dtype, channels_last=draw.random() < 0.5),
        "weight": weight,
        "code": leaf(*((3,) if per_sample else ()), shots, dtype=code_dtype),
        "group_gates": (torch.rand(gates) < 0.5).to(code_dtype).requires_grad_(),
        "bias": draw.choice([None, leaf(shots, out, dtype=dtype)]),
    }
    check("dynamic_group_conv2d", tensors, {"padding": 1})


def test_mix_weights_of_many_layers() -> None:
    torch.manual_seed(0)
    weights = [leaf(4, 3 + i, 5, 3, 3) for i in range(40)]
    code = leaf(4)
    mixed = functional.mix_weights(weights, code)
    grads = [torch.randn_like(tensor) for tensor in mixed]
    gradients = torch.autograd.grad(mixed, [code, *weights], grads)
    exact, exact_code = [w.detach().double().requires_grad_() for w in weights], code.detach().double().requires_grad_()
    expected = reference.mix_weights(exact, exact_code)
    references = torch.autograd.grad(expected, [exact_code, *exact], [grad.double() for grad in grads])
    for result, right in zip((*mixed, *gradients), (*expected, *references)):
        assert_close("a layer", result.detach(), right.detach(), torch.float32)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["identity", "relu", "relu6", "silu", "hardswish"])
@pytest.mark.parametrize("per_sample", [False, True])
def test_batch_norm_act(per_sample: bool, activation: str, training: bool) -> None:
    torch.manual_seed(1)
    tensors = {
        "input": leaf(3, 13, 5, 6, channels_last=True),
        "weight": leaf(4, 16),
        "bias": leaf(*((4,) if training else ()), 16),
        "code": leaf(*((3,) if per_sample else ()), 4),
        "residual": leaf(3, 13, 5, 6),
        "running_mean": torch.randn(16),
        "running_var": torch.rand(16) + 0.5,
    }
    check("batch_norm_act", tensors, {"training": training, "activation": activation})


def test_batch_norm_act_moves_running_statistics() -> None:
    torch.manual_seed(2)
    x = torch.randn(4, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    ours, theirs = (torch.zeros(8), torch.ones(8)), (torch.zeros(8), torch.ones(8))
    functional.batch_norm_act(x, None, None, *ours, momentum=0.3)
    torch.nn.functional.batch_norm(x, *theirs, training=True, momentum=0.3)
    torch.testing.assert_close(ours, theirs)


OPTIMISERS = {
    "sgd": (KShotSGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}),
    "adamw": (KShotAdamW, torch.optim.AdamW, {"lr": 0.01, "eps": 1e-3}),
    "amsgrad": (KShotAdamW, torch.optim.AdamW, {"lr": 0.01, "eps": 1e-3, "betas": (0.5, 0.5), "amsgrad": True}),
}
ALL_OPTIMISERS = pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)


@ALL_OPTIMISERS
@pytest.mark.parametrize("algorithm", ["fused", "mix_then_conv"])
@pytest.mark.parametrize("depthwise", [False, True])
def test_optimisers_with_compact_gradients(depthwise: bool, algorithm: str, optimiser: tuple) -> None:
    """Two uses of one dictionary a step, three steps, like torch's optimiser on dense gradients."""
    torch.manual_seed(3)
    weight = torch.nn.Parameter(torch.randn(5, 8, 1 if depthwise else 8, 3, 3))
    twin = torch.nn.Parameter(weight.detach().double())
    kind, other, settings = optimiser
    ours, theirs = kind([weight], **settings), other([twin], **settings)
    groups = 8 if depthwise else 1
    for _ in range(3):
        ours.zero_grad(), theirs.zero_grad()
        for _ in range(2):
            x, code, gate = torch.randn(2, 8, 6, 6), torch.rand(5), torch.rand(8)
            call = {"padding": 1, "groups": groups}
            y = functional.kshot_conv2d(x, weight, code, gate=gate, algorithm=algorithm, **call)
            right = reference.kshot_conv2d(x.double(), twin, code.double(), gate=gate.double(), **call)
            y.square().mean().backward(), right.square().mean().backward()
        assert isinstance(gradient_in_slot(weight), SumOfUses)
        ours.step(), theirs.step()
        assert_close("weight", weight.detach(), twin.detach(), torch.float32)


@ALL_OPTIMISERS
def test_optimisers_on_many_dictionaries(optimiser: tuple) -> None:
    """More of them than one launch holds, more uses of one than a kernel takes, and plain parameters."""
    torch.manual_seed(5)
    shapes = [(4, 3 + i % 5, 2, 3, 3) for i in range(40)] + [(50, 3, 2), (7,), ()]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(weight.detach().double()) for weight in ours]
    kind, other, settings = optimiser
    optimizers = [make(weights, **settings, maximize=True) for make, weights in ((kind, ours), (other, theirs))]
    for _ in range(2):
        codes = {shots: torch.rand(shots) for shots in (4, 50)}
        for module, weights, dtype in ((functional, ours, torch.float32), (reference, theirs, torch.float64)):
            mixed = module.mix_weights(weights[:40], codes[4].to(dtype))
            uses = [module.effective_weight(weights[40], (codes[50] * u).to(dtype)) for u in range(45)]
            sum(tensor.square().sum() for tensor in (*mixed, *uses, *weights[41:])).backward()
        assert len(gradient_in_slot(ours[40]).uses) == 45
        for optimizer in optimizers:
            optimizer.step(), optimizer.zero_grad()
    for weight, twin in zip(ours, theirs):
        assert_close("a dictionary", weight.detach(), twin.detach(), torch.float32)


def test_operators_as_torch_checks_them() -> None:
    torch.manual_seed(4)
    window = ([1, 1], [1, 1, 1, 1], [1, 1])
    x, w, code = leaf(2, 4, 5, 5, channels_last=True), inner_channels_last(leaf(3, 6, 4, 3, 3)), leaf(3)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    for depthwise, dictionary, codes in ((False, w, code), (False, w, leaf(2, 3)), (True, leaf(3, 4, 1, 3, 3), code)):
        out = dictionary.shape[1]
        arguments = (x, dictionary, codes, None, leaf(out), out, *window, depthwise, False)
        torch.library.opcheck(torch.ops.kshot_ext.fused_conv2d.default, arguments, test_utils=tests)
        grad = torch.randn(2, out, 5, 5)
        needs = (True, codes.dim() == 1, True, True, False)  # input, effective, weight, code, gate
        backward = (grad, x, dictionary, codes, None, *window, depthwise, False, *needs)
        torch.library.opcheck(torch.ops.kshot_ext.fused_conv2d_backward.default, backward, test_utils=tests[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # Functions: pytest collects them before the tests' device is set.
        ({"code": lambda: torch.rand(4)}, "code must be"),
        ({"weight": lambda: torch.rand(3, 6, 3, 3, 3)}, "covers the active channels"),
        ({"weight": lambda: torch.rand(3, 6, 4, 3, 3).double()}, "float64 only if that is"),
        ({"gate": lambda: torch.rand(5)}, "gate must be"),
        ({"bias": lambda: torch.rand(5)}, "bias must be"),
        ({"bias": lambda: torch.rand(2, 6)}, "with a code per sample"),
    ],
)
def test_wrong_arguments_of_the_operator(change: dict[str, Callable[[], Tensor]], message: str) -> None:
    right = {"input": torch.rand(2, 4, 5, 5), "weight": torch.rand(3, 6, 4, 3, 3), "code": torch.rand(3)}
    given = right | {"gate": None, "bias": None} | {name: make() for name, make in change.items()}
    with pytest.raises(RuntimeError, match=message):
        torch.ops.kshot_ext.fused_conv2d(
            *given.values(), 6, [1, 1], [1, 1, 1, 1], [1, 1], depthwise=False, allow_tf32=False
        )


def test_wrong_gradient_of_the_operator() -> None:
    images, weight, code = torch.rand(2, 4, 5, 5), torch.rand(3, 6, 4, 3, 3), torch.rand(3)
    with pytest.raises(RuntimeError, match="the output's gradient must have its shape"):
        torch.ops.kshot_ext.fused_conv2d_backward(
            torch.rand(2, 6, 5, 4), images, weight, code, None, [1, 1], [1, 1, 1, 1], [1, 1], False, False,
            *[True] * 3, *[False] * 2,
        )  # fmt: skip
