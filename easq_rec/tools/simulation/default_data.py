"""Location of a run's data. Without --data, the built-in world is generated."""

from __future__ import annotations

from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.presence import require_training_data
from easq_rec.data.sources import world_directory
from easq_rec.errors import UserError
from easq_rec.tools.simulation.world import ensure
from easq_rec.training.process import Runtime


def prepare_data(config: Config, runtime: Runtime) -> files.Location:
    """Location of the data; if the built-in world is missing, one process of each host generates it."""
    require_training_data(config)
    if config.data.path is not None:
        if not files.is_dir(config.data.path):
            raise UserError(f"--data {files.display_name(config.data.path)}: no such directory")
        return config.data.path
    directory = world_directory(config)
    if runtime.local_rank == 0:
        if not directory.exists() and runtime.leads:
            print(f"generating the synthetic world, {config.world.requests:,} requests, in {directory}", flush=True)
        ensure(config.world, directory)
    runtime.barrier()
    return directory
