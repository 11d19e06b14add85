"""One call of the trainer: data and run directory in place, training, and what a person sees in the end."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from pathlib import Path

import torch

from easq_rec import doctor, evaluation, evaluation_files, tracking
from easq_rec.config import Config
from easq_rec.data import files
from easq_rec.data.dataset import Period, RequestDataset, split
from easq_rec.data.encode import encode
from easq_rec.data.quarantine import Quarantine
from easq_rec.data.schema import Layout
from easq_rec.data.sources import open_holdout, world_directory
from easq_rec.data.world import ensure
from easq_rec.metrics import RankingMetrics, ranking_metrics
from easq_rec.model import Ranker
from easq_rec.scoring import load_served
from easq_rec.serialization import from_dict, to_dict
from easq_rec.training.checkpoint_files import checkpoint_of, read_progress
from easq_rec.training.events import event, recorded
from easq_rec.training.runtime import Runtime, quiet, running
from easq_rec.training.signals import StopRequest
from easq_rec.training.trainer import Result, Trainer
from easq_rec.training.watchdog import watched

FREE = ("run_dir", "schema_file", "logging", "checkpoint", "evaluation")
"""Parts of a config that may differ when a run is resumed; and fields of others:"""
FREE_FIELDS = {
    "trainer": ("stop_at_step", "device", "threads", "pin_cores", "timeout_s", "on_not_finite"),
    # Data may have moved: a checkpoint knows them by their fingerprint.
    "data": ("path", "workers", "prefetch", "on_bad_rows"),
    # A resumed run keeps to the plan of its checkpoint.
    "sharding": ("plan",),
}

CONVERTED = {"movielens": "ML100K", "kuairand": "KUAIRAND"}
"""Data sets that a converter makes: first word of the recipe's name, and what the converter is given."""

CPU = torch.device("cpu")

TABLE = (
    ("satisfaction NDCG@5", "satisfaction_ndcg5"),
    ("satisfaction NDCG@10", "satisfaction_ndcg10"),
    ("engagement NDCG@5", "engagement_ndcg5"),
    ("engagement NDCG@10", "engagement_ndcg10"),
    ("pair accuracy", "pair_accuracy"),
    ("GAUC", "gauc"),
)


def train(config: Config, stop: StopRequest | None = None) -> int:
    """Trains, evaluates and reports; returns the exit code. A run directory with a checkpoint is resumed.

    Args:
        stop: whether this process was asked to stop; None: what comes once training begins counts.
    """
    begin = time.perf_counter()
    with running(config.trainer) as runtime:
        run_dir = Path(config.run_dir or runtime.share(_new_run_dir(config)))
        with watched(run_dir, runtime, config.trainer.timeout_s) as watchdog:
            directory = prepare_data(config, runtime)
            watchdog.progress(None)
            config = dataclasses.replace(
                config, run_dir=str(run_dir), data=dataclasses.replace(config.data, path=str(directory))
            )
            _write_config(config, run_dir, runtime)
            with recorded(run_dir, runtime) as recorder:
                _record_start(config, runtime, run_dir)
                watchdog.progress(None)
                trainer = Trainer(
                    config, runtime, directory=directory, run_dir=run_dir, progress=watchdog.progress, stop=stop
                )
                watchdog.progress(trainer.step)
                trainer.log.say(f"ready after {time.perf_counter() - begin:.1f} s: {config.recipe} in {run_dir}")
                recorder.step = lambda: trainer.step
                result = trainer.fit()
                state = "finished" if result.finished else "stopped"
                event(state, step=result.step, metrics=result.metrics)
                if runtime.leads:
                    tracking.report_end(run_dir, state=state, step=result.step, metrics=result.metrics)
        if runtime.leads:
            _report(result, run_dir)
    return 0


