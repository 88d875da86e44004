"""Where images come from: one file per source, and their loading into memory."""

from kshot_ext.nas.datasets.load import load_splits
from kshot_ext.nas.datasets.open import open_source
from kshot_ext.nas.datasets.source import DataError, DataWarning, ImageSource

__all__ = ["DataError", "DataWarning", "ImageSource", "load_splits", "open_source"]
