"""Makes items in the background while others are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetched(items: Generator[Item, None, None], depth: int, *, finish: bool = False) -> Generator[Item, None, None]:
    """Yields the same items; a thread keeps `depth` of them ready. 0: items are made on demand.

    An exception of `items` is raised in place of its next item. Closing this generator also closes `items`.

    Args:
        finish: at the end, all items that the thread was asked for are made. Without it, those that it has not begun
            are left out. An item that takes part in an exchange of all ranks must be made on all of them.
    """
    if not depth:
        yield from items
        return
    # At exit Python waits for an executor's threads. A daemon thread would be killed, and if it runs inside torch or
    # Arrow, the process aborts.
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        ready: deque[Future[Item | None]] = deque(pool.submit(next, items, None) for _ in range(depth))
        while (item := ready.popleft().result()) is not None:
            ready.append(pool.submit(next, items, None))
            yield item
    finally:
        pool.shutdown(cancel_futures=not finish)
        items.close()