def evaluate(
    run_dir: Path, data: files.Location | None, *, fuse: float | None = None, best: bool = False
) -> evaluation_files.Evaluated:
    """A run's newest checkpoint on its held-out requests and answers, in this process alone.

    Args:
        data: location with requests/, and answers/ where there are any; None: the one that the run was trained on.
        fuse: weight of the reference score in what is served; None: the policy score alone.
        best: the checkpoint that `checkpoint.best` has kept instead.
    """
    config = load_config(run_dir)
    directory = data or config.data.path or world_directory(config)
    answers = files.join(directory, "answers")
    period, quarantine = _held_out(config, directory), _quarantine(config, run_dir)
    ranker, predictions = _predict(config, run_dir, directory, fuse, best=best)
    answered = None
    if files.is_dir(answers):
        layout = Layout.of(config.schema, answers=True)
        found = RequestDataset(
            answers, layout, period=period, max_history=config.data.max_history, quarantine=quarantine
        ).read_all()
        if found is not None:
            answered = evaluation.predict_answers(ranker.score, encode(layout, found), config, CPU, fuse=fuse)
    step = read_progress(checkpoint_of(run_dir, best=best)).step
    origin = evaluation_files.Origin(recipe=config.recipe, step=step, fuse=fuse)
    return evaluation_files.Evaluated(origin=origin, table=evaluation_files.evaluation_table(predictions, answered))


def rank_fused(config: Config, fuse: float) -> RankingMetrics:
    """Ranking metrics of a finished run when the reference score has this weight in what is served."""
    directory = config.data.path or world_directory(config)
    _, found = _predict(config, Path(str(config.run_dir)), directory, fuse)
    return ranking_metrics(found.served_N, found.truth_N, found.utility_N, found.lengths_R, found.user_R)


def _predict(
    config: Config, run_dir: Path, directory: files.Location, fuse: float | None, *, best: bool = False
) -> tuple[Ranker, evaluation.Predictions]:
    """The chosen checkpoint's ranker, and what it says of the held-out requests."""
    quiet()
    requests, period = files.join(directory, "requests"), _held_out(config, directory)
    holdout, truth = open_holdout(config, requests, period, quarantine=_quarantine(config, run_dir))
    ranker = load_served(config, run_dir, fuse, best=best)
    stream = evaluation.batches(holdout, config, truth=truth)
    return ranker, evaluation.predict(ranker.score, stream, config, CPU, fuse=fuse)


def _held_out(config: Config, directory: files.Location) -> Period:
    return split(files.join(directory, "requests"), config.data.holdout)[1]


def _quarantine(config: Config, run_dir: Path) -> Quarantine | None:
    return Quarantine(run_dir / "quarantine") if config.data.on_bad_rows == "quarantine" else None


def print_metrics(metrics: dict[str, float]) -> None:
    """The short table of a run's result."""
    print(f"{metrics['requests']:,.0f} held-out requests, ranked by the policy score")
    for label, name in TABLE:
        print(f"  {label:<22}{metrics[name]:.4f}")


def prepare_data(config: Config, runtime: Runtime) -> files.Location:
    """Where the data lie; the built-in world is generated by one process of each host where it is missing."""
    if config.data.path is not None:
        if not files.is_dir(config.data.path):
            raise ValueError(f"--data {files.shown(config.data.path)}: no such directory")
        return config.data.path
    data_set = config.recipe.split("_")[0]
    if data_set in CONVERTED:
        command = f"python datasets/{data_set}/prepare.py --raw {CONVERTED[data_set]} --out DIR"
        raise ValueError(f"recipe {config.recipe!r} needs --data DIR: {command}")
    directory = world_directory(config)
    if runtime.local_rank == 0:
        if not directory.exists() and runtime.leads:
            print(f"generating the synthetic world, {config.world.requests:,} requests, in {directory}", flush=True)
        ensure(config.world, directory)
    runtime.barrier()
    return directory


def _record_start(config: Config, runtime: Runtime, run_dir: Path) -> None:
    versions, device = doctor.core_versions(), str(runtime.device)
    event("start", recipe=config.recipe, device=device, argv=sys.argv, versions=versions)
    if runtime.leads:
        tracking.report_start(
            run_dir, recipe=config.recipe, world_size=runtime.world_size, device=device, versions=versions
        )


