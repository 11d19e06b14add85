"""The environment of ranks that a benchmark starts on this machine."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def environment() -> dict[str, str]:
    """This process's environment with this repository first on the path and one thread per rank, without the variables
    of a surrounding launch.

    Waiting threads do not spin, because other ranks may need the core.
    """
    outside = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    paths = os.pathsep.join(filter(None, (str(REPOSITORY), outside.get("PYTHONPATH"))))
    return {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **outside, "PYTHONPATH": paths}
