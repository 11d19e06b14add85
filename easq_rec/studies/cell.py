"""The process of one cell: `python -m easq_rec.studies.cell CONFIG.json`.

Its standard input is a pipe that the study's process holds and never writes to. When that process is gone, however it
went, the pipe is closed and the cell leaves, so that no orphan writes beside the cell of a resumed study.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from easq_rec import arguments, doctor
from easq_rec.config import Config
from easq_rec.serialization import from_dict


def main(path: str) -> int:
    """Trains and evaluates what the config says, in its run_dir; returns the exit code."""
    config: Config = from_dict(Config, json.loads(Path(path).read_text()))
    doctor.require_compatible(config.trainer.device)
    from easq_rec import session

    return session.train(config)


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
    sys.exit(arguments.run(lambda: main(sys.argv[1])))
