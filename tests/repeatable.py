"""Random integers that are the same ones everywhere."""

from __future__ import annotations

from hypothesis import strategies as st


def integers(least: int, most: int) -> st.SearchStrategy[int]:
    """Those of hypothesis, from a range that no number of a module falls into.

    Now and then hypothesis draws a number of 100 or more that it has found in the modules loaded so far, other people's
    left out, which it tells by "site-packages" in their paths. So an installed package would be tested on other
    examples than a checkout, and one test would change those of the next. `derandomize=True` does not change that.
    """
    assert -100 < least <= most < 100, f"hypothesis may draw other integers in [{least}, {most}] elsewhere"
    return st.integers(least, most)
