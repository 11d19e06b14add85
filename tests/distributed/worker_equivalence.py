"""Trains three steps of every case on the ranks of the launch, and writes the results.

    torchrun --standalone --nproc_per_node 2 tests/distributed/worker_equivalence.py FILE

The batches of all ranks together do not depend on the number of ranks. `test_sharded_equals_unsharded` compares the
results.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from easq_rec.config import Config, Losses, Optim, Sharding, TableSharding
from easq_rec.config.losses import Satisfaction
from easq_rec.data.batch import RequestBatch, collate
from easq_rec.data.encode import EncodedRequests, encode
from easq_rec.data.layout import Layout
from easq_rec.data.row_assignment import RowAssigner, of_one_rank
from easq_rec.training.health.finite_check import FiniteCheck
from easq_rec.training.id_gather import IdGather
from easq_rec.training.process import ProcessGroupRanks, Runtime, running
from easq_rec.training.sharding.tables import plan_table, shard
from easq_rec.training.step import StepPlan, TrainingStep
from easq_rec.training.training_model import TrainingModel
from easq_rec.upstream.torch_sharded_tensor import ShardedTensor
from tests.builders import (
    BACKBONES,
    excite,
    ragged_requests,
    random_answers,
    random_evidence,
    small_config,
    with_every_kind,
    with_random_weights,
)

STEPS = 3
REQUESTS, ANSWERED = 9, 6
WIDE = 256
"""Wide enough for two column shards: the planner makes none narrower than 128."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained, and how many requests and answered requests rank 0 of two gets; rank 1 gets the others."""

    config: Config
    requests: int = 5
    answered: int = 2
    answers: bool = True
    """False: no request is answered at all."""
    rests: bool = False
    """True: of the three steps, only the second aligns."""
    seldom: bool = False
    """True: all steps align, and only the second has answers. The optimizer must not move the adapters in the third."""

    @property
    def by_user(self) -> bool:
        """Whether losses compare the candidates of a user. Then no user has requests on both ranks: only candidates on
        one rank are compared."""
        return self.config.losses.groups == "user"


def configs() -> dict[str, Config]:
    """The configs, by the name of the alignment."""
    easq, paper = small_config(), small_config("paper")
    slate = Losses().aligned_by(satisfaction=1.0, dpo=1.0, dense=0.3)
    return {"easq": easq, "paper": paper, "slate_softmax": dataclasses.replace(easq, losses=slate)}


HALF = ("user", "device", "video", "tag", "satisfaction_video")
# The user's tables alternate between types, because a sharded collection returns its features in the order of its
# plan, not of the schema.
SHARDINGS = {
    "rows": {
        "user": "table_wise",
        "age_group": "column_wise",
        "region": "table_wise",
        "device": "column_wise",
        "video": "row_wise",
        "author": "table_wise",
        "tag": "column_wise",
        "satisfaction_video": "column_wise",
        "satisfaction_author": "table_wise",
        "satisfaction_tag": "table_column_wise",
        "interest": "column_wise",
        "topic": "table_wise",
        "mood": "column_wise",
        "satisfaction_topic": "table_column_wise",
        "satisfaction_mood": "table_wise",
    },
    "columns": {
        "user": "table_column_wise",
        "age_group": "table_wise",
        "region": "table_column_wise",
        "device": "column_wise",
        "video": "column_wise",
        "author": "row_wise",
        "tag": "table_wise",
        "satisfaction_video": "table_wise",
        "satisfaction_author": "column_wise",
        "satisfaction_tag": "table_wise",
    },
    "planner": {},
}
"""Every kind of sharding that is offered on CPU."""


def sharded_by(config: Config, name: str) -> Config:
    """The config with a sharding of `SHARDINGS`, and tables that are wide enough for its column splits."""
    wide = {"rows": {"tag"}, "columns": {"user", "age_group", "region", "device", "video", "author"}, "planner": set()}
    tables = tuple(
        dataclasses.replace(table, dim=WIDE) if table.name in wide[name] else table for table in config.schema.tables
    )
    names = {table.name for table in (*config.schema.tables, *config.schema.satisfaction_tables)}
    return dataclasses.replace(
        config,
        schema=dataclasses.replace(config.schema, tables=tables),
        sharding=Sharding(types={table: kind for table, kind in SHARDINGS[name].items() if table in names}),
        optim=Optim(table_lr=0.005, dense_lr=1e-2, warmup_steps=2, weight_decay=0.1),
    )


