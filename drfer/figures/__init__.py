"""From stored results to figures and tables, and the pictures of the notebooks."""

import os
import sys
from contextlib import suppress

if "matplotlib" not in sys.modules:
    # matplotlib cannot even be imported while MPLBACKEND names no backend. Figures are drawn
    # without one, so its import does not see the name, which is set afterwards if it is one.
    _backend = os.environ.pop("MPLBACKEND", None)
    import matplotlib

    if _backend:
        os.environ["MPLBACKEND"] = _backend
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = _backend
