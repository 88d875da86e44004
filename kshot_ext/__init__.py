"""kshot_ext: fused operators and the whole search method for K-shot neural architecture search.

`kshot_ext.functional` has the operators, `kshot_ext.nn` their modules, `kshot_ext.reference` their definition in
plain PyTorch, `kshot_ext.optim` optimisers for dictionaries, `kshot_ext.distributed` training by several processes,
`kshot_ext.nas` the search method. Importing the package compiles nothing: the native kernels are built, once, by the
first operator call.
"""

from kshot_ext import backend, distributed, functional, nn, optim, reference
from kshot_ext.batch_axes import find_batch_axes
from kshot_ext.convert import conversion_report, convert, merge
from kshot_ext.fuse import FusionReport, fuse, unfuse
from kshot_ext.narrow import narrow
from kshot_ext.nn.code import set_code
from kshot_ext.nn.conversion_report import ConversionReport
from kshot_ext.nn.conversions import register_conversion
from kshot_ext.ops.autotune import set_autotune

__version__ = "0.1.0"
__all__ = [
    "ConversionReport",
    "FusionReport",
    "backend",
    "conversion_report",
    "convert",
    "distributed",
    "find_batch_axes",
    "functional",
    "fuse",
    "merge",
    "narrow",
    "nn",
    "optim",
    "reference",
    "register_conversion",
    "set_autotune",
    "set_code",
    "unfuse",
]
