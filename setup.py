"""Packages the C++ sources with the Python code; with KSHOT_EXT_PREBUILD=1 also the compiled libraries.

All other settings stand in pyproject.toml.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.errors import SetupError

ROOT = Path(__file__).resolve().parent
PREBUILD = os.environ.get("KSHOT_EXT_PREBUILD", "") not in ("", "0")


class BuildWithLibrary(build_py):
    """Copies the Python code and the C++ sources, then compiles these if asked to."""

    def run(self) -> None:
        super().run()
        if not PREBUILD:
            return
        if self.editable_mode:
            raise SetupError("KSHOT_EXT_PREBUILD is for `pip install .`; an editable install builds on first use")
        prebuild_libraries((Path(self.build_lib) / "kshot_ext").resolve())


class PlatformDistribution(Distribution):
    """Marks the wheel as made for one platform where it holds a compiled library."""

    def has_ext_modules(self) -> bool:
        return PREBUILD


class WheelForEveryPython(bdist_wheel):
    """Names the wheel: the library knows nothing of Python, so every version of Python can have torch load it."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def prebuild_libraries(package: Path) -> None:
    """Compile with the code that also builds on first use; needs torch, hence --no-build-isolation."""
    if find_spec("torch") is None:
        raise SetupError(
            "KSHOT_EXT_PREBUILD needs torch in the environment that builds; "
            "run pip install torch ninja setuptools, then pip install . --no-build-isolation"
        )
    sys.path.insert(0, str(ROOT))
    from kshot_ext._native.find import prebuild, prebuild_cuda

    prebuild(package / "csrc", package / "_prebuilt")
    prebuild_cuda(package / "csrc", package / "_prebuilt_cuda")


setup(
    packages=[*find_packages(include=["kshot_ext", "kshot_ext.*"]), "kshot_ext.csrc"],
    package_dir={"kshot_ext.csrc": "csrc"},
    include_package_data=False,  # what is listed here and no more: MANIFEST.in is for source distributions
    package_data={
        "kshot_ext": ["py.typed", "nas/reporting/templates/*"],
        "kshot_ext.csrc": ["*.txt", "*/*.cpp", "*/*.h", "*/*.cu", "*/*.cuh"],
    },
    cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": WheelForEveryPython},
    distclass=PlatformDistribution,
)
