"""Which linear layers should have adapters? The gain of each placement, by recipe `quickstart` on several worlds.

Trains through the command line, one thread each, on worlds that differ by seed (users, videos, answers and initial
weights all change), and reads the held-out metrics, in percent of the same run without a loss that steers the policy.
`benchmarks.surplus` measures the cost of adapters per step. Prints one JSON line.

    python -m benchmarks.adapters [--seeds 6] [--jobs 2] [--out FILE.json]

- all:           every linear layer of tokenizer and backbone
- no_input:      only those of the backbone
- feed_forward:  the two layers of each feed-forward net: no gradient passes through attention
- none:          no adapters: the satisfaction tower reads the main representation as a constant
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.report import hardware, publish
from easq_rec.config import Config, LinearName, LoRA, Losses
from easq_rec.config.recipes import quickstart
from easq_rec.config.serialization import to_dict
from easq_rec.run_directory.metrics_file import final_record
from easq_rec.run_directory.paths import RunDirectory

BACKBONE: tuple[LinearName, ...] = ("query", "key_value", "attention_out", "ffn_in", "ffn_out")
PLACEMENTS: dict[str, LoRA | None] = {
    "all": LoRA(targets=("input", *BACKBONE)),
    "no_input": LoRA(targets=BACKBONE),
    "feed_forward": LoRA(targets=("ffn_in", "ffn_out")),
    "none": None,
}
UNSTEERED = "unsteered"
METRICS = {"satisfaction": "satisfaction_ndcg5", "engagement": "engagement_ndcg5", "pair_accuracy": "pair_accuracy"}


def placed(config: Config, lora: LoRA | None) -> Config:
    """The config with these adapters."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, lora=lora))


def train(config: Config, seed: int, directory: Path) -> dict[str, float]:
    """The final metrics of one run on the world of that seed."""
    config = dataclasses.replace(
        config,
        world=dataclasses.replace(config.world, seed=seed),
        trainer=dataclasses.replace(config.trainer, seed=seed, threads=1),
    )
    directory.mkdir(parents=True)
    path, run_dir = directory / "config.json", directory / "run"
    path.write_text(json.dumps(to_dict(config)))
    command = [sys.executable, "-m", "easq_rec.cli", "train", str(path), "--run-dir", str(run_dir)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    final = final_record(RunDirectory(run_dir).metrics)
    assert final is not None
    return {name: final.values[key] for name, key in METRICS.items()}


def quality(seeds: int, jobs: int) -> dict[str, list[dict[str, float]]]:
    """The metrics of every placement, and of the unsteered run, per seed."""
    config = quickstart()
    variants = {name: placed(config, lora) for name, lora in PLACEMENTS.items()}
    variants[UNSTEERED] = dataclasses.replace(config, losses=Losses().aligned_by(satisfaction=1.0))
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(jobs) as pool:
        found = {
            name: [pool.submit(train, variant, seed, Path(directory) / f"{name}-{seed}") for seed in range(seeds)]
            for name, variant in variants.items()
        }
        return {name: [future.result() for future in futures] for name, futures in found.items()}


def gains(runs: dict[str, list[dict[str, float]]], metric: str) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over seeds of the change against the unsteered run, in percent."""
    summary = {}
    for name in PLACEMENTS:
        pairs = zip(runs[name], runs[UNSTEERED], strict=True)
        changes = [100 * (run[metric] / base[metric] - 1) for run, base in pairs]
        deviation = statistics.stdev(changes) if len(changes) > 1 else 0.0
        summary[name] = {"mean": round(statistics.mean(changes), 2), "sd": round(deviation, 2)}
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=2, help="parallel runs")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs = quality(args.seeds, args.jobs)
    result = {
        "benchmark": "adapters",
        "seeds": args.seeds,
        "change_percent": {metric: gains(runs, metric) for metric in METRICS},
        "runs": {name: [{m: round(v, 4) for m, v in run.items()} for run in found] for name, found in runs.items()},
        **hardware(),
    }
    publish(result, args.out)


if __name__ == "__main__":
    main()
