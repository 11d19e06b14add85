"""Batches for the pipeline, which reads them ahead of the steps that train on them."""

from __future__ import annotations

from collections import deque

import torch

from easq_rec.data.batch import RequestBatch
from easq_rec.data.loader import LoaderState, TrainLoader
from easq_rec.training.phases import Phases


class BatchStream:
    """Iterates over the loader's batches, and keeps the loader's state of each until its step is made.

    Args:
        state: of the loader after the last batch that was trained on.
        steps: batches to read.
        device: a batch for CUDA is pinned, so that its copy overlaps with the step.
    """

    def __init__(
        self, loader: TrainLoader, state: LoaderState, *, steps: int, device: torch.device, phases: Phases
    ) -> None:
        self._batches = loader.batches(state, steps=steps)
        self._pin = device.type == "cuda"
        self._phases = phases
        self._ahead: deque[tuple[LoaderState, int]] = deque()

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> RequestBatch:
        with self._phases("data"):
            item = next(self._batches, None)
        if item is None:
            raise StopIteration
        batch, state = item
        self._ahead.append((state, batch.stream.candidates))
        return batch.pin_memory() if self._pin else batch

    def end_step(self) -> tuple[LoaderState, int]:
        """The loader's state after the batch that was just trained on, and the impressions of that batch."""
        return self._ahead.popleft()

    def close(self) -> None:
        """Ends a thread that makes batches ahead."""
        self._batches.close()
