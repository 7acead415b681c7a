"""Stage results under the hash of all that determined them: what is there is not done again.

A result is a folder with one small JSON (the record) and one safetensors file (the weights of the parts that the
stage trained), written whole or not at all. A training in progress keeps one checkpoint file, likewise.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from drfer.jobs import written_whole


class Store:
    """Results of stages in a folder. Names of results are "<stage>-<hash>"."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def load(self, name: str) -> tuple[dict[str, Tensor], dict] | None:
        """Weights and record of a finished stage; None if it is not there. A damaged one is said and removed."""
        folder = self.root / name
        if not folder.exists():
            return None
        try:
            return load_file(folder / "weights.safetensors"), json.loads((folder / "record.json").read_text())
        except (OSError, ValueError, SafetensorError) as error:
            print(f"{folder} is damaged ({error}); it is made again")
            shutil.rmtree(folder, ignore_errors=True)
            return None

    def save(self, name: str, weights: dict[str, Tensor], record: dict) -> None:
        """Store a finished stage and drop its checkpoint. Raises DrferError if the folder cannot be written."""
        with written_whole(self.root / name) as folder:
            folder.mkdir()
            save_file(
                {key: tensor.contiguous().cpu() for key, tensor in weights.items()}, folder / "weights.safetensors"
            )
            (folder / "record.json").write_text(json.dumps(record, indent=1))
        self._checkpoint(name).unlink(missing_ok=True)

    def load_checkpoint(self, name: str) -> tuple[dict[str, Tensor], dict] | None:
        """State of an interrupted training, as `save_checkpoint` got it; None if there is none. A damaged one is
        said and removed."""
        path = self._checkpoint(name)
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as stored:
                return {key: stored.get_tensor(key) for key in stored.keys()}, json.loads(stored.metadata()["rest"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            print(f"{path} is damaged ({error}); the stage starts anew")
            path.unlink()
            return None

    def save_checkpoint(self, name: str, tensors: dict[str, Tensor], rest: dict) -> None:
        with written_whole(self._checkpoint(name)) as target:
            contiguous = {key: tensor.contiguous().cpu() for key, tensor in tensors.items()}
            save_file(contiguous, target, {"rest": json.dumps(rest)})

    def _checkpoint(self, name: str) -> Path:
        return self.root / f"{name}.checkpoint"
