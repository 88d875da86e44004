"""The native kernels are built before a run needs them, so that it is seen how far that is."""

from __future__ import annotations

import torch

from kshot_ext import backend
from kshot_ext._native import notices
from kshot_ext._native.build_display import shown_by
from kshot_ext.nas.progress import ConsoleProgress


class _BuildStage:
    """Shows a build as a stage of a run."""

    def __init__(self, progress: ConsoleProgress) -> None:
        self._progress = progress
        self._files = 0

    def start(self, text: str, files: int) -> None:
        self._files = files
        self._progress.tell(text)
        self._progress.start("compile kernels", files)

    def move(self, done: int) -> None:
        self._progress.move(done)

    def finish(self, outcome: str) -> None:
        self._progress.move(self._files)
        notices.log(f"building the native kernels: {outcome}")


def build_kernels(device: torch.device, progress: ConsoleProgress) -> None:
    """Find, or build, the kernels that serve tensors on a device.

    Args:
        device: of the tensors.
        progress: where a build is shown.

    Raises:
        BackendError: if ``KSHOT_EXT_BACKEND`` is ``native`` and there are none.
    """
    with shown_by(_BuildStage(progress)):
        backend.kernels_for(device)
