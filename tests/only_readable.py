"""Folders that a test may read but not write, whoever runs it."""

import os
from contextlib import contextmanager


@contextmanager
def as_a_user_who_may_only_read(*folders):
    """Nobody may write to these folders in the block; who runs the tests as root is somebody else."""
    paths = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    modes = [path.stat().st_mode for path in paths]
    above = {parent for folder in folders for parent in folder.parents}
    open_to_all = [parent for parent in above if parent.stat().st_uid == os.getuid()]
    parent_modes = [parent.stat().st_mode for parent in open_to_all]
    is_root = os.geteuid() == 0
    for path, mode in zip(open_to_all, parent_modes):
        path.chmod(mode | 0o111)
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        if is_root:
            os.seteuid(65534)
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for path, mode in zip([*paths, *open_to_all], [*modes, *parent_modes]):
            path.chmod(mode)
