"""One rank of `python -m benchmarks.sharding real`: verifies every case and times those that passed. Run by torchrun.

torchrun --nproc_per_node 2 -m benchmarks.sharding.worker OUT.json DEVICE ROUNDS STEPS PROOF_STEPS [CASE ...]

On CUDA it has not yet been run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.types import ShardingPlan

from benchmarks.report import hardware
from benchmarks.sharding.cases import CASES, Case, forced_plan
from benchmarks.sharding.padding import CutEmbeddings, padded
from benchmarks.sharding.reference import EPS, Unsharded, largest_difference, movement, whole_state
from benchmarks.sharding.workload import PROOF, TIMED, Size, config_of, share, timed_batch, whole_batch
from easq_rec.config import Config
from easq_rec.data.batch import RequestBatch
from easq_rec.run_directory.plan_file import ClusterShape
from easq_rec.training.health.finite_check import FiniteCheck
from easq_rec.training.process import ProcessGroupRanks, Runtime, running
from easq_rec.training.sharding.plan_conversion import collections_of
from easq_rec.training.sharding.precision import store_half
from easq_rec.training.sharding.tables import shard
from easq_rec.training.step import TrainingStep
from easq_rec.training.training_model import TrainingModel
from easq_rec.upstream import torch_dispatch

TOLERANCE = 2e-5
"""Tolerance of all weights after the steps of a check: FP32 sums in another order."""
BATCHES = 8
PHASES = ("forward", "backward", "optimizer")


class Sharded:
    """A model sharded by a case, and the measurements of its steps."""

    def __init__(self, case: Case, config: Config, runtime: Runtime) -> None:
        self._runtime, self._case = runtime, case
        self._ranks = ProcessGroupRanks(runtime)
        meta = torch.device("meta")
        model = TrainingModel(config, meta, self._ranks)
        if case.padded:
            model.ranker.embeddings = CutEmbeddings(config.schema, meta, satisfaction=True)
        modules = collections_of(model)
        if case.half:
            store_half(model, modules)
        plan = None
        if case.bags is not None:
            local = int(os.environ["LOCAL_WORLD_SIZE"])
            where = ClusterShape(device=runtime.device.type, ranks=runtime.world_size, ranks_per_host=local)
            plan = forced_plan(case, config.schema, modules, where)
        self.model = shard(model, config, runtime, plan=plan, messages=case.precision)
        # Only reports write to the directory, and there are none here.
        finite_check = FiniteCheck(runtime, Path("not_finite"), stops=False)
        self._train_step = TrainingStep(self.model, config.optim, runtime, finite_check)
        self.optimizers = self._train_step.optimizers
        self._number = 0
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @property
    def plan(self) -> ShardingPlan:
        return self.model.plan

    def ready(self, batch: RequestBatch) -> RequestBatch:
        """On the device, with empty bags behind it where the case needs them."""
        return (padded(batch, self._runtime) if self._case.padded else batch).to(self._runtime.device)

    def step(self, batch: RequestBatch) -> Tensor:
        """Trains on a batch; returns the loss of all ranks together."""
        cpu, begin = time.process_time(), self._now()
        self.optimizers.before_step(self._number, 10_000)
        self._train_step.zero_grad()
        loss, _ = self._train_step.forward(batch)
        forward = self._now()
        loss.backward()
        backward = self._now()
        self._train_step.step()
        end = self._now()
        for name, span in zip(PHASES, (forward - begin, backward - forward, end - backward), strict=True):
            self.seconds[name].append(span)
        self.seconds["cpu"].append(time.process_time() - cpu)
        self._number += 1
        return self._ranks.sum(loss.detach()) / self._runtime.world_size

    def _now(self) -> float:
        if self._runtime.device.type == "cuda":
            torch.cuda.synchronize(self._runtime.device)
        return time.perf_counter()


def prove(case: Case, runtime: Runtime, steps: int) -> dict[str, Any]:
    """Compares a case with the unsharded model on the same requests; ranks have different numbers of requests."""
    config = config_of(PROOF)
    sharded = Sharded(case, config, runtime)
    for group in sharded.optimizers.combined.param_groups:
        if "eps" in group:
            group["eps"] = EPS
    before = whole_state(sharded.model)
    reference = Unsharded(config, before, sharded.plan) if runtime.leads else None
    losses, expected = [], []
    for number in range(steps):
        batch = share(config, PROOF, number, runtime.rank, runtime.world_size)
        losses.append(float(sharded.step(sharded.ready(batch))))
        if reference is not None:
            expected.append(float(reference.step(whole_batch(config, PROOF, number))))
    after = whole_state(sharded.model)
    if reference is None:
        return {}
    difference = largest_difference(after, dict(reference.model.state_dict()))
    loss = max(abs(one - other) for one, other in zip(losses, expected, strict=True))
    moved = float(movement(after, before).abs().max())
    return {
        "largest_weight_difference": difference,
        "largest_loss_difference": loss,
        "largest_movement": moved,
        "equal": difference <= TOLERANCE and loss <= TOLERANCE and moved > 100 * TOLERANCE,
    }


@dataclass
class Traffic(torch_dispatch.TorchDispatchMode):
    """Bytes passed to collectives, by their name."""

    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = torch_dispatch.name(func).strip("_")
            self.sent[name] += sum(_bytes(value) for value in (args[1] if "base" in name else args[0],))
        return func(*args, **(kwargs or {}))


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(_bytes(part) for part in value) if isinstance(value, list | tuple) else 0


def memory_of(sharded: Sharded) -> dict[str, int]:
    """Bytes of this rank's shards by table."""
    found: dict[str, int] = {}
    for name, value in sharded.model.state_dict().items():
        if ".embeddings." in name:
            local = [part.tensor for part in value.local_shards()] if hasattr(value, "local_shards") else [value]
            found[name.split(".")[-2]] = sum(_bytes(part) for part in local)
    return found


