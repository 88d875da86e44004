"""Lets tests and benchmarks import `benchmarks`, behind the installed packages so that those are what is tested."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
