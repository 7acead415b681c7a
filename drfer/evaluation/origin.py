"""What a result is called, what it holds, and where it comes from."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

import drfer
from drfer.common.device import device
from drfer.common.errors import DrferError
from drfer.models.drfer import DrFER
from drfer.training.stages import Stage


def name_of(what: str, determined_by: dict) -> str:
    """Return a result's name in the store: what it is, and the hash of all that determined it."""
    text = json.dumps(determined_by, sort_keys=True)
    return f"{what}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def provenance() -> dict:
    """Say where and with what a result is computed."""
    return {
        "drfer": drfer.__version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device().type == "cuda" else "cpu",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "peak memory of the process, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        // 1024,
    }


def weights_of(model: DrFER, stage: Stage) -> dict[str, Tensor]:
    """Return the weights of the parts that a stage trains, by name."""
    prefixes = tuple(f"{part}." for part in stage.trains)
    return {
        name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefixes)
    }


def load_weights(model: DrFER, stage: Stage, weights: dict[str, Tensor], where: Path) -> None:
    """Load the weights of a stage's parts into a model.

    Args:
        model: the model.
        stage: what it trains must be there, and nothing else.
        weights: by name, as `weights_of` gives them.
        where: they lie, for the error.

    Raises:
        DrferError: names, shapes or types are others.
    """
    if _forms_of(weights) != _forms_of(weights_of(model, stage)):
        raise other_version(where)
    model.load_state_dict(weights, strict=False)  # the stage's parts are not the whole model


def _forms_of(weights: dict[str, Tensor]) -> dict[str, tuple]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()}


def other_version(where: Path) -> DrferError:
    """Return the error for stored weights that do not fit."""
    return DrferError(
        f"{where} holds weights of another version of drfer: delete it, or choose another --out"
    )
