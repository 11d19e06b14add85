"""Every knob of easq-rec, as frozen dataclasses that validate themselves.

This module imports neither torch nor anything else of the project, so that ``--help`` and a bad value answer at once.
Structure (which features, towers and losses exist) is chosen by a recipe, in Python; numbers may be overridden on
the command line (``--optim.dense-lr 3e-4``). What comes out is written to ``RUN_DIR/config.json``, which reproduces the
run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro

from easq_rec.config.losses import Losses
from easq_rec.config.model import LinearName, LoRA, Model, Replay, Tower
from easq_rec.config.schema import FeatureSchema, require
from easq_rec.config.sharding import Sharding, TableSharding

__all__ = [
    "Checkpoint",
    "Config",
    "Data",
    "Evaluation",
    "Hidden",
    "LinearName",
    "LoRA",
    "Logging",
    "Losses",
    "Model",
    "Optim",
    "Replay",
    "Sharding",
    "TableSharding",
    "Tower",
    "TrainerConfig",
    "World",
]

Hidden = tyro.conf.Suppress
"""Marks a field that a recipe chooses in Python: it is stored in config.json but is no command-line flag."""


# ---------------------------------------------------------------------------------------------------------------------
# Data


@dataclass(frozen=True, kw_only=True)
class World:
    """The built-in synthetic world, used when no --data is given."""

    requests: int = 40_000
    """Requests in the log."""
    users: int = 4_000
    """Users in the world."""
    videos: int = 8_000
    """Videos in the world."""
    candidates: int = 12
    """Candidates per request."""
    history: int = 50
    """Longest history written, in entries."""
    exposure: float = 0.005
    """Share of triggered impressions on which the prompt is shown."""
    response: float = 0.02
    """Share of shown prompts that are answered."""
    density: float = 1.0
    """Answers relative to exposure * response (the paper's, one triggered impression in ten thousand). The prompt is
    shown more often first; what goes beyond that, more people answer."""
    rho: float | None = None
    """Correlation between satisfaction and the engagement logit under the logging policy, which the weight of clickbait
    in satisfaction sets; None: what a weight of 0.8 gives."""
    days: float = 14.0
    """Length of the time line, in days."""
    seed: int = 0
    """The same seed gives the same world."""
    trigger_watch_s: float = 7.0
    """Watched for longer than this, in seconds, an impression may be asked about. What counts as a long view stays."""
    trigger_progress: float = 0.5
    """So it may beyond this share of the video's length."""
    response_progress: float = 0.0
    """How much readier people answer who watched more: the log-odds of an answer, once the prompt is shown, rise by
    this from the beginning of the video to its end, with the given rate at half; 0: all answer alike."""
    questionnaire_seed: int | None = None
    """Whom the questionnaire asks and what they say is drawn apart from the log: worlds that differ in the
    questionnaire alone then have the same requests. None: among the log's own draws."""

    @property
    def identity(self) -> dict[str, object]:
        """Every knob, as JSON values: two worlds with equal identities are equal."""
        return asdict(self)

    @property
    def requests_identity(self) -> dict[str, object]:
        """The knobs that decide the requests, without what they say about the questionnaire."""
        if self.questionnaire_seed is None:
            return self.identity
        return {name: value for name, value in self.identity.items() if name not in QUESTIONNAIRE_KNOBS}

    @property
    def shown_rate(self) -> float:
        """Share of triggered impressions on which the prompt is shown."""
        return min(self.exposure * self.density, 1.0)

    @property
    def answer_rate(self) -> float:
        """Share of triggered impressions that carry an answer."""
        return self.exposure * self.response * self.density

    def __post_init__(self) -> None:
        for name in ("requests", "users", "videos", "candidates", "history"):
            require(getattr(self, name) >= 1, f"world.{name}", getattr(self, name), "at least 1")
        require(self.candidates <= self.videos, "world.candidates", self.candidates, "at most world.videos")
        for name in ("exposure", "response"):
            require(0 <= getattr(self, name) <= 1, f"world.{name}", getattr(self, name), "between 0 and 1")
        most = f"0 or more, and at most {1 / max(self.exposure * self.response, 1e-300):g}: 1 / (exposure * response)"
        require(self.density >= 0 and self.answer_rate <= 1, "world.density", self.density, most)
        require(self.rho is None or -1 <= self.rho <= 1, "world.rho", self.rho, "a correlation")
        require(self.seed >= 0, "world.seed", self.seed, "0 or more")
        require(self.days > 0, "world.days", self.days, "more than 0")
        for name in ("trigger_watch_s", "trigger_progress", "response_progress"):
            require(getattr(self, name) >= 0, f"world.{name}", getattr(self, name), "0 or more")
        if self.questionnaire_seed is not None:
            seed = self.questionnaire_seed
            require(seed >= 0, "world.questionnaire_seed", seed, "0 or more, or None")


QUESTIONNAIRE_KNOBS = {
    *("exposure", "response", "density", "trigger_watch_s", "trigger_progress", "response_progress"),
    "questionnaire_seed",
}
"""Fields of World that change only the questionnaire, once it has a seed of its own."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is read, in which order, and what is held out."""

    path: Annotated[str | None, tyro.conf.arg(aliases=("--data",))] = None
    """Directory or URL (s3://, gs://, hdfs://, ...) of requests/ and answers/; None: the built-in synthetic world."""
    holdout: float = 0.2
    """The last share of the time line, which no part of training sees."""
    max_history: int = 50
    """Most recent history entries that the model reads."""
    shuffle: bool = True
    """True: a seeded shuffle within windows of row groups. False: time order, in which each answer is admitted when the
    stream has come to its time: online training."""
    shuffle_row_groups: int = 8
    """Row groups in a shuffle window; memory and randomness grow with it."""
    workers: int = 1
    """Threads per rank that decode the next window while one is used; 0: none. The order does not depend on it."""
    prefetch: int = 2
    """Batches made ready in the background; 0: each is made when it is asked for."""
    on_bad_rows: Literal["error", "quarantine"] = "error"
    """error: a bad row ends the run. quarantine: it goes to RUN_DIR/quarantine with the reason, is counted, and the run
    goes on."""

    def __post_init__(self) -> None:
        require(0 <= self.holdout < 1, "data.holdout", self.holdout, "from 0 to less than 1")
        require(self.max_history >= 0, "data.max_history", self.max_history, "0 or more")
        require(self.shuffle_row_groups >= 1, "data.shuffle_row_groups", self.shuffle_row_groups, "at least 1")
        require(self.workers >= 0, "data.workers", self.workers, "0 or more")
        require(self.prefetch >= 0, "data.prefetch", self.prefetch, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out metrics."""

    every_steps: int = 0
    """Evaluate on held-out requests every so many steps; 0: only at the end."""
    max_requests: int | None = None
    """Upper bound of held-out requests per evaluation during training (the final one uses all); None: all."""
    batch_size: int = 256
    """Requests per evaluation batch and rank."""
    satisfaction: Annotated[str, Hidden] = "true_satisfaction"
    """Candidate column with the graded truth, read by evaluation alone."""

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
    dense_lr: float = 1e-3
    """Peak learning rate of the dense parameters."""
    pathway_lr: float = 1.0
    """Learning rate of adapters and satisfaction tower, but for its router, relative to `dense_lr`: they learn from far
    fewer examples."""
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
        require(self.dense_lr > 0, "optim.dense_lr", self.dense_lr, "more than 0")
        require(self.pathway_lr > 0, "optim.pathway_lr", self.pathway_lr, "more than 0")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        require(self.warmup_steps >= 0, "optim.warmup_steps", self.warmup_steps, "0 or more")
        if self.clip_norm is not None:
            require(self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "more than 0, or None")


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The loop."""

    batch_size: int = 128
    """Requests per step and rank."""
    epochs: int = 1
    """Passes over the training requests."""
    max_steps: int | None = None
    """Length of the run, and of its learning-rate schedule, in steps; None: `epochs` over the training requests."""
    stop_at_step: int | None = None
    """Leave after this step with a checkpoint, without changing the schedule (to be resumed later)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU, else the CPU."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: the dense part runs under autocast; tables and optimizer state stay fp32."""
    matmul: Literal["highest", "high", "medium"] = "highest"
    """torch.set_float32_matmul_precision: below 'highest' fp32 products may use TF32 (CUDA) or bf16 (CPU) inside."""
    threads: int | None = None
    """CPU threads per process; None: the cores divided by the processes of the host."""
    pin_cores: bool = True
    """On CPU, each rank of a host keeps to its share of the cores, where there are enough for all threads. Off where
    they are other jobs' as well."""
    seed: int = 0
    """Seed of initial values, shuffling and replay."""
    on_not_finite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is NaN or infinite on any rank changes nothing, its batch goes to
    RUN_DIR/not_finite, and then: stop ends the run, skip goes on to the next step."""
    timeout_s: int = 600
    """Seconds that a step, or a batch of an evaluation, may take on several ranks. Beyond, the rank that hangs is named
    and the job ends."""

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
    """0: only at the end and on a signal."""
    keep: int = 2
    """Newest checkpoints kept."""
    background: bool = True
    """True: the state is copied, and written while training goes on; takes memory for the copy. False: training waits
    until it is written."""
    best: str | None = None
    """Held-out metric, for instance satisfaction_ndcg5: at each evaluation at which it is higher than ever before a
    checkpoint is written, and the best one is kept besides the newest; None: none is."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 0, "checkpoint.every_steps", self.every_steps, "0 or more")
        require(self.keep >= 1, "checkpoint.keep", self.keep, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Logging:
    """What is written while training, by rank 0 alone."""

    every_steps: int = 20
    """Steps between two lines of metrics.jsonl."""
    tensorboard: bool = True
    """Also write curves for TensorBoard."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 1, "logging.every_steps", self.every_steps, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. Built by a recipe; numbers may be overridden on the command line."""

    recipe: Annotated[str, Hidden] = "custom"
    run_dir: str | None = None
    """Where the run lies; an existing run there is resumed. None: runs/RECIPE-TIME."""
    schema: Annotated[FeatureSchema, Hidden]
    schema_file: Annotated[str | None, Hidden] = None
    """TOML file that the schema was read from (--schema); None: it is the recipe's."""
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

    def __post_init__(self) -> None:
        if self.model.satisfaction is None:
            allowed = "0 without a satisfaction tower (model.satisfaction)"
            for name, loss in self.losses.terms.items():
                require(loss.weight == 0 or not loss.reference, f"losses.{name}.weight", loss.weight, allowed)
        self.sharding.check(self.schema)

    @property
    def ranked_answers(self) -> tuple[int, ...]:
        """Answer codes that take part in pairs."""
        return self.schema.answers.ranked(between=self.losses.uncertain == "between")

    @property
    def aligned(self) -> bool:
        """Whether the run learns from answers."""
        return self.model.satisfaction is not None or self.losses.learns_from_answers
