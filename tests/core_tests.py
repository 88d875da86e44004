"""Which tests `pytest` runs by itself: the core of each part, in two minutes on two cores, with the build of the
library.

`pytest --all` runs all but those marked `long`. So does a call that names files, marks or keywords (`-k`), for those.
Of the tests that every instruction set has, the core is that of the best one on this processor.
"""

from fnmatch import fnmatchcase

FILES = (
    # each operator, in a file of its name, and the optimisers' steps
    "ops/test_adamw_update.py",
    "ops/test_avg_pool2d.py",
    "ops/test_batch_norm_act.py",
    "ops/test_chained_conv2d.py",
    "ops/test_chained_norm_act.py",
    "ops/test_dtw_align.py",
    "ops/test_dynamic_group_conv2d.py",
    "ops/test_dynamic_group_weight.py",
    "ops/test_effective_weight.py",
    "ops/test_folded_conv2d.py",
    "ops/test_gated_conv2d.py",
    "ops/test_kernel_window.py",
    "ops/test_kshot_conv.py",
    "ops/test_kshot_linear.py",
    "ops/test_mix_weights.py",
    "ops/test_regrouped_weight.py",
    "ops/test_sgd_update.py",
    # each kind of K-shot layer, and what a model of them does
    "nn/test_code.py",
    "nn/test_kinds.py",
    "test_convert.py",
    "test_narrow.py",
    "test_optim.py",
    # the examples in docstrings
    "test_doctests.py",
    # the order of the code
    "test_layers.py",
    # a search in miniature, and what its parts are made of
    "nas/spaces/test_architecture.py",
    "nas/searchers/test_pareto.py",
    "nas/test_whole_search.py",
)
"""Relative to this folder."""

NOT_FUNCTIONS = (
    "test_random_*",  # hundreds of calls each
    "*compile*",
    "*opcheck*",
    "test_many_dictionaries_in_one_call",
)
"""Of those files, what takes long, and as a rule finds what the others find."""


def is_core(file: str, function: str) -> bool:
    """Whether a test function of a file, relative to this folder, is of the core."""
    return file in FILES and not any(fnmatchcase(function, pattern) for pattern in NOT_FUNCTIONS)
