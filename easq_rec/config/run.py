"""All options of easq-rec, as frozen dataclasses that validate themselves.

This package does not import torch, so that ``--help`` and errors appear at once. A recipe chooses the structure (which
features, towers and losses exist) in Python; the command line can override numbers (``--optim.dense-lr 3e-4``). The
resulting config is written to ``RUN_DIR/config.json``, which reproduces the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from easq_rec.config.follow import Follow
from easq_rec.config.losses import Losses
from easq_rec.config.model import Model, Replay
from easq_rec.config.schema import FeatureSchema, require
from easq_rec.config.sharding import Sharding
from easq_rec.config.world import World

Hidden = tyro.conf.Suppress
"""Marks a field that a recipe chooses in Python: config.json stores it, but it is not a command-line flag."""


# ---------------------------------------------------------------------------------------------------------------------
# Data


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data, their order, and the held-out share."""

    path: Annotated[str | None, tyro.conf.arg(aliases=("--data",))] = None
    """Directory or URL (s3://, gs://, hdfs://, ...) of requests/ and answers/; None: the built-in synthetic world."""
    holdout: float = 0.2
    """Last fraction of the time line, which training never reads."""
    max_history: int = 50
    """Number of most recent history entries that the model reads."""
    shuffle: bool = True
    """True: a seeded shuffle within windows of row groups. False: time order, in which each answer is admitted when the
    stream reaches its time (online training)."""
    shuffle_row_groups: int = 8
    """Row groups in a shuffle window; memory and randomness grow with it."""
    user_requests: int = 1
    """Most requests of a user that the shuffle keeps together, in time order, so that losses.groups=user finds them in
    one batch; 1: each request has its own place. Above 1 it needs data.shuffle."""
    workers: int = 1
    """Threads per rank that decode the next window while one is used; 0: none. The order does not depend on it."""
    prefetch: int = 2
    """Batches prepared in the background; 0: batches are made on demand."""
    on_bad_rows: Literal["error", "quarantine"] = "error"
    """error: a bad row ends the run. quarantine: bad rows are counted and written to RUN_DIR/quarantine with the
    reason, and the run continues."""

    def __post_init__(self) -> None:
        require(0 <= self.holdout < 1, "data.holdout", self.holdout, "from 0 to less than 1")
        require(self.max_history >= 0, "data.max_history", self.max_history, "0 or more")
        require(self.shuffle_row_groups >= 1, "data.shuffle_row_groups", self.shuffle_row_groups, "at least 1")
        require(self.user_requests >= 1, "data.user_requests", self.user_requests, "at least 1")
        if not self.shuffle:
            allowed = "1 with data.shuffle=False, which keeps time order"
            require(self.user_requests == 1, "data.user_requests", self.user_requests, allowed)
        require(self.workers >= 0, "data.workers", self.workers, "0 or more")
        require(self.prefetch >= 0, "data.prefetch", self.prefetch, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out metrics."""

    every_steps: int = 0
    """Steps between evaluations on held-out requests; 0: only at the end."""
    max_requests: int | None = None
    """Maximum number of held-out requests per evaluation during training (the final one uses all); None: all."""
    batch_size: int = 256
    """Requests per evaluation batch and rank."""
    satisfaction: Annotated[str, Hidden] = "true_satisfaction"
    """Candidate column with the graded truth, which only evaluation reads."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 0, "evaluation.every_steps", self.every_steps, "0 or more")
        require(self.batch_size >= 1, "evaluation.batch_size", self.batch_size, "at least 1")
        if self.max_requests is not None:
            require(self.max_requests >= 1, "evaluation.max_requests", self.max_requests, "at least 1, or None")


# ---------------------------------------------------------------------------------------------------------------------
# Training


@dataclass(frozen=True, kw_only=True)
class Optim:
    """Fused row-wise Adagrad for the tables, AdamW for the dense parameters."""

    table_lr: float = 0.05
    """Peak learning rate of the tables."""
    table_eps: float = 1e-8
    """Added to the root of a row's accumulated squared gradient, by which its step is divided. With a small number a
    row moves by the whole learning rate at its first gradient. With a larger one, the rows of rare ids move less than
    those of frequent ids: a regularisation by frequency."""
    dense_lr: float = 1e-3
    """Peak learning rate of the dense parameters."""
    pathway_lr: float = 1.0
    """Learning rate of the adapters and the satisfaction tower without its router, relative to `dense_lr`: they learn
    from far fewer examples."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the dense parameters."""
    warmup_steps: int = 50
    """Steps of linear learning-rate warm-up."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate after the warm-up: constant, or a cosine to a tenth of its peak."""
    clip_norm: float | None = None
    """Bound of the dense gradients' global norm; None: no clipping."""

    def __post_init__(self) -> None:
        require(self.table_lr > 0, "optim.table_lr", self.table_lr, "more than 0")
        require(self.table_eps > 0, "optim.table_eps", self.table_eps, "more than 0")
        require(self.dense_lr > 0, "optim.dense_lr", self.dense_lr, "more than 0")
        require(self.pathway_lr > 0, "optim.pathway_lr", self.pathway_lr, "more than 0")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        require(self.warmup_steps >= 0, "optim.warmup_steps", self.warmup_steps, "0 or more")
        if self.clip_norm is not None:
            require(self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "more than 0, or None")


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The training loop."""

    batch_size: int = 128
    """Requests per step and rank."""
    epochs: int = 1
    """Passes over the training requests."""
    max_steps: int | None = None
    """Length of the run, and of its learning-rate schedule, in steps; None: `epochs` over the training requests."""
    stop_at_step: int | None = None
    """Write a checkpoint and stop after this step, with the schedule unchanged (to resume later)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA if there is a GPU, else the CPU."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: the dense part runs under autocast; tables and optimizer state stay fp32. Slow on a CPU without bf16
    instructions."""
    matmul: Literal["highest", "high", "medium"] = "highest"
    """torch.set_float32_matmul_precision: below 'highest', fp32 products may use TF32 (CUDA) or bf16 (CPU)."""
    threads: int | None = None
    """CPU threads per process; None: the host's cores divided by its processes."""
    pin_cores: bool = True
    """On CPU, pins each rank of a host to its share of the cores, if there are enough cores for all threads. Switch it
    off if other jobs use the cores."""
    seed: int = 0
    """Seed of initial values, shuffling and replay."""
    on_not_finite: Literal["stop", "skip"] = "stop"
    """If a loss or gradient is NaN or infinite on any rank, the step changes nothing and its batch is written to
    RUN_DIR/not_finite. Then stop ends the run, and skip continues with the next step."""
    timeout_s: int = 600
    """Time limit in seconds of a step, or of an evaluation batch, on several ranks. After it, the job ends with an
    error that names the hanging rank."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "trainer.batch_size", self.batch_size, "at least 1")
        require(self.epochs >= 1, "trainer.epochs", self.epochs, "at least 1")
        for name in ("max_steps", "stop_at_step", "threads"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"trainer.{name}", value, "at least 1, or None")
        require(self.timeout_s >= 1, "trainer.timeout_s", self.timeout_s, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Snapshots of the whole training state."""

    every_steps: int = 500
    """Steps between checkpoints; 0: only at the end and on a signal."""
    keep: int = 2
    """Number of newest checkpoints to keep."""
    background: bool = True
    """True: the state is copied, which takes memory, and written while training continues. False: training waits until
    it is written."""
    best: str | None = None
    """Held-out metric, for example satisfaction_ndcg5: a checkpoint is written at each evaluation that reaches a new
    maximum, and the best one is kept in addition to the newest. None: no best checkpoint."""

    copy_to: str | None = None
    """URL of a folder in an object store, as s3://bucket/runs/a, for copies of the run's checkpoints. A run whose
    directory has no checkpoint, or an older one, goes on from the newest copy. None: there are no copies."""

    def __post_init__(self) -> None:
        url = self.copy_to is None or "://" in self.copy_to
        require(url, "checkpoint.copy_to", self.copy_to, "a URL, as s3://bucket/runs/a")
        require(self.every_steps >= 0, "checkpoint.every_steps", self.every_steps, "0 or more")
        require(self.keep >= 1, "checkpoint.keep", self.keep, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Logging:
    """Files that rank 0 writes during training."""

    every_steps: int = 20
    """Steps between two lines of metrics.jsonl."""
    tensorboard: bool = True
    """Also write curves for TensorBoard."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 1, "logging.every_steps", self.every_steps, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. Built by a recipe; the command line can override numbers."""

    recipe: Annotated[str, Hidden] = "custom"
    run_dir: str | None = None
    """Directory of the run; a run that exists there is resumed. None: runs/RECIPE-TIME."""
    schema: Annotated[FeatureSchema, Hidden]
    schema_file: Annotated[str | None, Hidden] = None
    """TOML file of the schema (--schema); None: the recipe's schema."""
    data: Data = Data()
    world: World = World()
    model: Model = Model()
    losses: Losses = Losses()
    replay: Replay = Replay()
    optim: Optim = Optim()
    sharding: Sharding = Sharding()
    trainer: TrainerConfig = TrainerConfig()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    logging: Logging = Logging()
    follow: Follow = Follow()

    def __post_init__(self) -> None:
        if self.model.satisfaction is None:
            allowed = "0 without a satisfaction tower (model.satisfaction)"
            for name, loss in self.losses.terms.items():
                require(loss.weight == 0 or not loss.reference, f"losses.{name}.weight", loss.weight, allowed)
        if self.losses.evidence.weights is not None:
            names = [outcome.name for outcome in self.schema.outcomes]
            for name in self.losses.evidence.weights:
                require(name in names, "losses.evidence.weights", name, f"one of the outcomes {', '.join(names)}")
        if self.schema.trigger is None:
            for name, loss in self.losses.terms.items():
                allowed = "all with a schema that has no trigger (schema.trigger)"
                require(loss.weight == 0 or loss.compared == "all", f"losses.{name}.among", loss.compared, allowed)
        if self.model.policy_score == "single":
            pointwise, allowed = self.losses.pointwise.weight, "0 with model.policy_score='single'"
            require(pointwise == 0, "losses.pointwise.weight", pointwise, allowed)
        if self.model.residual:
            self._check_residual()
        self.sharding.check(self.schema)

    def _check_residual(self) -> None:
        """Raises UserError if the counts cannot make a score of the outcomes."""
        outcome_of = {count.name: count.counted for count in self.schema.counts}
        read = [feature.column for feature in self.schema.floats if feature.kind == "count"]
        unknown = [name for name in read if name not in outcome_of]
        require(
            not unknown, "schema.counts", unknown, "declared in [[counts]] with model.residual, which needs outcomes"
        )
        counted = {outcome_of[name] for name in read}
        amounts = [outcome.name for outcome in self.schema.outcomes if outcome.kind == "amount"]
        wrong = [name for name in read if outcome_of[name] in amounts]
        allowed = "none of an outcome of kind amount with model.residual: a rate is not its logarithm"
        require(not wrong, "schema.counts", wrong, allowed)
        some = counted.intersection(outcome.name for outcome in self.schema.outcomes)
        allowed = "False without features that count an outcome of the schema (easq-rec data counts)"
        require(bool(some), "model.residual", self.model.residual, allowed)

    @property
    def ranked_answers(self) -> tuple[int, ...]:
        """Answer codes that form pairs."""
        return self.schema.answers.ranked(between=self.losses.uncertain == "between")

    @property
    def aligned(self) -> bool:
        """Whether the run has aligned steps: it learns from answers or from evidence."""
        return self.model.satisfaction is not None or self.losses.aligns_without_reference

    @property
    def reads_answers(self) -> bool:
        """Whether the run needs answers."""
        waits = self.losses.warmup_per_class > 0 and self.model.satisfaction_weight != 0
        return self.aligned and (self.losses.reads_answers or waits)
