"""What arguments, paths and the environment alone can tell of a run, before torch is imported, which takes seconds."""

from __future__ import annotations

import os
from pathlib import Path

from easq_rec.config import Config
from easq_rec.data.presence import require_training_data
from easq_rec.errors import UserError
from easq_rec.evaluation.ranking_metrics import require_metric
from easq_rec.run_directory.config_file import check_resumable
from easq_rec.run_directory.writer_lock import WriterLock
from easq_rec.training import cores
from easq_rec.training.launch import launch, require_store


def check(config: Config) -> None:
    """Checks a run. Every rank gets the same result.

    Raises:
        UserError: the run is not possible here.
    """
    ranks = launch()
    cores.threads(ranks)
    require_metric("checkpoint.best", config.checkpoint.best)
    if config.follow.source is None:
        require_training_data(config)
    if config.run_dir is not None:
        run_dir = Path(config.run_dir)
        _require_place(run_dir)
        if ranks.world_size == 1:
            # Of several ranks, one that is later would find the directory in the hands of rank 0 of its own job.
            WriterLock(run_dir).refuse()
        check_resumable(config, run_dir)
    require_store()


def _require_place(run_dir: Path) -> None:
    """Raises UserError if no directory can be there."""
    for path in (run_dir, *run_dir.parents):
        if path.is_dir():
            if not os.access(path, os.W_OK | os.X_OK):
                raise UserError(f"--run-dir {run_dir}: {path} cannot be written to; name another directory")
            return
        if path.exists() or path.is_symlink():
            raise UserError(f"--run-dir {run_dir}: {path} is not a directory; name another one")
