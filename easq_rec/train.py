"""Trains a run: `torchx run dist.ddp -j 2x8 easq_rec/train.py [RECIPE] [--schema FILE] [--data DIR] [--overrides]`.

Also `torchrun --nproc_per_node 2 easq_rec/train.py`, `python easq_rec/train.py`, and `easq-rec train`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Read when torch is loaded. OpenMP threads that spin while they wait take cores from other processes, such as other
# ranks.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Empty is unset, except for OpenMP, which complains.
if not os.environ.get("OMP_NUM_THREADS", "1").strip():
    del os.environ["OMP_NUM_THREADS"]

# Python puts a script's folder first on sys.path, which would make this package's modules importable as top-level ones.
if sys.path and Path(sys.path[0] or ".").resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from easq_rec import doctor
from easq_rec.config.command_line import parse_config
from easq_rec.errors import exit_code
from easq_rec.training import preflight
from easq_rec.training.signals import StopRequest


def main(argv: Sequence[str] | None = None, *, prog: str = "train.py") -> int:
    """Parses, builds and fits; returns the exit code."""
    config = parse_config(sys.argv[1:] if argv is None else argv, prog=prog)
    doctor.require_compatible(config.trainer.device)
    preflight.check(config)
    stop = StopRequest()
    stop.listen(signal.SIGTERM)
    # Importing torch takes seconds, so --help and all errors that need no torch come first.
    if config.follow.source is not None:
        from easq_rec.serving import publisher
        from easq_rec.training.follow import session as follow_session

        return follow_session.follow(config, stop, publisher.opened)
    from easq_rec.tools.simulation.default_data import prepare_data
    from easq_rec.training import session

    return session.train(config, prepare_data, stop)


def script(main: Callable[[], int]) -> int:
    """Calls `main()` as a worker of torchrun and writes every error to its error file; returns the exit code."""
    from torch.distributed.elastic.multiprocessing.errors import record

    from easq_rec.training.health.error_file import ErrorFile

    # Inside `exit_code`, which catches a UserError: torchrun must receive that error, too.
    recorded = record(main, ErrorFile())
    return exit_code(lambda: recorded() or 0)


if __name__ == "__main__":
    sys.exit(script(main))
