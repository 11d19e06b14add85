"""Assignment of a host's cores to ranks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def threads() -> int:
    """CPU threads per rank: the launcher's setting, or else an even share of the host's cores."""
    if "OMP_NUM_THREADS" in os.environ:
        return int(os.environ["OMP_NUM_THREADS"])
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def share(cores: set[int], local_rank: int, ranks: int, threads: int) -> set[int]:
    """The cores of one rank of a host: adjacent, and disjoint from those of the other ranks.

    All cores if there are too few for disjoint shares, or for the threads of each rank.
    """
    ordered = sorted(cores)
    mine = ordered[local_rank * len(ordered) // ranks : (local_rank + 1) * len(ordered) // ranks]
    return set(mine) if len(ordered) // ranks >= threads else cores


@contextlib.contextmanager
def pinned_to_share(threads: int) -> Iterator[None]:
    """Pins this thread, and all threads that it starts, to this rank's share of the process's cores.

    Ranks exchange many small messages. Without pinning, the communication threads push the compute threads from core to
    core.
    """
    cores = os.sched_getaffinity(0)
    ranks, local_rank = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    os.sched_setaffinity(0, share(cores, local_rank, ranks, threads))
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