def on_one_rank(config: Config) -> Config:
    """The config of the reference: no sharding, except for the column splits.

    Row-wise Adagrad keeps one moment per row and shard. A column split therefore changes its results, and the reference
    must make the same split, on its single rank.
    """
    tables = (*config.schema.tables, *config.schema.satisfaction_tables)
    widths = {table.name: table.dim for table in tables}
    given = {name: config.sharding.of(name) for name in widths}
    kept = {
        name: dataclasses.replace(one, type=one.type if "column" in (one.type or "") and widths[name] >= WIDE else None)
        for name, one in given.items()
    }
    return dataclasses.replace(config, sharding=Sharding(tables=kept))


def cases() -> dict[str, Case]:
    """The cases, named by alignment, situation and sharding."""
    situations = {
        "shared": {},
        "one rank has all answers": {"answered": ANSWERED},
        "no answers": {"answers": False},
        "one rank has no requests": {"requests": 0},
        "one rank has nothing": {"requests": REQUESTS, "answered": ANSWERED},
    }
    found = {
        f"{name}, {situation}": Case(config=sharded_by(config, "rows"), **change)
        for name, config in configs().items()
        for situation, change in situations.items()
        # The ways to align differ little in these situations, so only one of them goes through all.
        if name == "easq" or situation in ("shared", "no answers", "one rank has nothing")
    }
    found |= {
        f"{name}, sharded by {sharding}": Case(config=sharded_by(configs()[name], sharding))
        for name, sharding in (("easq", "columns"), ("paper", "columns"), ("easq", "planner"))
    }
    found |= {
        f"{name}, {situation}": Case(config=sharded_by(config, "rows"), **situations[situation])
        for name, config in {
            "ple": small_config("ple"),
            "direct": small_config("direct"),
            "guarded": guarded(),
            "weighed": weighed(),
        }.items()
        for situation in ("shared", "one rank has nothing")
    }
    found |= {
        f"{name}, resting": Case(config=sharded_by(config, "rows"), rests=True)
        for name, config in {
            "easq": small_config(),
            "shared_bottom": small_config("shared_bottom"),
            "direct": small_config("direct"),
        }.items()
    }
    found["easq, seldom answered"] = Case(config=sharded_by(small_config(), "rows"), seldom=True)
    every_kind = dataclasses.replace(small_config(), schema=with_every_kind(small_config().schema))
    for name, config in {"HSTU": hstu(), "every kind": every_kind, "admitted ids": admitted(every_kind)}.items():
        found |= {
            f"easq with {name}, {situation}": Case(config=sharded_by(config, "rows"), **situations[situation])
            for situation in ("shared", "one rank has nothing")
        }
    users = sharded_by(by_user(), "rows")
    found |= {
        f"easq with slates of users, {situation}": Case(config=users, **situations[situation])
        for situation in ("shared", "one rank has all answers", "one rank has no requests", "one rank has nothing")
    }
    unaligned = Case(config=sharded_by(small_config("main_only"), "rows"), answers=False)
    return found | {"main_only, shared": unaligned}


def rounded() -> dict[str, Case]:
    """Cases by the precision of messages between ranks; `half`: some tables of each kind of lookup are in FP16."""
    config = sharded_by(configs()["easq"], "rows")
    types = config.sharding.types
    stored = {name: TableSharding(type=kind, weights="fp16" if name in HALF else None) for name, kind in types.items()}
    ways = {precision: Sharding(types=types, messages=precision) for precision in ("fp16", "bf16")}
    ways["half"] = Sharding(tables=stored)
    return {name: Case(config=dataclasses.replace(config, sharding=sharding)) for name, sharding in ways.items()}


