"""drfer: a teaching and reproduction kit for DrFER (Li, Yang, Huang 2024), 3D facial expression recognition.

A face goes through the package from top to bottom:
scan -> datasets -> preprocessing -> model -> losses -> stages -> experiment -> figures.
"""

__version__ = "0.1.0"
