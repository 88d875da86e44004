"""The process behind emulation.Worker: calls functions of one module, named on the command line."""

import os
import pickle
import sys
from pathlib import Path

import numpy as np
from cuda_emulation.emulation import import_module


def main() -> None:
    """Answers calls until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what kernels print must not come between the answers
    module = import_module(Path(sys.argv[1]))
    while True:
        try:
            function, args, kwargs = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        before = [a.copy() for a in args if isinstance(a, np.ndarray)]
        try:
            result = getattr(module, function)(*args, **kwargs)
            arrays = [a for a in args if isinstance(a, np.ndarray)]
            changed = [a if a.tobytes() != b.tobytes() else None for a, b in zip(arrays, before)]
            answer = ("result", result, changed)
        except Exception as error:
            answer = ("error", str(error), [])
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    main()