def _new_run_dir(config: Config) -> str:
    """A launcher that restarts workers names the run, so that they find it again; else the time does."""
    name = os.environ.get("EASQ_RUN_NAME") or time.strftime("%Y%m%d-%H%M%S")
    return str(Path("runs") / f"{config.recipe}-{name}")


def _write_config(config: Config, run_dir: Path, runtime: Runtime) -> None:
    """Stores the config, or checks that a run to be resumed was started with the same one."""
    path = run_dir / "config.json"
    wanted = json.loads(json.dumps(to_dict(config)))
    if path.exists() and (run_dir / "checkpoints").exists():
        stored = json.loads(path.read_text())
        differences = _differences(_fixed(stored), _fixed(wanted))
        if differences:
            raise ValueError(
                f"{run_dir} holds a run with another configuration: {'; '.join(differences)}. "
                "Give the same values to resume it, or another --run-dir"
            )
    runtime.barrier()
    if runtime.leads:
        run_dir.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(wanted, indent=2) + "\n")
        partial.rename(path)
    runtime.barrier()


def load_config(run_dir: Path) -> Config:
    """The config of a run. Raises ValueError where the directory holds none."""
    path = run_dir / "config.json"
    if not path.exists():
        raise ValueError(f"--run {run_dir}: no config.json in it; name a directory that `easq-rec train` wrote")
    config: Config = from_dict(Config, json.loads(path.read_text()))
    return config


def _fixed(values: dict[str, object]) -> dict[str, object]:
    """The part of a config that must stay as it is when a run is resumed."""
    kept = {name: value for name, value in values.items() if name not in FREE}
    for part, free in FREE_FIELDS.items():
        fields = kept[part]
        assert isinstance(fields, dict)
        # A run from before a field has what is usual.
        usual = json.loads(json.dumps(to_dict(Config.__dataclass_fields__[part].default)))
        kept[part] = {name: value for name, value in {**usual, **fields}.items() if name not in free}
    return kept


def _differences(stored: object, wanted: object, where: str = "") -> list[str]:
    if isinstance(stored, dict) and isinstance(wanted, dict):
        names = sorted(set(stored) | set(wanted))
        return [
            line
            for name in names
            for line in _differences(stored.get(name), wanted.get(name), f"{where}.{name}" if where else name)
        ]
    names, others = _names(stored), _names(wanted)
    if names and names == others:
        # Tables and features, whose order matters as well.
        assert isinstance(stored, list) and isinstance(wanted, list)
        pairs = zip(names, stored, wanted, strict=True)
        return [line for name, one, two in pairs for line in _differences(one, two, f"{where}.{name}")]
    if names and others:
        return [f"{where} is {', '.join(names)} there, {', '.join(others)} here"]
    return [] if stored == wanted else [f"{where} is {stored!r} there, {wanted!r} here"]


def _names(values: object) -> list[str]:
    """Names of the entries of a list of tables, features or outcomes; of anything else, none."""
    entries = values if isinstance(values, list) else []
    return [entry["name"] for entry in entries if isinstance(entry, dict) and "name" in entry]


def _report(result: Result, run_dir: Path) -> None:
    if not result.finished:
        print(f"stopped after step {result.step} with a checkpoint; the same command with --run-dir {run_dir} goes on")
        return
    print()
    if result.metrics:
        print_metrics(result.metrics)
    else:
        print("no requests are held out (data.holdout), so there is nothing to evaluate")
    print(f"  {'impressions/s':<22}{result.impressions_per_second:,.0f}")
    print(f"\nrun    {run_dir}")
    print(f"next   {_command('tensorboard')} --logdir {run_dir}/tensorboard")
    print(f"       {_command('easq-rec')} evaluate --run {run_dir}")


def _command(name: str) -> str:
    """How a person calls a program of this environment, which need not be activated."""
    if shutil.which(name):
        return name
    return os.path.relpath(Path(sys.executable).parent / name)
