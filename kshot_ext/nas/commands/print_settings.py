"""What ``--print-config`` does: all settings of a command, as a file to begin from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from kshot_ext.nas.commands.frame import exit_status, print_line, users_errors
from kshot_ext.nas.runs.gather_settings import merge_settings
from kshot_ext.nas.runs.run_folder import RunRecord
from kshot_ext.nas.runs.settings import SETTINGS_BY_COMMAND
from kshot_ext.nas.settings_file import commented_toml


def print_settings(command: str, options: Mapping[str, Any], config: Path | None, resume: Path | None) -> int:
    """Print the settings that a command would run with, each with its meaning.

    Args:
        command: ``"search"`` or ``"rank"``.
        options: settings given on the command line, by name; None for those not given.
        config: settings file, or None.
        resume: run folder whose settings to print, or None for the defaults.

    Returns:
        Exit status: 0 done, 2 an error that the user can mend.
    """

    def body(console: Console) -> None:
        with users_errors():
            base = SETTINGS_BY_COMMAND[command]() if resume is None else RunRecord(resume).settings
            settings = merge_settings(base, config, options)
        for line in commented_toml(settings).splitlines():
            print_line(console, line)

    return exit_status(body, lambda: "nothing was written")
