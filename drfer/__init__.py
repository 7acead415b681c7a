"""A teaching and reproduction kit for DrFER (Li, Yang, Huang 2024), 3D facial expression recognition.

A face goes through the package from top to bottom: a scan of `datasets` becomes a cloud in `preprocessing`, passes the
network of `models`, which `training` teaches stage by stage; `evaluation` runs and tests that, and `figures` draws it.

For other programs there are three doors:
    load_model: the trained model that comes with the kit.
    preprocess_scan: one raw scan as a point cloud that a network can take.
    FaceDataset: preprocessed scans as a `torch.utils.data.Dataset`, for any other network.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drfer.models.shipped import load_model
    from drfer.preprocessing.resampling import preprocess_scan
    from drfer.preprocessing.torch_dataset import FaceDataset

__version__ = "0.2.0"
__all__ = ["FaceDataset", "__version__", "load_model", "preprocess_scan"]

# How often an idle thread of torch looks for work before it sleeps; torch reads this when it is first imported. The
# value is some 0.3 ms, which bridges the gap from one operator to the next. Threads that sleep at once made a training
# step of `classroom` a quarter slower, since waking one costs more than a small operator does. By default they look for
# far longer and keep a core from all other work: on two cores, a training beside other work was up to ten times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_DOORS = {
    "FaceDataset": "drfer.preprocessing.torch_dataset",
    "load_model": "drfer.models.shipped",
    "preprocess_scan": "drfer.preprocessing.resampling",
}


def __getattr__(name: str) -> object:
    """Imports a door when it is first used: `import drfer` alone does not load torch."""
    if name in _DOORS:
        return getattr(importlib.import_module(_DOORS[name]), name)
    raise AttributeError(f"module 'drfer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
