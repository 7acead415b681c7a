"""Anny-3DFE: an open, synthetic face database with the structure of BU-3DFE.

A scan comes about in three steps, one module each: `identity` draws a person and `head` gives them
a head, `expressions` draws what the face shows, `scanner` scans it. `database` keeps the scans of
one population, `populations` makes one dataset of several.
"""

from drfer.datasets.anny3dfe.database import VERSION, Anny3DFE, FaceSettings, subject_names
from drfer.datasets.anny3dfe.populations import Populations

__all__ = ["VERSION", "Anny3DFE", "FaceSettings", "Populations", "subject_names"]
