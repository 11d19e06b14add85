"""What-if: a plan for hypothetical hardware, as values per rank, figures, and a plan file.

Memory and times are TorchRec's estimates with peak bandwidths: they rank plans and find tables that do not fit. They
have not been compared with a measurement on GPUs.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torchrec.distributed.planner.types import ShardingOption

from benchmarks.report import hardware
from benchmarks.sharding.changes import Tried, try_changes
from benchmarks.sharding.planning import Cluster, NoPlan, Offer, Plan, Workload, find_plan, sharding_plan, tables_of
from benchmarks.sharding.plots import heat_map, rank_bars
from easq_rec.config.schema import FeatureSchema
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.run_directory.plan_file import ClusterShape, write_plan
from easq_rec.training.sharding.plan_conversion import placement_plan

GB = 10**9
TIMES = ("fwd_compute", "fwd_comms", "bwd_compute", "bwd_comms", "prefetch_compute")
"""Parts of a step's embedding time, in the planner's terms."""
PARTS = dict(zip(TIMES, ("lookup", "messages forward", "update", "messages backward", "cache prefetch"), strict=True))


def what_if(
    schema: FeatureSchema, cluster: Cluster, work: Workload, offer: Offer, *, timeout: int
) -> tuple[dict[str, Any], Plan | None]:
    """The report and the plan: as requested, or of the nearest change that fits."""
    first = find_plan(schema, cluster, work, offer, timeout=timeout)
    tables = tables_of(schema)
    report: dict[str, Any] = {
        "benchmark": "sharding what-if",
        "cluster": {**dataclasses.asdict(cluster), "ranks": cluster.ranks},
        "workload": dataclasses.asdict(work),
        "tables": len(tables),
        "table_bytes": sum(table.rows * (4 * table.dim + 4) for table in tables),
        "plan_seconds": round(first.seconds, 1),
        **hardware(),
    }
    if isinstance(first, Plan):
        report |= {"fits": True, **plan_report(first, cluster)}
        return report, first
    report |= {"fits": False, "failure": failure_report(first, cluster), "changes": []}
    chosen = None

    def plan(changed: Cluster, offered: Offer) -> Plan | NoPlan:
        return find_plan(schema, changed, work, offered, timeout=timeout)

    for tried in try_changes(schema, cluster, offer, first, plan):
        report["changes"].append(_change_report(tried))
        print(change_line(report["changes"][-1]), flush=True)
        if chosen is None and isinstance(tried.outcome, Plan):
            chosen = tried
            report |= {"nearest": tried.change.name, **plan_report(tried.outcome, tried.change.cluster)}
    return report, chosen.outcome if chosen is not None and isinstance(chosen.outcome, Plan) else None


def plan_report(plan: Plan, cluster: Cluster) -> dict[str, Any]:
    """Per rank: bytes of HBM and host memory and predicted milliseconds; per table: its placement."""
    ranks: dict[str, list[float]] = {name: [0.0] * cluster.ranks for name in ("hbm", "ddr", *TIMES)}
    for option in plan.options:
        for part in option.shards:
            ranks["hbm"][part.rank] += part.storage.hbm
            ranks["ddr"][part.rank] += part.storage.ddr
            for name in TIMES:
                ranks[name][part.rank] += getattr(part.perf, name)
    ranks["milliseconds"] = [sum(parts) for parts in zip(*(ranks[name] for name in TIMES), strict=True)]
    kinds = Counter(f"{option.sharding_type}, {option.compute_kernel}" for option in plan.options)
    return {
        "proposals": plan.proposals,
        "types": dict(kinds.most_common()),
        "imbalance": {name: _imbalance(ranks[name]) for name in ("hbm", "ddr", "milliseconds")},
        "highest": {
            "hbm_gb": round(max(ranks["hbm"]) / GB, 2),
            "ddr_gb": round(max(ranks["ddr"]) / GB, 2),
            "milliseconds": round(max(ranks["milliseconds"]), 3),
        },
        "by_rank": {
            name: [round(value / GB, 3) if name in ("hbm", "ddr") else round(value, 4) for value in values]
            for name, values in ranks.items()
        },
        "by_table": [_table_report(option) for option in plan.options],
    }


def failure_report(failure: NoPlan, cluster: Cluster) -> dict[str, Any]:
    """The size of tables that did not fit, in gigabytes over all ranks."""
    return {
        "reason": failure.reason,
        "needed_gb": round((failure.needed.hbm + failure.needed.ddr) / GB),
        "hbm_gb": round(cluster.hbm * cluster.ranks / GB),
        "ddr_gb": round(cluster.ddr * cluster.ranks / GB),
        "left_over": list(failure.left_over),
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The report for a terminal, with only the chosen change."""
    cluster = report["cluster"]
    gpus = f"{cluster['hosts']} x {cluster['gpus']} {cluster['host']['name'].upper()}"
    size = f"{report['table_bytes'] / 1e12:.2f} TB"
    yield f"{report['tables']} tables, {size} with optimizer state, on {gpus}; planned in {report['plan_seconds']} s"
    if not report["fits"]:
        yield from failure_lines(report["failure"])
        yield f"nearest change that fits: {report.get('nearest', 'none of those tried')}"
    if "by_table" in report:
        high, spread = report["highest"], report["imbalance"]
        yield f"plan: {'; '.join(f'{count} x {kind}' for kind, count in report['types'].items())}"
        yield f"fullest rank: {high['hbm_gb']} GB of HBM, {high['ddr_gb']} GB of host memory"
        yield f"slowest rank: {high['milliseconds']} ms of embedding work and messages per step, as predicted"
        yield "imbalance (highest / mean): " + ", ".join(f"{name} {value}" for name, value in spread.items() if value)


