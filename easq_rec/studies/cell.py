"""The process of one cell: `python -m easq_rec.studies.cell CONFIG.json [WEIGHT ...]`.

Its standard input is a pipe that the study's process holds and never writes to. When that process is gone, however it
went, the pipe is closed and the cell leaves, so that no orphan writes beside the cell of a resumed study.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from easq_rec import arguments, doctor
from easq_rec.config import Config
from easq_rec.serialization import from_dict

FUSED = "fused.json"
"""In the run directory: ranking metrics by weight of the reference score in a fused score."""


def main(path: str, weights: Sequence[str] = ()) -> int:
    """Trains and evaluates what the config says, in its run_dir; returns the exit code.

    Args:
        weights: of the reference score, for each of which the held-out requests are ranked by a fused score as well.
    """
    config: Config = from_dict(Config, json.loads(Path(path).read_text()))
    doctor.require_compatible(config.trainer.device)
    from easq_rec import session

    code = session.train(config)
    if not code and weights:
        found = {weight: asdict(session.rank_fused(config, float(weight))) for weight in weights}
        (Path(str(config.run_dir)) / FUSED).write_text(json.dumps(found))
    return code


def leave_with_parent() -> None:
    """Ends this process when its standard input is closed."""

    def wait() -> None:
        # Not sys.stdin.read(): a thread that holds its lock makes the interpreter abort at its end.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    leave_with_parent()
    sys.exit(arguments.run(lambda: main(sys.argv[1], sys.argv[2:])))
