"""TorchRec's train pipelines, as arguments of the trainer: `Trainer(pipeline=PIPELINES[name])`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchrec.distributed.train_pipeline import (
    PrefetchTrainPipelineSparseDist,
    TrainPipeline,
    TrainPipelineBase,
    TrainPipelineSparseDist,
)
from torchrec.distributed.train_pipeline.train_pipelines import (
    TrainPipelineFusedSparseDist,
    TrainPipelineSparseDistLite,
)

from easq_rec.data.batch import RequestBatch
from easq_rec.losses.objective import StepOutput

Forward = Callable[[RequestBatch | None], tuple[Tensor, StepOutput]]


class Base(TrainPipelineBase[RequestBatch, StepOutput]):
    """Copies the next batch during the step, and sends ids only when the forward pass needs them.

    TorchRec's version accepts a forward function but calls the model.
    """

    def __init__(
        self, model: torch.nn.Module, optimizer: Any, device: torch.device, *, custom_model_fwd: Forward
    ) -> None:
        super().__init__(_Called(model, custom_model_fwd), optimizer, device)


class _Called(torch.nn.Module):
    def __init__(self, model: torch.nn.Module, forward: Forward) -> None:
        super().__init__()
        self._forward = forward
        self.training = model.training

    def forward(self, batch: RequestBatch | None) -> tuple[Tensor, StepOutput]:
        found: tuple[Tensor, StepOutput] = self._forward(batch)
        return found


PIPELINES: dict[str, Callable[..., TrainPipeline[RequestBatch, StepOutput]]] = {
    "base": Base,
    "sparse_dist": TrainPipelineSparseDist,
    "sparse_dist_lite": TrainPipelineSparseDistLite,
    "fused_sparse_dist": TrainPipelineFusedSparseDist,
    "prefetch": PrefetchTrainPipelineSparseDist,
}
"""- base: only the copy of the next batch overlaps with the step
- sparse_dist: ids of the next batch are exchanged during the step (used by the trainer)
- sparse_dist_lite: all ids of a batch are exchanged together, right before its step
- fused_sparse_dist: also looks up the next batch's embeddings during the optimizer step
- prefetch: loads rows of the next batch into the caches of UVM-cached tables during the step
"""
