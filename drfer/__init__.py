"""drfer: a teaching and reproduction kit for DrFER (Li, Yang, Huang 2024), 3D facial expression recognition.

A face goes through the package from top to bottom:
scan -> datasets -> preprocessing -> model -> losses -> stages -> experiment -> figures.
"""

import os

__version__ = "0.1.0"

# Read when torch is first imported. Its idle threads would otherwise spin, and so take a core from our own loops
# and from whatever else the machine does: on two cores a training beside other work was up to ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
