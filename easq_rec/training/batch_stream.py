"""Batches for the pipeline, which reads them ahead of the steps that train on them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Generic, TypeVar

import torch

from easq_rec.data.batch import RequestBatch
from easq_rec.training.phases import Phases

State = TypeVar("State")


class BatchStream(Generic[State]):
    """Iterates over a loader's batches, and keeps the loader's state after each until its step is made.

    Args:
        batches: of a loader, with the states.
        device: a batch for CUDA is pinned, so that its copy overlaps with the step.
    """

    def __init__(
        self, batches: Generator[tuple[RequestBatch, State], None, None], *, device: torch.device, phases: Phases
    ) -> None:
        self._batches = batches
        self._pin = device.type == "cuda"
        self._phases = phases
        self._ahead: deque[tuple[State, int]] = deque()

    def __iter__(self) -> BatchStream[State]:
        return self

    def __next__(self) -> RequestBatch:
        with self._phases("data"):
            item = next(self._batches, None)
        if item is None:
            raise StopIteration
        batch, state = item
        self._ahead.append((state, batch.stream.candidates))
        return batch.pin_memory() if self._pin else batch

    def end_step(self) -> tuple[State, int]:
        """The loader's state after the batch that was just trained on, and the impressions of that batch."""
        return self._ahead.popleft()

    def close(self) -> None:
        """Ends a thread that makes batches ahead."""
        self._batches.close()
