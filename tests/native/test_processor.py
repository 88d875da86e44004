"""Which instruction sets a build on first use serves."""

import pytest

from kshot_ext._native import flags, processor
from kshot_ext._native.errors import BackendError

AVX2 = {"avx2", "fma", "f16c"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(
    ("features", "expected"),
    [(set(), "portable"), ({"avx2"}, "portable"), (AVX2, "avx2"), (AVX512 - {"avx512vl"}, "avx2"), (AVX512, "avx512")],
)
def test_best_of_this_processor(monkeypatch: pytest.MonkeyPatch, features: set[str], expected: str) -> None:
    monkeypatch.delenv("KSHOT_EXT_ISAS", raising=False)
    monkeypatch.setattr(flags, "instruction_sets", lambda: ("portable", "avx2", "avx512"))
    monkeypatch.setattr(processor, "processor_features", lambda: features)
    assert processor.instruction_sets_to_build() == (expected,)


def test_all_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSHOT_EXT_ISAS", "all")
    assert processor.instruction_sets_to_build() == flags.instruction_sets()


def test_unknown_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSHOT_EXT_ISAS", "avx1024")
    with pytest.raises(BackendError, match="'host' or 'all', got 'avx1024'"):
        processor.instruction_sets_to_build()
