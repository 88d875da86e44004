"""Running other programs."""

import sys
import time

import pytest

from kshot_ext._native.errors import BackendError
from kshot_ext._native.process import run


def test_exit_code_and_output_in_any_encoding() -> None:
    result = run(["sh", "-c", r"printf 'a\374b'; printf 'c\374d' >&2; exit 3"], 10)
    assert (result.returncode, result.stdout, result.stderr) == (3, "a\ufffdb", "c\ufffdd")


def test_it_has_no_input() -> None:
    assert run(["cat"], 10).stdout == ""


def test_environment() -> None:
    assert run(["sh", "-c", "echo $NAME"], 10, environment={"NAME": "value"}).stdout == "value\n"


def test_what_it_prints_is_seen_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kshot_ext._native.process._SECONDS_BETWEEN_LOOKS", 0.02)
    seen: list[str] = []
    result = run(["sh", "-c", r"printf 'one\374 '; sleep 0.5; echo two"], 10, on_output=seen.append)
    assert "one\ufffd " in seen
    assert result.stdout == "one\ufffd two\n"


@pytest.mark.parametrize("command", [["/no/such/program"], ["/dev/null"]])
def test_what_does_not_start(command: list[str]) -> None:
    with pytest.raises(BackendError, match=f"{command[0]} does not run: "):
        run(command, 10)


@pytest.mark.parametrize("deaf", [False, True])
def test_what_does_not_end_is_ended(deaf: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kshot_ext._native.process._SECONDS_TO_END", 0.2)
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " if deaf else ""
    begin = time.monotonic()
    with pytest.raises(BackendError, match="has not ended after 1 s"):
        run([sys.executable, "-S", "-c", f"{ignore}import time; time.sleep(60)"], 1)
    assert time.monotonic() - begin < 10