def guarded() -> Config:
    """`easq` with L_DPO, evidence on both scores, rewards, a smoothed reference, a bound on the divergence from it,
    and few open gates."""
    config = small_config()
    tower = dataclasses.replace(config.model.main, activity=0.2)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, main=tower),
        losses=dataclasses.replace(
            config.losses.weighted(dpo=0.3, policy_evidence=0.2, reward=0.2),
            reference_smoothing=0.5,
            divergence_bound=1e-3,
        ),
    )


def weighed() -> Config:
    """L_satis weighs answers, and L_DPO, of the same answers, does not."""
    config = small_config()
    losses = dataclasses.replace(config.losses, satisfaction=Satisfaction(pairs="inverse_propensity"))
    return dataclasses.replace(config, losses=losses.weighted(dpo=1.0))


def hstu() -> Config:
    """`easq` with another backbone."""
    config = small_config()
    return dataclasses.replace(config, model=dataclasses.replace(config.model, backbone=BACKBONES["hstu"]))


def admitted(config: Config) -> Config:
    """The config with few rows for the ids of most tables, so that ids lose their rows to others."""
    of_other_kind = ("age_group", "region", "device")
    tables = tuple(
        table
        if table.name in of_other_kind
        else dataclasses.replace(table, rows=33, id_space="admitted", admit_after=2 if table.name == "author" else 1)
        for table in config.schema.tables
    )
    return dataclasses.replace(config, schema=dataclasses.replace(config.schema, tables=tables))


def by_user() -> Config:
    """`easq` with L_DPO, whose losses compare the candidates of a user."""
    config = small_config()
    losses = dataclasses.replace(config.losses, groups="user").weighted(dpo=1.0)
    return dataclasses.replace(config, losses=losses)


def requests_of(case: Case, rng: np.random.Generator, count: int, first: int, id_: int) -> EncodedRequests:
    """Requests. If losses compare users, two users have the first `first` of them, and two others the rest.

    Args:
        id_: the first request id in that case.
    """
    columns = ragged_requests(case.config.schema, rng, count)
    if case.by_user:
        row = np.arange(count)
        scalars = {"user_id": np.where(row < first, 1, 3) + row % 2, "request_id": id_ + row}
        columns = dataclasses.replace(columns, scalars={**columns.scalars, **scalars})
    return encode(Layout.of(case.config.schema), columns)


def batch_of(case: Case, step: int, assign: RowAssigner, runtime: Runtime) -> RequestBatch:
    """This rank's share of the batch of a step."""
    rank, world_size = runtime.rank, runtime.world_size
    rng = np.random.default_rng(step)
    schema, aligned = case.config.schema, not case.rests or step % 2 == 1
    stream = requests_of(case, rng, REQUESTS, case.requests, 0)
    answered = requests_of(case, rng, ANSWERED, case.answered, REQUESTS)
    answers = random_answers(answered, rng)
    if case.config.losses.weighs_answers:
        answers = with_random_weights(answers, rng)
    rows, answered_rows = np.arange(REQUESTS), np.arange(ANSWERED)
    if world_size == 2:
        rows = rows[: case.requests] if rank == 0 else rows[case.requests :]
        answered_rows = answered_rows[: case.answered] if rank == 0 else answered_rows[case.answered :]
    mine = np.isin(answers.request_A, answered_rows)
    share = dataclasses.replace(
        answers,
        requests=answered.take(answered_rows),
        request_A=answers.request_A[mine] - (answered_rows[0] if len(answered_rows) else 0),
        candidate_A=answers.candidate_A[mine],
        answer_A=answers.answer_A[mine],
        weight_A=answers.weight_A[mine] if answers.weight_A is not None else None,
    )
    draws = case.answers and aligned and not (case.seldom and step % 2 == 0)
    stream, replayed, changes = assign(stream.take(rows), share if draws and len(answered_rows) else None)
    batch = collate(
        schema,
        stream,
        replayed,
        evidence_O=random_evidence(schema) if case.config.aligned else None,
        reward_O=random_evidence(schema) if case.config.losses.rewards else None,
        aligned=aligned,
        answers_differ=draws,
        by_user=case.by_user,
    )
    return dataclasses.replace(batch, id_changes=changes)


