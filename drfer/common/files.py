"""Files that are written whole or not at all, and the cache folder."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import platformdirs

from drfer.common.errors import DrferError


def cache_folder() -> Path:
    """Where made and preprocessed faces are kept: $DRFER_CACHE, else the user's cache folder."""
    return Path(os.environ.get("DRFER_CACHE") or platformdirs.user_cache_dir("drfer"))


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A temporary path beside the target, for a file or a folder, that takes the target's place when all went well.

    After a crash or a kill the target is as it was: complete or absent. Raises DrferError if the place
    cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise DrferError(
            f"cannot write to {target.parent}: {error.strerror}; choose another folder"
        ) from None
    try:
        yield workplace / target.name
        os.replace(workplace / target.name, target)
    except OSError as error:
        # a second process may have put the same folder there first: theirs is as good
        if not (target.is_dir() and (workplace / target.name).is_dir()):
            raise DrferError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """A cache of arrays; None if it is not there, or cannot be read, when it is removed: it can be made again."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        return None
    except Exception:  # truncated, overwritten, not a zip: whatever it is
        path.unlink()
        return None


def _remove_leftovers(target: Path) -> None:
    """Remove what a killed process left beside a target; younger than an hour it may be another's work."""
    for leftover in target.parent.glob(f".{target.name}.*"):
        if time.time() - leftover.stat().st_mtime > 3600:
            shutil.rmtree(leftover, ignore_errors=True)
