"""Items made in the background while others are used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator
from typing import TypeVar

Item = TypeVar("Item")


def made_ahead(items: Generator[Item, None, None], depth: int) -> Generator[Item, None, None]:
    """The same items, of which a thread keeps `depth` ready; 0: each is made when it is asked for.

    What the generator raises is raised where its next item would have been. Closing this one closes it as well.
    """
    if not depth:
        yield from items
        return
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
    left = threading.Event()

    def fill() -> None:
        try:
            for item in items:
                ready.put((item, None))
                if left.is_set():
                    return
            ready.put((None, None))
        # Whatever happens in the thread has to reach the one who waits for it.
        except BaseException as error:
            ready.put((None, error))
        finally:
            items.close()

    thread = threading.Thread(target=fill, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        left.set()
        while thread.is_alive():
            # The thread may be waiting for room.
            while not ready.empty():
                ready.get_nowait()
            thread.join(0.01)
