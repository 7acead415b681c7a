"""What is installed, what computes where, and what is missing: `drfer doctor`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import drfer

PACKAGES = ("torch", "torch-cluster", "numpy", "numba", "libigl", "embreex", "anny", "jupyterlab")
"""Packages whose versions explain most of what can be amiss."""


@dataclass(frozen=True)
class Extra:
    """A part of the kit whose packages are installed only if it is wanted."""

    name: str
    """As in `pip install "drfer[faces]"`."""
    serves: str
    """What it is for, as the end of a sentence."""
    modules: tuple[str, ...]
    """What is imported for it."""

    @property
    def missing(self) -> list[str]:
        """The modules that are not installed."""
        return [module for module in self.modules if find_spec(module) is None]

    @property
    def remedy(self) -> str:
        """The one command that installs it for the Python that runs here."""
        return install_command(self.name)


EXTRAS = (
    Extra("faces", "to make the open faces", ("embreex", "igl")),
    Extra("populations", "to make open faces of other people", ("anny", "warp")),
    Extra(
        "notebooks",
        "for the notebooks and live pictures",
        ("jupyterlab", "ipywidgets", "anywidget", "IPython", "nbconvert", "plotly"),
    ),
    Extra("cluster", "for --engine ray", ("ray",)),
    Extra("bench", "for a column of drfer bench", ("torch_geometric",)),
)


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this installation.

    In a checkout it is the exact versions that are added, and the checkout stays what is imported.
    """
    checkout = Path(drfer.__file__).parents[1]
    if (checkout / "constraints.txt").exists():
        constraints = checkout / "constraints.txt"
        return f'{sys.executable} -m pip install -c "{constraints}" -e "{checkout}[{extra}]"'
    return f'{sys.executable} -m pip install "drfer[{extra}]"'


def sentence_for(error: ModuleNotFoundError) -> str | None:
    """Return what to do about a module that is not installed; None if it belongs to no extra."""
    for extra in EXTRAS:
        if (error.name or "").split(".")[0] in extra.modules:
            return f"{error.name} is not installed, which is {extra.serves}: {extra.remedy}"
    return None


def report() -> Iterator[str]:
    """Yield the lines that `drfer doctor` prints."""
    import torch

    from drfer.common import device
    from drfer.common.files import cache_folder
    from drfer.models import points

    yield f"drfer           {drfer.__version__}"
    yield f"python          {sys.version.split()[0]}"
    for package in PACKAGES:
        yield f"{package:<15} {_version(package)}"
    on_cpu = f"CPU, {torch.get_num_threads()} threads"
    yield f"device          {torch.cuda.get_device_name() if torch.cuda.is_available() else on_cpu}"
    native = device.has_bfloat16()
    yield f"precision       {'bfloat16 (native here)' if native else 'float32 (no native bfloat16)'}"
    for where, what in points.backends().items():
        yield f"FPS on {where:<8} {what}"
    yield f"faces cached in {cache_folder()}"
    for extra in EXTRAS:
        if extra.missing:
            yield f"not installed   {extra.name}, {extra.serves}: {extra.remedy}"
    if problem := gpu_problem():
        yield f"amiss           {problem}"


def gpu_problem() -> str | None:
    """Return what keeps this machine's GPU from being used in full, and the command for it."""
    import torch

    from drfer.models.points import torch_cluster_has_cuda

    pip = f"{sys.executable} -m pip install"
    if not torch.cuda.is_available():
        if torch.version.cuda is None and _has_nvidia_gpu():
            return f"there is a GPU, but torch is built without CUDA: {pip} --force-reinstall torch"
        return None
    if torch_cluster_has_cuda():
        return None
    if shutil.which("c++") is None:
        return "torch-cluster needs a compiler here: apt-get install g++ (on Debian)"
    return (
        "there is a GPU, but no torch-cluster that is built for it: "
        f"{pip} --no-build-isolation --no-cache-dir --force-reinstall --no-deps torch-cluster"
    )


def _has_nvidia_gpu() -> bool:
    try:
        return subprocess.run(["nvidia-smi"], capture_output=True).returncode == 0
    except OSError:
        return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
