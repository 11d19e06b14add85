"""Items made in the background while others are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def made_ahead(items: Generator[Item, None, None], depth: int) -> Generator[Item, None, None]:
    """The same items, of which a thread keeps `depth` ready; 0: each is made when it is asked for.

    What the generator raises is raised where its next item would have been. Closing this one closes it as well.
    """
    if not depth:
        yield from items
        return
    # Python waits for an executor's threads before it ends. A daemon thread would be torn down where it stands, and if
    # that is inside torch or Arrow, the process aborts.
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        ready: deque[Future[Item | None]] = deque(pool.submit(next, items, None) for _ in range(depth))
        while (item := ready.popleft().result()) is not None:
            ready.append(pool.submit(next, items, None))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
        items.close()
