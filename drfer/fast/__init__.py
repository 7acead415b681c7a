"""The network's slow steps in a form that is fast on a CPU.

Everything here gives what its plain twin in `drfer.models` gives, in less time:

- `encoder`: the forward pass of `drfer.models.pointnet2.Encoder`
- `groups`: a level's PointNet as one operation, with its gradient (`group_loops` has its loops, and
  `moments` says what a batch norm does in it)
- `points`: farthest point sampling, ball query and nearest neighbours
- `compiled`: how all loops here are compiled and called

`drfer bench` says how much time it saves.

One switch turns it off: with `DRFER_FAST=0` in the environment the plain forms serve.
"""

from __future__ import annotations

import os


def enabled() -> bool:
    """Return whether the fast forms serve on a CPU: always, unless the environment says otherwise.

    `DRFER_FAST=0` turns them off. The variable is read anew at each call.
    """
    return os.environ.get("DRFER_FAST", "1") != "0"
