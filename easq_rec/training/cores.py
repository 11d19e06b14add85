"""Assignment of a host's cores to ranks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from easq_rec.errors import UserError
from easq_rec.training.launch import Launch

VARIABLE = "OMP_NUM_THREADS"


def threads(ranks: Launch) -> int:
    """CPU threads per rank: the launcher's setting, or else an even share of the host's cores.

    OMP_NUM_THREADS may be a list, whose first number is that of the outermost parallel regions; torch nests none.

    Raises:
        UserError: OMP_NUM_THREADS is not one or more numbers.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if not given:
        return max(1, len(os.sched_getaffinity(0)) // ranks.local_world_size)
    numbers = [number.strip() for number in given.split(",")]
    if not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise UserError(
            f"{VARIABLE}={given!r} is not allowed: a number of threads, or a list of numbers such as 4,2; unset it to "
            "share the cores between the ranks"
        )
    return int(numbers[0])


def share(cores: set[int], local_rank: int, ranks: int, threads: int) -> set[int]:
    """The cores of one rank of a host: adjacent, and disjoint from those of the other ranks.

    All cores if there are too few for disjoint shares, or for the threads of each rank.
    """
    ordered = sorted(cores)
    mine = ordered[local_rank * len(ordered) // ranks : (local_rank + 1) * len(ordered) // ranks]
    return set(mine) if len(ordered) // ranks >= threads else cores


@contextlib.contextmanager
def pinned_to_share(ranks: Launch, threads: int) -> Iterator[None]:
    """Pins this thread, and all threads that it starts, to this rank's share of the process's cores.

    Ranks exchange many small messages. Without pinning, the communication threads push the compute threads from core to
    core.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, share(cores, ranks.local_rank, ranks.local_world_size, threads))
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
