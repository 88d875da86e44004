"""Data that does not fit is refused."""

from __future__ import annotations

import pytest

from kshot_ext.nas.datasets import DataError, memory
from kshot_ext.nas.datasets.memory import check_memory

GIB = 2**30


def test_what_does_not_fit_is_refused_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 3 * GIB)
    check_memory("pets", 3 * GIB)
    with pytest.raises(DataError, match=r"pets: .* \(4\.50 GiB are needed, 3\.00 GiB are available to this process\)"):
        check_memory("pets", 9 * GIB // 2)
