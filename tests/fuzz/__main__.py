"""Repeats one case of the fuzzer, as a failing test prints it.

python -m tests.fuzz '{"operator": "kshot_linear", "sizes": {...}}'
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("KSHOT_EXT_ISAS", "all")

from fuzz.case import Case
from fuzz.check import check

from kshot_ext import backend

if __name__ == "__main__":
    assert backend.native(), backend.info()
    for text in sys.argv[1:]:
        check(Case.of_json(text))
        print("as the reference")
