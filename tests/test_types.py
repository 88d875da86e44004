"""Programs of users are checked for types: the package says that it has some, and its results are no `Any`."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import kshot_ext

pytest.importorskip("mypy", reason="mypy is not installed, which `pip install 'kshot_ext[test]'` brings")

# What a user may write. Each line that is wrong says so, and must be found out.
_PROGRAM = """\
import torch
from torch import Tensor, nn

import kshot_ext
from kshot_ext import functional as KF

code = torch.full((4,), 1 / 4)
layer = kshot_ext.nn.KShotConv2d(3, 8, 3, padding=1, num_shots=4)
image: Tensor = KF.kshot_conv2d(torch.ones(1, 3, 8, 8), layer.weight, code, stride=(2, 1), padding="valid")
text: str = KF.kshot_linear(torch.ones(1, 3), torch.ones(4, 2, 3), code)  # WRONG
KF.kshot_conv2d(torch.ones(1, 3, 8, 8), layer.weight, code, out_channels="8")  # WRONG
KF.batch_norm_act(image, None, None, None, None, activation="relu", residual=image)
raw = KF.chained_conv2d(image, layer.weight, code).mean
raw.shape  # WRONG

model: nn.Module = kshot_ext.convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), num_shots=4)
kshot_ext.convert(model, num_shots="four")  # WRONG
kshot_ext.set_code(model, code)
optimizer = kshot_ext.optim.KShotSGD(model.parameters(), lr=0.1, momentum=0.9)
optimizer.step()
plain: nn.Module = kshot_ext.merge(model)
report: str = kshot_ext.conversion_report(model)  # WRONG
kshot_ext.register_conversion(
    nn.Bilinear, kshot_ext.nn.KShotMixed.from_plain, kshot_ext.nn.KShotMixed.to_plain
)
with kshot_ext.backend.use_reference():
    narrow: nn.Module = kshot_ext.narrow(model, nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
"""


def test_a_program_is_checked(tmp_path: Path) -> None:
    """Takes as long as mypy needs for torch, once per version of the package: a third of a minute."""
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    package = Path(kshot_ext.__file__).parent
    assert (package / "py.typed").exists()
    place = {} if package.parent == Path(sysconfig.get_path("purelib")) else {"MYPYPATH": str(package.parent)}
    options = ["--strict", "--no-error-summary", "--cache-dir", str(tmp_path)]
    command = [sys.executable, "-m", "mypy", *options, program.name]
    run = subprocess.run(command, cwd=tmp_path, env=os.environ | place, capture_output=True, text=True)
    errors = re.findall(r"^program\.py:(\d+): error: ", run.stdout, re.MULTILINE)
    wrong = [n for n, line in enumerate(_PROGRAM.splitlines(), start=1) if line.endswith("# WRONG")]
    assert sorted({int(line) for line in errors}) == wrong, run.stdout + run.stderr
