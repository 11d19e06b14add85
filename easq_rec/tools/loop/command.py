"""The closed loop on one machine: serve, log, ask, learn, publish, serve.

A world's log trains a ranker. Several servers serve the same simulated users over HTTP, each with a copy of the world
of its own, and with its own ranker:

- frozen:    keeps the first package
- daily:     is trained anew at the end of each day, on the last seven days
- following: learns from each part of a day, and publishes a package, which its server takes over while it runs

    python -m easq_rec.tools.loop [--days 10] [--rankers frozen,daily,following] [--parts 4] [--out DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from easq_rec.config import World
from easq_rec.config.recipes import recipe, with_world
from easq_rec.config.schema import require
from easq_rec.data.dataset import time_line
from easq_rec.data.writer import check_unused
from easq_rec.errors import exit_code
from easq_rec.tools.loop.days import LoopDay, ServedRanker, run_day
from easq_rec.tools.loop.page import write_results
from easq_rec.tools.loop.programs import address_of, call, running_program
from easq_rec.tools.loop.ranked_over_http import RankedOverHttp
from easq_rec.tools.loop.retraining import Retrainer
from easq_rec.tools.simulation.online import Arm, Experiment, Stage
from easq_rec.tools.simulation.world import generate

RECIPE = "quickstart_without_counts"
"""The requests of simulated days have no counts of the past."""
FROZEN, DAILY, FOLLOWING = "frozen", "daily", "following"
LOG_DAYS = 7.0
"""Length of the first log, and of the window of the daily training."""
DRIFT = 0.8
"""Share of the variance of a video's effects that changes within a week: the loop shows what following is worth."""
TRAINING = ("--optim.schedule", "constant", "--trainer.threads", "1", "--logging.tensorboard", "False")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=10, help="simulated days (default: 10)")
    parser.add_argument("--users", type=int, default=1_000, help="users of the world (default: 1000)")
    parser.add_argument("--requests", type=int, default=12_000, help="requests of the log before (default: 12000)")
    parser.add_argument("--drift", type=float, default=DRIFT, help=f"world.item_drift (default: {DRIFT})")
    parser.add_argument(
        "--rankers", default=f"{FROZEN},{FOLLOWING}", help=f"separated by commas (default: {FROZEN},{FOLLOWING})"
    )
    parser.add_argument("--parts", type=int, default=1, help="parts of a day that are learned from (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="directory to write, new or empty (default: runs/loop-TIME)")
    words = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(words)
    return exit_code(lambda: loop(args, words))


def loop(args: argparse.Namespace, words: Sequence[str]) -> int:
    """Runs the loop and writes its results.

    Args:
        words: that `args` were read from.
    """
    begun, out = time.monotonic(), args.out or Path(f"runs/loop-{time.strftime('%Y%m%d-%H%M%S')}")
    names = args.rankers.split(",")
    known = (FROZEN, DAILY, FOLLOWING)
    distinct = len(set(names)) == len(names) and set(names) <= set(known)
    require(distinct, "--rankers", args.rankers, f"some of {', '.join(known)}, separated by commas")
    require(args.parts >= 1, "--parts", args.parts, "at least 1")
    check_unused(out)
    out.mkdir(parents=True, exist_ok=True)
    world = World(
        version=2,
        requests=args.requests,
        users=args.users,
        videos=2 * args.users,
        days=LOG_DAYS,
        density=100.0,
        item_drift=args.drift,
        seed=args.seed,
    )
    log, run = out / "log", out / "run"
    say(f"a world of {world.users:,} users; its log of {world.requests:,} requests trains the first ranker")
    generate(world, log, counts=False)
    options = ["--world.version", "2", *TRAINING]
    call(["train", RECIPE, "--data", str(log), "--run-dir", str(run), *options], out / "train.log")
    packages = {name: out / f"packages-{name}" for name in names}
    call(["export", "--run", str(run), "--output", str(packages[names[0]])], out / "export.log")
    for name in names[1:]:
        # The same package, and so the same compiled code.
        shutil.copytree(packages[names[0]], packages[name])
    live = {name: out / f"live-{name}" for name in names if name != FROZEN}
    if FOLLOWING in names:
        shutil.copytree(log / "answers", live[FOLLOWING] / "answers" / "day=00000")
    say(f"trained and exported after {time.monotonic() - begun:.0f} s")
    stage, experiment = Stage.of(world), Experiment(warmup_days=0, requests=4)
    config = with_world(recipe(RECIPE), 2)
    # All rankers serve the same users.
    everyone = np.arange(world.users)
    learned_ms = time_line(log / "requests")[1]
    days: list[LoopDay] = []
    with contextlib.ExitStack() as stack:
        urls = {}
        for name in names:
            words, file = ["serve", str(packages[name]), "--port", "0", "--watch-ms", "200"], out / f"serve-{name}.log"
            urls[name] = address_of(stack.enter_context(running_program(words, file)), file)
        rankers = []
        for name in names:
            rank = RankedOverHttp(urls[name], stage.latents, max_history=config.data.max_history)
            stack.callback(rank.close)
            ranker = ServedRanker(
                name=name,
                arm=Arm(stage, experiment, users=everyone),
                rank=rank,
                packages=packages[name],
                learned_ms=learned_ms,
                live=live.get(name),
            )
            if name == FOLLOWING:
                follow = [
                    "train", RECIPE, "--follow", str(live[name]), "--run-dir", str(out / "follow"), *options,
                    "--follow.start-from", str(run), "--follow.packages", str(packages[name]),
                    "--follow.publish-minutes", "0.05", "--follow.wait-seconds", "0.5", "--follow.poll-seconds", "0.1",
                    "--checkpoint.every-steps", "0",
                ]  # fmt: skip
                ranker.follower = stack.enter_context(running_program(follow, out / "follow.log"))
            if name == DAILY:
                ranker.retrainer = Retrainer(
                    recipe=RECIPE,
                    options=tuple(options),
                    logs=(log, live[name]),
                    folder=out / "daily",
                    packages=packages[name],
                    window_days=LOG_DAYS,
                )
            rankers.append(ranker)
        for day in range(args.days):
            days += [run_day(ranker, stage, args.parts, say, last=day == args.days - 1) for ranker in rankers]
    seconds = time.monotonic() - begun
    write_results(out, days, world=dataclasses.asdict(world), seconds=seconds, words=words)
    say((out / "table.md").read_text())
    say(f"{seconds:.0f} s in total. The page: {out / 'index.html'}")
    return 0


def say(text: str) -> None:
    """Prints at once."""
    print(text, flush=True)
