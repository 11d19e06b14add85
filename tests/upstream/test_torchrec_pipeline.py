"""The pipeline of TorchRec still runs a step as `training.step` expects, in the stages that benchmarks measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import PrefetchTrainPipelineSparseDist, TrainPipelineSparseDist
from torchrec.distributed.train_pipeline.train_pipelines import (
    TrainPipelineBase,
    TrainPipelineFusedSparseDist,
    TrainPipelineSparseDistLite,
)

from easq_rec.upstream.torchrec_pipeline import STAGES
from tests.upstream.conftest import CPU, ids

CHANGED = "TorchRec has changed {}: adapt easq_rec/upstream/torchrec_pipeline.py"


class Driven:
    """The optimizer and the forward function of a pipeline. Both record their calls."""

    def __init__(self, model: DistributedModelParallel) -> None:
        self.model = model
        self.calls: list[str] = []
        self.outputs: list[Tensor] = []

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        self.calls.append("forward")
        loss, output = self.model(batch)
        loss.register_hook(lambda _: self.calls.append("backward"))
        self.outputs.append(output)
        return loss, output

    def zero_grad(self) -> None:
        self.calls.append("zero_grad")

    def step(self) -> None:
        self.calls.append("step")


def test_a_step_calls_the_four_methods_in_order_and_returns_the_output(sharded: DistributedModelParallel) -> None:
    driven = Driven(sharded)
    pipeline = TrainPipelineSparseDist(sharded, driven, CPU, custom_model_fwd=driven.forward)
    batches = iter([ids(seed) for seed in range(3)])
    for number in range(3):
        output = pipeline.progress(batches)
        assert output is driven.outputs[number], CHANGED.format("what TrainPipelineSparseDist.progress returns")
    assert driven.calls == ["zero_grad", "forward", "backward", "step"] * 3, CHANGED.format(
        "the order of calls in TrainPipelineSparseDist.progress"
    )
    with pytest.raises(StopIteration):
        pipeline.progress(batches)


def test_a_detached_model_can_be_called_and_the_pipeline_continues(sharded: DistributedModelParallel) -> None:
    driven = Driven(sharded)
    pipeline = TrainPipelineSparseDist(sharded, driven, CPU, custom_model_fwd=driven.forward)
    batches = iter([ids(seed) for seed in range(4)])
    pipeline.progress(batches)
    pipeline.detach()
    _, direct = sharded(ids(1))
    pipeline.attach(sharded, sparse_dist=False)
    output = pipeline.progress(batches)
    # No step is made between the two calls. The first batch after the pause is the second batch.
    assert torch.equal(output, direct), CHANGED.format("TrainPipelineSparseDist.detach and attach")


BASE = {"_next_batch", "_copy_batch_to_gpu"}
SPARSE = {*BASE, "copy_batch_to_gpu", "start_sparse_data_dist", "wait_sparse_data_dist"}
PIPELINES: dict[type[Any], set[str]] = {
    TrainPipelineBase: BASE,
    TrainPipelineSparseDist: SPARSE,
    TrainPipelineSparseDistLite: SPARSE,
    TrainPipelineFusedSparseDist: {*SPARSE, "start_embedding_lookup"},
    PrefetchTrainPipelineSparseDist: {*SPARSE, "_prefetch"},
}
"""The expected stage methods of each pipeline."""


@pytest.mark.parametrize("kind", PIPELINES, ids=lambda kind: kind.__name__)
def test_every_pipeline_has_the_methods_of_its_stages(kind: type[Any]) -> None:
    found = {method for method in STAGES if hasattr(kind, method)}
    assert found == PIPELINES[kind], CHANGED.format(f"the methods of {kind.__name__}")


def test_the_stages_of_a_step_are_called(sharded: DistributedModelParallel, monkeypatch: pytest.MonkeyPatch) -> None:
    driven = Driven(sharded)
    pipeline = TrainPipelineSparseDist(sharded, driven, CPU, custom_model_fwd=driven.forward)
    batches = iter([ids(seed) for seed in range(6)])
    pipeline.progress(batches)
    called: set[str] = set()

    def watched(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            called.add(STAGES[name])
            return method(*arguments, **named)

        return call

    for name in STAGES:
        if hasattr(pipeline, name):
            monkeypatch.setattr(pipeline, name, watched(name, getattr(pipeline, name)))
    pipeline.progress(batches)
    assert called == {"data", "host_to_device", "ids_exchange"}, CHANGED.format("the methods that progress calls")
