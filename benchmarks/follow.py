"""Does training on a stream cost more than training on a fixed log in the order of time, and what does publishing cost?

Both train on the same requests with the same steps, in turn, in one process. Prints impressions per CPU second of each,
without the first steps, and their ratio by round. A third run in each round also publishes packages, every
`--publish-seconds`: its CPU time beyond that of the run that does not publish, in training and in the process that
exports, is divided by the number of packages. The share is that of one package in `follow.publish_minutes`, by default
ten, of one core, without the first round, which compiles.

    python -m benchmarks.follow [--requests 12000] [--hours 4] [--rounds 3] [--publish-seconds 3] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import hardware, publish
from easq_rec.config import Config
from easq_rec.config.recipes import recipe
from easq_rec.export.versions import versions_of
from easq_rec.serving.publisher import opened
from easq_rec.tools.simulation.world import generate
from easq_rec.training.follow.loop import Follower, Publish
from easq_rec.training.loop import Trainer
from easq_rec.training.process import Runtime, running

FIRST = 10
"""Steps before the measurement begins."""


def config_of(args: argparse.Namespace, data: Path) -> Config:
    """A run in the order of time, with nothing held out, and no checkpoints."""
    base = recipe(args.recipe)
    # Some thousand requests in an hour, as in a log for which continuous training is worth while.
    world = dataclasses.replace(base.world, requests=args.requests, density=100.0, days=args.hours / 24)
    return dataclasses.replace(
        base,
        world=world,
        data=dataclasses.replace(base.data, path=str(data), shuffle=False, holdout=0.0),
        optim=dataclasses.replace(base.optim, schedule="constant"),
        trainer=dataclasses.replace(base.trainer, threads=1, epochs=1, pin_cores=False),
        checkpoint=dataclasses.replace(base.checkpoint, every_steps=0),
        logging=dataclasses.replace(base.logging, tensorboard=False),
    )


def offline(config: Config, runtime: Runtime, data: Path, run_dir: Path) -> float:
    """Impressions per CPU second of training on the fixed log."""
    trainer = Trainer(config, runtime, directory=data, run_dir=run_dir)
    begin, before = 0.0, 0
    for step in trainer.steps(trainer.total_steps):
        if step == FIRST:
            begin, before = time.process_time(), trainer.impressions
    seconds = time.process_time() - begin
    trainer.log.close()
    return (trainer.impressions - before) / seconds


def following(
    config: Config, runtime: Runtime, data: Path, run_dir: Path, publish: Publish | None = None
) -> tuple[float, float]:
    """(impressions per CPU second, CPU seconds) of training on the stream of the same files."""
    follower = Follower(config, runtime, run_dir=run_dir, publish=publish)
    begin, before, last = 0.0, 0, 0.0
    evaluate = follower._after

    def measured(*, save: bool, publish: bool) -> None:
        nonlocal begin, before, last
        evaluate(save=save, publish=publish)
        if follower.step == FIRST:
            begin, before = time.process_time(), follower.impressions
        if follower.step == steps:
            last = last or time.process_time()

    steps = -(-config.world.requests // config.trainer.batch_size)
    follower._after = measured  # type: ignore[method-assign]
    result = follower.follow()
    assert result.state.rows == config.world.requests
    return (follower.impressions - before) / (last - begin), last - begin


def publishing(
    config: Config, runtime: Runtime, data: Path, run_dir: Path, packages: Path, seconds: float
) -> tuple[float, float, int]:
    """(CPU seconds of training, of the process that exports, number of packages) of a run that publishes."""
    earlier = len(versions_of(packages))
    follow = dataclasses.replace(
        config.follow, packages=str(packages), publish_minutes=seconds / 60, keep_packages=1_000
    )
    config = dataclasses.replace(config, follow=follow)
    before = _children()
    with opened(config, run_dir, lambda line: None) as publish:
        _, trained = following(config, runtime, data, run_dir, publish)
    return trained, _children() - before, len(versions_of(packages)) - earlier


def _children() -> float:
    """CPU seconds of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="quickstart")
    parser.add_argument("--requests", type=int, default=12_000)
    parser.add_argument("--hours", type=float, default=4.0, help="length of the log")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--publish-seconds", type=float, default=3.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    rates: dict[str, list[float]] = {"fixed log": [], "stream": []}
    costs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data"
        config = config_of(args, data)
        generate(config.world, data)
        with running(config.trainer) as runtime:
            follow = dataclasses.replace(
                config.follow, source=str(data), stop_when_idle_seconds=0.5, checkpoint_minutes=0
            )
            streamed = dataclasses.replace(config, follow=follow)
            for number in range(args.rounds):
                rates["fixed log"].append(offline(config, runtime, data, folder / f"fixed-{number}"))
                rate, plain = following(streamed, runtime, data, folder / f"stream-{number}")
                rates["stream"].append(rate)
                run_dir, packages = folder / f"published-{number}", folder / "packages"
                trained, exported, count = publishing(streamed, runtime, data, run_dir, packages, args.publish_seconds)
                if not count:
                    raise SystemExit(f"no package in {args.publish_seconds:g} s: give more --requests")
                costs.append({"training": (trained - plain) / count, "export": exported / count, "packages": count})
    ratios = [stream / fixed for fixed, stream in zip(rates["fixed log"], rates["stream"], strict=True)]
    publish(
        {
            "benchmark": "follow",
            "recipe": args.recipe,
            "requests": args.requests,
            "impressions per CPU second": {name: [round(rate) for rate in found] for name, found in rates.items()},
            "stream by fixed log": [round(ratio, 3) for ratio in ratios],
            "median": round(statistics.median(ratios), 3),
            "CPU seconds of a package": [{name: round(value, 2) for name, value in one.items()} for one in costs],
            "share of a core at one package in ten minutes": round(
                statistics.median((one["training"] + one["export"]) / 600 for one in costs[1:] or costs), 4
            ),
            **hardware(),
        },
        args.out,
    )


if __name__ == "__main__":
    main()
