"""Anny-3DFE: an open, synthetic face database with the structure of BU-3DFE.

A scan comes about in three steps, one module each: `identity` draws a person and `head` gives them
a head, `expressions` draws what the face shows, `scanner` scans it. `database` keeps the scans.
"""

from drfer.datasets.anny3dfe.database import VERSION, Anny3DFE, FaceSettings, subject_names

__all__ = ["VERSION", "Anny3DFE", "FaceSettings", "subject_names"]
