"""Where scans come from: the open faces, the licensed databases, and a user's own."""

from __future__ import annotations

from pathlib import Path

from drfer.common.errors import DrferError, check_known

NAMES = ("anny3dfe", "bu3dfe", "bosphorus", "scans")


def open_dataset(name: str, root: Path | None = None, subjects: int = 100, up: str = "y"):
    """A dataset by its name: the open faces (so many subjects, made on first use), or one in the folder `root`.

    Raises DrferError for a name it does not know and for a folder without such scans.
    """
    from drfer.datasets.anny3dfe.database import Anny3DFE
    from drfer.datasets.bosphorus import Bosphorus
    from drfer.datasets.bu3dfe import BU3DFE
    from drfer.datasets.scans import Scans

    check_known("dataset", name, NAMES)
    if up != "y" and name != "scans":
        raise DrferError("--up is for scans of your own: say --dataset scans")
    if name == "anny3dfe":
        if root:
            raise DrferError(
                "anny3dfe is made by this kit: with --root say --dataset bu3dfe, bosphorus or scans"
            )
        return Anny3DFE(subjects)
    if root is None:
        raise DrferError(f"{name} lies in a folder of yours: name it with --root FOLDER")
    if name == "scans":
        return Scans(root, up)
    return {"bu3dfe": BU3DFE, "bosphorus": Bosphorus}[name](root)
