"""Which of a host's cores a rank computes on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def threads() -> int:
    """Per rank: what the launcher says, or else an even share of the host's cores."""
    if "OMP_NUM_THREADS" in os.environ:
        return int(os.environ["OMP_NUM_THREADS"])
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def share(cores: set[int], local_rank: int, ranks: int, threads: int) -> set[int]:
    """The cores of one of a host's ranks: neighbours, apart from the others'.

    All of them where there are too few for that, or for the threads that each is to have.
    """
    ordered = sorted(cores)
    mine = ordered[local_rank * len(ordered) // ranks : (local_rank + 1) * len(ordered) // ranks]
    return set(mine) if len(ordered) // ranks >= threads else cores


@contextlib.contextmanager
def kept_to_share(threads: int) -> Iterator[None]:
    """Keeps this thread, and all that it starts, to this rank's share of the cores that the process may use.

    Ranks exchange many small messages. Where they are free to move, the threads that carry these push the computing
    ones from core to core.
    """
    cores = os.sched_getaffinity(0)
    ranks, local_rank = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    os.sched_setaffinity(0, share(cores, local_rank, ranks, threads))
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