def run(case: Case, runtime: Runtime) -> dict[str, object]:
    """Trains a case; returns what is compared, after every step."""
    ranks = ProcessGroupRanks(runtime)
    config = case.config if runtime.world_size > 1 else on_one_rank(case.config)
    model = TrainingModel(config, torch.device("meta"), ranks)
    excite(model.ranker.network)
    wrapped = shard(model, config, runtime)
    train_step = TrainingStep(wrapped, config.optim, runtime, FiniteCheck(runtime, Path("not_finite"), stops=False))
    for group in train_step.optimizers.combined.param_groups:
        if "eps" in group:
            # AdamW divides by the gradient's size: rounding of a tiny gradient would become a step in any direction.
            group["eps"] = 1e-2
    gather = IdGather(runtime, 60) if runtime.world_size > 1 else of_one_rank
    assign = RowAssigner(config.schema, model.ranker.ids.states, gather)
    assign.restart()
    made = [batch_of(case, step, assign, runtime) for step in range(STEPS)]
    batches = iter(made)
    steps = []
    initial = parameters(wrapped)
    for step in range(STEPS):
        output = train_step(batches, StepPlan(number=step + 1, total_steps=STEPS)).output
        gradients = {name: p.grad.clone() for name, p in wrapped.named_parameters() if p.grad is not None}
        parts = {name: ranks.sum(loss) for name, loss in output.losses.items()}
        parts["whole"] = ranks.sum(output.loss.detach() / runtime.world_size)
        steps.append(
            {
                "losses": parts,
                "pairs": output.pairs,
                "gradients": gradients,
                "parameters": parameters(wrapped),
                "moments": moments(wrapped),
            }
        )
    resets = [{change.table: change.reset.tolist() for change in batch.id_changes} for batch in made]
    return {
        "initial": initial,
        "steps": steps,
        "resets": resets,
        "plan": plan_table(wrapped),
        "shards": shards(wrapped),
    }


def parameters(model: DistributedModelParallel) -> dict[str, Tensor]:
    """All dense parameters and all whole tables."""
    values = model.state_dict()
    tables = {name: value for name, value in values.items() if isinstance(value, ShardedTensor)}
    dense = {name: value.detach().clone() for name, value in values.items() if name not in tables}
    return dense | whole(tables)


def moments(model: DistributedModelParallel) -> dict[str, Tensor]:
    """Square roots of row-wise Adagrad's moments: unlike the weights, they show a wrong scale of the gradients."""
    states = model.fused_optimizer.state_dict()["state"].values()
    found = {
        name: value
        for state in states
        for name, value in state.items()
        if isinstance(value, ShardedTensor) and "momentum" in name
    }
    return {name: value.sqrt() for name, value in whole(found).items()}


def whole(tensors: dict[str, ShardedTensor]) -> dict[str, Tensor]:
    """Whole tensors, assembled from the shards of all ranks. A rank may have no shard of a tensor."""
    mine = {
        name: (tuple(value.size()), [(part.metadata.shard_offsets, part.tensor) for part in value.local_shards()])
        for name, value in tensors.items()
    }
    everyone: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, mine)
    found: dict[str, Tensor] = {}
    for name, (size, parts) in itertools.chain(*(rank.items() for rank in everyone)):
        tensor = found.setdefault(name, torch.full(size, float("nan")))
        for offsets, part in parts:
            place = tuple(slice(first, first + width) for first, width in zip(offsets, part.shape, strict=True))
            tensor[place] = part
    return found


def shards(model: DistributedModelParallel) -> dict[str, list[list[int]]]:
    """Offsets of every table's shards."""
    return {
        name.split(".")[-2]: [part.shard_offsets for part in value.metadata().shards_metadata]
        for name, value in model.state_dict().items()
        if isinstance(value, ShardedTensor)
    }


def main() -> None:
    (path,) = sys.argv[1:]
    trainer = small_config().trainer
    with running(dataclasses.replace(trainer, timeout_s=60)) as runtime:
        results = {name: run(case, runtime) for name, case in (cases() | rounded()).items()}
        if runtime.leads:
            torch.save(results, path)


if __name__ == "__main__":
    main()