def timed(names: list[str], runtime: Runtime, rounds: int, steps: int) -> dict[str, Any]:
    """Times steps of the cases in turn, their traffic, and the deviation of rounding cases from exact ones."""
    size: Size = TIMED
    config = config_of(size)
    cases = {case.name: Sharded(case, config, runtime) for case in CASES if case.name in names}
    batches = [timed_batch(config, size, number, runtime.rank, runtime.world_size) for number in range(BATCHES)]
    drift = Drift(list(cases), whole_state(next(iter(cases.values())).model) if cases else {})
    ready = {name: [case.ready(batch) for batch in batches] for name, case in cases.items()}
    losses: dict[str, list[float]] = defaultdict(list)
    traffic = {}
    for round_ in range(rounds + 1):
        for name, case in cases.items():
            if round_ == 0:
                with Traffic() as mode:
                    case.step(ready[name][0])
                traffic[name] = dict(mode.sent)
                drift.measure(name, case, "first")
                continue
            for number in range(steps):
                losses[name].append(float(case.step(ready[name][(number + 1) % BATCHES])))
    found: dict[str, Any] = {}
    for name, case in cases.items():
        mine = {
            **{phase: 1_000 * statistics.median(case.seconds[phase][1:]) for phase in PHASES},
            "cpu": 1_000 * statistics.fmean(case.seconds["cpu"][1:]),
            "bytes": traffic[name],
            "table_bytes": memory_of(case),
        }
        everyone: list[Any] = [None] * runtime.world_size
        dist.all_gather_object(everyone, mine)
        found[name] = summary(everyone)
        found[name]["loss"] = statistics.fmean(losses[name][-steps:])
        found[name]["plan"] = table_types(case.plan)
        drift.measure(name, case, "end")
        kin = relative_of(name)
        if kin in cases:
            found[name] |= {"strayed_from": kin, "loss_from": found[name]["loss"] - found[kin]["loss"]}
            found[name] |= drift.strayed[name]
    return found


