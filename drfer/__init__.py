"""drfer: a teaching and reproduction kit for DrFER (Li, Yang, Huang 2024), 3D facial expression recognition.

A face goes through the package from top to bottom:
scan -> datasets -> preprocessing -> model -> losses -> stages -> experiment -> figures.
"""

import os

__version__ = "0.1.0"

# Read when torch is first imported: how often an idle thread looks for work before it sleeps, here for some 0.3 ms. That
# bridges the gap from one operator to the next: sleeping at once made a step of `classroom` a quarter slower, since
# waking a thread costs more than a small operator does. By default threads look for far longer, and so take a core from
# whatever else the machine does: on two cores a training beside other work was up to ten times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