def failure_lines(failure: dict[str, Any]) -> Iterator[str]:
    yield (
        f"does not fit: {failure['needed_gb']:,} GB needed in the most even split, "
        f"{failure['hbm_gb']:,} GB of HBM there ({failure['ddr_gb']:,} GB of host memory)"
    )
    names = failure["left_over"]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    yield f"without room, largest first: {shown or 'none: the search found no way to place all of them'}"


def change_line(change: dict[str, Any]) -> str:
    if not change["fits"]:
        return f"  no   {change['name']} ({change['seconds']} s)"
    return (
        f"  fits {change['name']}: {change['hbm_gb']} GB of HBM and {change['ddr_gb']} GB of host memory on the "
        f"fullest rank, {change['milliseconds']} ms predicted ({change['seconds']} s)"
    )


def write(report: dict[str, Any], plan: Plan | None, schema: FeatureSchema, directory: Path) -> None:
    """DIR/whatif.json, one key per line, so that differences are readable; with a plan, its figures and its file."""
    directory.mkdir(parents=True, exist_ok=True)
    content = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in report.items())
    (directory / "whatif.json").write_text("{\n" + content + "\n}\n")
    if plan is None:
        return
    cluster, by_rank = report["cluster"], report["by_rank"]
    shape = ClusterShape(device="cuda", ranks=len(by_rank["hbm"]), ranks_per_host=cluster["gpus"])
    sharding = sharding_plan(plan.options, shape.ranks_per_host)
    write_plan(RunDirectory(directory).plan, placement_plan(sharding, schema, shape))
    bytes_TK = np.zeros((len(plan.options), len(by_rank["hbm"])))
    for row, option in enumerate(plan.options):
        for part in option.shards:
            bytes_TK[row, part.rank] += (part.storage.hbm + part.storage.ddr) / GB
    kinds = [option.sharding_type + ("" if option.compute_kernel == "fused" else ", UVM") for option in plan.options]
    where = f"{report['tables_from']} on {bytes_TK.shape[1]} ranks ({report['cluster']['host']['name'].upper()})"
    names = [option.name for option in plan.options]
    heat_map(names, kinds, bytes_TK, directory / "tables.png", title=f"Where the tables lie: {where}", unit="GB")
    panels = {
        "HBM, GB": {"HBM": by_rank["hbm"]},
        "host memory, GB": {"host memory": by_rank["ddr"]},
        "predicted ms per step": {PARTS[name]: by_rank[name] for name in TIMES},
    }
    rank_bars(panels, directory / "ranks.png", title=f"Memory and predicted embedding time: {where}")


def _change_report(tried: Tried) -> dict[str, Any]:
    outcome, name = tried.outcome, tried.change.name
    found: dict[str, Any] = {"name": name, "fits": isinstance(outcome, Plan), "seconds": round(outcome.seconds, 1)}
    if isinstance(outcome, Plan):
        found |= plan_report(outcome, tried.change.cluster)["highest"]
    return found


def _table_report(option: ShardingOption) -> dict[str, Any]:
    rows, dim = option.tensor.shape
    cache = option.cache_load_factor if "caching" in option.compute_kernel else None
    return {
        "table": option.name,
        "rows": rows,
        "dim": dim,
        "precision": str(option.tensor.dtype).removeprefix("torch."),
        "type": option.sharding_type,
        "kernel": option.compute_kernel,
        **({} if cache is None else {"load_factor": cache}),
        "gb": round((option.total_storage.hbm + option.total_storage.ddr) / GB, 3),
        "ranks": _ranges([part.rank for part in option.shards]),
    }


def _ranges(ranks: list[int]) -> str:
    """Text such as 0-7,9 for ranks; the order of shards is in the plan file."""
    found: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if found and rank == found[-1][1] + 1:
            found[-1][1] = rank
        else:
            found.append([rank, rank])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in found)


def _imbalance(values: list[float]) -> float | None:
    """Highest over mean; None if all are 0."""
    return round(max(values) * len(values) / sum(values), 3) if sum(values) else None
