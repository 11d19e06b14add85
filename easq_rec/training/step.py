"""One training step, from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipeline, TrainPipelineSparseDist

from easq_rec.config import Config, Optim
from easq_rec.data.batch import RequestBatch
from easq_rec.data.replay import ReplayState
from easq_rec.losses.objective import StepOutput
from easq_rec.model.id_tables import IdTables
from easq_rec.model.network import RankingNetwork
from easq_rec.training.averaging import Averaging
from easq_rec.training.health.finite_check import FiniteCheck
from easq_rec.training.optim import Optimizers, gradient_norm, group_norms
from easq_rec.training.process import Runtime
from easq_rec.training.routing import Routing
from easq_rec.training.sharding.row_reset import RowReset
from easq_rec.training.signals import StopRequest

Pipeline = Callable[..., TrainPipeline[RequestBatch, StepOutput]]
DEFAULT_PIPELINE: Pipeline = TrainPipelineSparseDist


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """What one step does. Whether it aligns is a property of its batch (`RequestBatch.aligned`)."""

    number: int
    """From 1."""
    total_steps: int
    """Of the learning-rate schedule."""
    steered: bool = True
    """The warm-up is over: L_DPO and L_dense are part of the loss, and the satisfaction score of the policy score."""
    measured: bool = False
    """The norms of the gradients are measured."""

    @staticmethod
    def after(step: int, config: Config, replay: ReplayState, *, total_steps: int) -> StepPlan:
        """The plan of the step that follows on step number `step`."""
        losses, number = config.losses, step + 1
        return StepPlan(
            number=number,
            total_steps=total_steps,
            steered=step >= losses.warmup_steps and replay.rarer_class >= losses.warmup_per_class,
            measured=number % config.logging.every_steps == 0,
        )


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step computed."""

    output: StepOutput
    batch: RequestBatch
    """What it trained on."""
    gradient_norms: dict[str, Tensor] = field(default_factory=dict)
    """Per parameter group before clipping; empty unless the step was measured."""


class TrainingStep:
    """One training step. Its methods are in the order in which they run.

    TorchRec's pipeline calls `zero_grad`, `forward`, the backward pass and `step`, and exchanges the ids of the next
    batch between them. Without a pipeline, a caller makes the same four calls itself.

    Args:
        stop_request: whether this process was asked to stop, which the other ranks learn in every step.
        pipeline: TorchRec's class that drives the steps. Only TrainPipelineSparseDist can pause for an evaluation.
    """

    def __init__(
        self,
        model: DistributedModelParallel,
        config: Optim,
        runtime: Runtime,
        finite_check: FiniteCheck,
        *,
        stop_request: StopRequest | None = None,
        pipeline: Pipeline = DEFAULT_PIPELINE,
    ) -> None:
        self.optimizers = Optimizers(model, config)
        self.finite_check = finite_check
        self.pipeline = pipeline(model, self, runtime.device, custom_model_fwd=self.forward)
        self._stop_request = StopRequest() if stop_request is None else stop_request
        self._model = model
        (self._network,) = (module for module in model.modules() if isinstance(module, RankingNetwork))
        (self._ids,) = (module for module in model.modules() if isinstance(module, IdTables))
        self._reset_rows = RowReset(model, self.optimizers.moments, self._ids.names)
        self._routing = Routing(self._network)
        self._runtime = runtime
        self._phases = runtime.phases
        self._averaging = Averaging(runtime.phases)
        self._plan = StepPlan(number=1, total_steps=1)
        self._batch: RequestBatch | None = None
        self._gradient_norms: dict[str, Tensor] = {}

    def __call__(self, batches: Iterator[RequestBatch], plan: StepPlan) -> StepResult:
        """Trains one step on the next batch. The pipeline reads up to two batches ahead."""
        self._plan = plan
        self.optimizers.before_step(plan.number - 1, plan.total_steps)
        with self._phases("exchange"):
            output = self.pipeline.progress(batches)
        assert self._batch is not None
        self.finite_check.end_step(plan.number, self._batch, output.losses)
        return StepResult(output=output, batch=self._batch, gradient_norms=self._gradient_norms)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within the block the model is in evaluation mode and can be called without the pipeline."""
        self.pipeline.detach()
        self._model.eval()
        try:
            yield
        finally:
            self._model.train()
            # The ids of the next batches are already on their way between the ranks: they are not sent again.
            self.pipeline.attach(self._model, sparse_dist=False)

    def zero_grad(self) -> None:
        self.optimizers.zero_grad()
        self._gradient_norms = {}

    def forward(self, batch: RequestBatch | None) -> tuple[Tensor, StepOutput]:
        """Scores and loss. The ranks start to exchange whether their loss is finite, and the routers' sums."""
        assert batch is not None
        self._batch = batch
        with self._phases("forward"):
            self._ids.apply_changes(batch.id_changes)
            self._reset_rows(batch.id_changes)
            if self._plan.steered:
                self._network.steer()
            loss, output = self._model(batch, steered=self._plan.steered)
            sum_X = self._routing.sums(output.network, batch)
            self.finite_check.check_loss(output.loss, sum_X, stop_requested=bool(self._stop_request))
        loss.register_hook(self._begin_backward)
        for embedded in output.network.embedded:
            if embedded.requires_grad:
                embedded.register_hook(self._reach_tables)
        return loss, output

    def _begin_backward(self, gradient: Tensor) -> None:
        self._phases.switch("backward")

    def _reach_tables(self, gradient: Tensor) -> Tensor:
        """Gradient hook on the embedding outputs; returns what the tables get.

        Autograd differentiates in reverse order, and the whole network was computed after the lookups. So when the
        first gradient arrives here, those of the network are complete and can be averaged over the ranks.
        """
        self._start_averaging()
        return self.finite_check.gradient_for_tables(gradient)

    def _start_averaging(self) -> None:
        if self._runtime.world_size == 1 or self._averaging.started:
            return
        assert self._batch is not None
        excluded = {id(parameter) for parameter in self._network.resting(self._batch)}
        self._averaging.start(value for value in self.optimizers.dense.values() if id(value) not in excluded)

    def step(self) -> None:
        """Average of the gradients, finite check, clipping, and the update of the dense network."""
        with self._phases("optimizer"):
            if self._runtime.world_size > 1:
                self._start_averaging()
                self._averaging.finish()
            dense = self.optimizers.dense
            if self._plan.measured:
                self._gradient_norms = group_norms(dense)
            assert self._batch is not None
            for parameter in self._network.resting(self._batch):
                # AdamW moves a parameter by its momentum, even if the gradient is zero.
                parameter.grad = None
            norm = gradient_norm(dense.values())
            skip = self.finite_check.skip_network(norm)
            self.optimizers.clip(norm)
            self.optimizers.step(skip)
            self._routing.update(self.finite_check.sums(), skip)