class Drift:
    """Deviation of cases from their references, relative to the change of the reference by training; on rank 0.

    Args:
        names: names of the cases, references first.
        before: initial values, equal for all cases.
    """

    def __init__(self, names: list[str], before: dict[str, Tensor]) -> None:
        self._names, self._before = names, before
        self._moved: dict[tuple[str, str], Tensor] = {}
        self.strayed: dict[str, dict[str, float]] = defaultdict(dict)

    def measure(self, name: str, case: Sharded, when: str) -> None:
        """All ranks together."""
        kin = relative_of(name)
        if kin not in self._names:
            return
        after = whole_state(case.model)
        if not after:
            return
        moved = movement(after, self._before)
        if name in ("table_wise", "row_wise"):
            self._moved[name, when] = moved
        base = self._moved[kin, when]
        self.strayed[name][f"strayed_{when}"] = float((moved - base).norm() / base.norm())


def relative_of(name: str) -> str | None:
    """The exact reference case of a case; None: its optimizer has other arithmetic.

    An exact case is compared with a second run of itself and with row_wise, whose sums have another order: both differ
    only by rounding.
    """
    if name in ("table_wise", "table_wise again", "row_wise"):
        return "table_wise"
    kin = name.split(",")[0]
    return kin if kin in ("table_wise", "row_wise") else None


def summary(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """Summary of all ranks: phases of the slowest rank, total CPU seconds, bytes, balance."""
    totals = [sum(rank[phase] for phase in PHASES) for rank in ranks]
    operations = sorted({name for rank in ranks for name in rank["bytes"]})
    tables = [sum(rank["table_bytes"].values()) for rank in ranks]
    names = sorted({name for rank in ranks for name in rank["table_bytes"]})
    return {
        "ms": {phase: round(max(rank[phase] for rank in ranks), 1) for phase in PHASES},
        "step_ms": round(max(totals), 1),
        "cpu_ms": round(sum(rank["cpu"] for rank in ranks), 1),
        "bytes_per_rank": {
            name: round(statistics.fmean(rank["bytes"].get(name, 0) for rank in ranks)) for name in operations
        },
        "table_bytes_by_rank": tables,
        "bytes_by_table_and_rank": {name: [rank["table_bytes"].get(name, 0) for rank in ranks] for name in names},
        "ms_by_rank": {phase: [round(rank[phase], 2) for rank in ranks] for phase in PHASES},
        "balance_memory": round(max(tables) * len(tables) / sum(tables), 3) if sum(tables) else None,
        "balance_time": round(max(totals) * len(totals) / sum(totals), 3),
    }


def table_types(plan: ShardingPlan) -> dict[str, list[Any]]:
    """Type and ranks of each table."""
    return {
        name: [table.sharding_type, table.ranks]
        for module in plan.plan.values()
        for name, table in sorted(module.items())
    }


def main() -> None:
    out, device, (rounds, steps, proof_steps) = Path(sys.argv[1]), sys.argv[2], map(int, sys.argv[3:6])
    wanted = sys.argv[6:]
    trainer = dataclasses.replace(config_of(TIMED).trainer, device=device)
    with running(trainer) as runtime:
        cases = [case for case in CASES if case.name in wanted or not wanted]
        if runtime.world_size == 1:
            cases = [case for case in cases if case.name in ("table_wise", "table_wise again")]
        proofs: dict[str, Any] = {}
        able = []
        for case in cases:
            failure = ""
            try:
                if case.exact:
                    proofs[case.name] = prove(case, runtime, proof_steps)
                else:
                    sharded = Sharded(case, config_of(PROOF), runtime)
                    sharded.step(sharded.ready(share(config_of(PROOF), PROOF, 0, runtime.rank, runtime.world_size)))
            except Exception as error:
                failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            failures: list[str] = [""] * runtime.world_size
            dist.all_gather_object(failures, failure)
            if any(failures):
                proofs[case.name] = {"error": next(text for text in failures if text)}
            elif runtime.share(str(proofs.get(case.name, {}).get("equal", not case.exact))) == "True":
                able.append(case.name)
            if runtime.leads:
                print(f"{case.name}: {proofs.get(case.name, 'runs')}", flush=True)
        found = timed(able, runtime, rounds, steps)
        if runtime.leads:
            local = int(os.environ["LOCAL_WORLD_SIZE"])
            result = {"ranks": runtime.world_size, "ranks_per_host": local, "backend": dist.get_backend()}
            out.write_text(
                json.dumps({**result, "steps": rounds * steps, "proofs": proofs, "cases": found} | hardware())
            )


if __name__ == "__main__":
    main()
