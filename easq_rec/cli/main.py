"""The console command `easq-rec`."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from easq_rec import doctor, train
from easq_rec.config import World
from easq_rec.config import command_line as arguments
from easq_rec.config.schema import require

USAGE = """usage: easq-rec COMMAND [OPTIONS]

  train [RECIPE] [--data DIR] [--run-dir DIR] [--overrides]   train, evaluate, checkpoint; resumes an existing run;
                                                              --schema FILE.toml: features of your own logs
  evaluate --run DIR [--data DIR] [--fuse W] [--best]         metrics of a run on its held-out requests, with intervals
  compare RUN BASE [--json FILE]                              paired differences of two evaluated runs
  score --run DIR --input DIR --output FILE.parquet           rank requests by the policy score (--fuse W: by both)
  data world --out DIR [--requests N --seed S ...]            write the built-in synthetic world
  data build --config FILE --out DIR [--partition I/N]        turn raw logs into requests/ and answers/
  data inspect DIR [--out DIR] [--schema FILE]                what the data hold; drafts a feature schema
  study NAME [--seeds N --budget small|full --out DIR]        an experiment with a verdict: signal, frontier, ablation,
             [--resume] [--jobs N] [--data DIR]               lambda2, sparsity, stability, experts, rank,
                                                              trigger, ab
  report RUN_OR_STUDY... [--out FILE.html]                    one self-contained page: tables, curves, plots
  runs list [DIR...] [--json]                                 all runs below directories: state, step, metrics
  runs show RUN [--verify]                                    one run: what happened, checkpoints, errors
  doctor                                                      check the environment

`easq-rec COMMAND --help` lists the options of a command.
"""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Metrics of a trained run on the held-out requests (the last part of the time line), with 95% intervals.

    Writes RUN/NAME.json (all metrics) and RUN/NAME.parquet (one row per held-out request, for easq-rec compare)."""

    run: Path
    """Run directory."""
    data: str | None = None
    """Directory or URL with requests/ (and answers/); None: the one that the run was trained on."""
    fuse: float | None = None
    """Serve z(policy) + FUSE * z(reference), each score standardised within its request; None: the policy score."""
    best: tyro.conf.UseCounterAction[int] = 0
    """The checkpoint with the best evaluation on the way (--checkpoint.best when it was trained), not the newest."""
    name: str = "evaluation"
    """Name of the two files that are written into the run directory."""
    resamples: int = 1_000
    """Bootstrap resamples of the users."""
    seed: int = 0
    """Seed of the resamples."""
    out: Path | None = None
    """Also write the values alone, under the names of RUN/metrics.jsonl, to this JSON file."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Paired differences between two runs that were evaluated on the same held-out requests, with 95% intervals."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory with evaluation.parquet in it, or such a file."""
    base: Annotated[Path, tyro.conf.Positional]
    """What it is compared with, likewise."""
    resamples: int = 1_000
    """Bootstrap resamples of the users, the same for both runs."""
    seed: int = 0
    """Seed of the resamples."""
    json: Path | None = None
    """Also write all figures to this file."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Rank requests without outcomes by the policy score, or by a fused score; adapters are merged."""

    run: Path
    """Run directory."""
    input: str
    """Directory or URL with the requests' Parquet files (or with requests/ in it)."""
    output: Path
    """Parquet file to write: request_id, the item's id, score, rank."""
    fuse: float | None = None
    """Rank by z(policy) + FUSE * z(reference), each standardised within its request; None: by the policy score, and the
    satisfaction tower is left out."""
    best: tyro.conf.UseCounterAction[int] = 0
    """Rank by the checkpoint with the best evaluation on the way, not by the newest."""


@dataclass(frozen=True, kw_only=True)
class WorldOut(World):
    """Write the built-in synthetic world in the data contract."""

    out: Path
    """Directory to write; must not hold another world."""


@dataclass(frozen=True, kw_only=True)
class BuildOut:
    """Turn raw logs (impressions, answers, users, videos) into the datasets requests/ and answers/.

    Interrupted, it goes on where it was when called again."""

    config: Path
    """TOML file that says where the raw tables lie, what their columns mean, and the rules."""
    out: Path
    """Directory to write; appears when it is complete."""
    partition: str = "1/1"
    """I/N: build share I of N of the users; the call that completes the set publishes the output."""
    # Counted, which makes it a flag without a value.
    shared: tyro.conf.UseCounterAction[int] = 0
    """Other processes, also on other machines, build the other shares: wait for them, take over from one that ended."""
    memory_mb: int | None = None
    """Bound of the SQL engine's memory, instead of the file's engine.memory_mb."""
    threads: int | None = None
    """Threads, instead of the file's engine.threads."""
    temp: Path | None = None
    """Directory of temporary files, instead of the file's engine.temp."""


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Report what a data directory holds; draft its feature schema and plot it."""

    directory: Annotated[str, tyro.conf.Positional]
    """Holds requests/ and answers/, or is one of these itself; a path or a URL."""
    out: Path = Path("inspect")
    """Directory for schema.toml, report.json and PNGs."""
    schema: Path | None = None
    """Also list everything that training with this TOML file would refuse."""


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Run an experiment of many training runs on generated worlds, and write what it says.

    signal: do answers agree with behaviour (trains nothing)? frontier: what does each way of alignment buy, and for how
    much? ablation: what does each part contribute? lambda2: how much DPO does a ranker take? sparsity: how few answers
    suffice? stability: does the policy run away from its reference? experts, rank: do these sizes matter? trigger: whom
    should the questionnaire ask? ab: what becomes of simulated people who are served by an aligned ranker?"""

    name: Annotated[str, tyro.conf.Positional]
    """signal, frontier, ablation, lambda2, sparsity, stability, experts, rank, trigger or ab."""
    seeds: int | None = None
    """Worlds, with seeds 0 to N-1; on a data set training seeds. None: 5, or 2 at the small budget."""
    budget: Literal["small", "full"] = "full"
    """small: seconds a run, to see that all works. full: half a minute to two minutes a run on one core."""
    out: Path | None = None
    """Directory for results.json, table.md and PNGs. None: runs/study-NAME."""
    resume: tyro.conf.UseCounterAction[int] = 0
    """Go on with the study in --out: its finished runs are not run again."""
    shared: tyro.conf.UseCounterAction[int] = 0
    """Other processes, also on other machines, may work on the same study in --out: each takes runs that nobody has
    taken, waits for those of the others, and takes over from a process that ended. The last one writes the results."""
    jobs: int | None = None
    """Runs at a time, one thread each. None: one per core."""
    data: str | None = None
    """Directory or URL with requests/ and answers/. None: generated worlds."""
    recipe: str | None = None
    """Recipe that fits the data, whose variants are compared. None: quickstart."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one self-contained HTML page about runs and studies: what ran, metrics with intervals, curves, plots.

    It needs no network and nothing besides itself. Of several runs the first is the one that the others are compared
    with; differences have intervals where both were evaluated (easq-rec evaluate)."""

    directories: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories (easq-rec train) and directories of studies (easq-rec study), in any order."""
    out: Path | None = None
    """HTML file to write. None: report.html in the first directory."""


@dataclass(frozen=True, kw_only=True)
class RunsList:
    """List all runs in and below some directories, the one that was active last first.

    State: finished; stopped, by a signal or at a step, with a checkpoint; failed, by an exception or a rank that hung;
    running, the process is alive, or on another host and wrote within 15 minutes; killed, the process is gone; silent,
    on another host and without a sign for 15 minutes; unknown, it has no logs. Exit code 1: some could not be read, and
    are named."""

    directories: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs"),)
    """Where to look."""
    json: tyro.conf.UseCounterAction[int] = 0
    """As JSON: step counts, bytes and seconds as numbers."""


@dataclass(frozen=True, kw_only=True)
class RunsShow:
    """Show one run: what differs from its recipe, what happened, metrics, checkpoints, tables and files."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    verify: tyro.conf.UseCounterAction[int] = 0
    """Read all checkpoints and compare their checksums; exit code 1: one is damaged."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code. A user's error is one readable message and exit code 2."""
    return arguments.run(lambda: _dispatch(list(sys.argv[1:] if argv is None else argv)))


def _dispatch(argv: list[str]) -> int:
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    match command:
        case "train":
            return train.main(rest, prog="easq-rec train")
        case "evaluate":
            return _evaluate(arguments.parse(Evaluate, rest, prog="easq-rec evaluate"))
        case "compare":
            return _compare(arguments.parse(Compare, rest, prog="easq-rec compare"))
        case "score":
            return _score(arguments.parse(Score, rest, prog="easq-rec score"))
        case "data":
            return _data(rest)
        case "study":
            return _study(rest)
        case "report":
            return _report(arguments.parse(Report, rest, prog="easq-rec report"))
        case "runs":
            try:
                return _runs(rest)
            except BrokenPipeError:
                # Its reader has seen enough, as `head` has; what is left must not be flushed at the exit either.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 1
        case "doctor":
            return doctor.main()
        case "-h" | "--help" | "help":
            print(USAGE, end="")
            return 0
        case "--version":
            from easq_rec import __version__

            print(__version__)
            return 0
    raise arguments.UsageError(
        f"command {command!r} is not known: train, evaluate, compare, score, data, study, report, runs or doctor"
    )


def _data(argv: list[str]) -> int:
    command, rest = (argv[0], argv[1:]) if argv else ("", [])
    match command:
        case "world":
            return _data_world(arguments.parse(WorldOut, rest, prog="easq-rec data world"))
        case "build":
            return _data_build(arguments.parse(BuildOut, rest, prog="easq-rec data build"))
        case "inspect":
            return _data_inspect(arguments.parse(Inspect, rest, prog="easq-rec data inspect"))
    raise arguments.UsageError(f"data {command!r} is not known: world, build or inspect")


def _data_world(wanted: WorldOut) -> int:
    from easq_rec.tools.simulation.world import generate

    world = World(**{field.name: getattr(wanted, field.name) for field in dataclasses.fields(World)})
    generate(world, wanted.out)
    print(f"{world.requests:,} requests in {wanted.out}; train on them with --data {wanted.out}")
    return 0


def _data_build(wanted: BuildOut) -> int:
    from easq_rec.tools.builder.command import build

    engine = {name: getattr(wanted, name) for name in ("memory_mb", "threads", "temp")}
    build(wanted.config, wanted.out, wanted.partition, shared=bool(wanted.shared), **engine)
    return 0


def _data_inspect(options: Inspect) -> int:
    from easq_rec.tools.inspect.command import inspect

    inspect(options.directory, options.out, options.schema)
    return 0


def _runs(argv: list[str]) -> int:
    command, rest = (argv[0], argv[1:]) if argv else ("", [])
    match command:
        case "list":
            from easq_rec.run_directory.listing import list_runs

            wanted = arguments.parse(RunsList, rest, prog="easq-rec runs list")
            return list_runs(list(wanted.directories), as_json=bool(wanted.json))
        case "show":
            from easq_rec.run_directory.showing import show_run

            options = arguments.parse(RunsShow, rest, prog="easq-rec runs show")
            return show_run(options.run, verify=bool(options.verify))
    raise arguments.UsageError(f"runs {command!r} is not known: list or show")


def _evaluate(options: Evaluate) -> int:
    doctor.require_compatible()
    from easq_rec.evaluation import results as evaluation_files
    from easq_rec.evaluation.metrics.intervals import CONFIDENCE, estimates
    from easq_rec.serving.evaluate import evaluate

    _require_resamples(options.resamples)
    evaluated = evaluate(options.run, options.data, fuse=options.fuse, best=bool(options.best))
    intervals = estimates(evaluated.sums(), resamples=options.resamples, seed=options.seed)
    evaluation_files.print_evaluation(evaluated, intervals, CONFIDENCE)
    how: dict[str, object] = {"data": options.data, "confidence": CONFIDENCE, "method": "BCa bootstrap over users"}
    how |= {"resamples": options.resamples, "seed": options.seed}
    evaluation_files.write(evaluated, intervals, options.run, options.name, how)
    print(f"\nall figures in {options.run / options.name}.json, by request in {options.run / options.name}.parquet")
    if options.out is not None:
        options.out.write_text(json.dumps(evaluation_files.plain_values(evaluated, intervals), indent=2) + "\n")
    return 0


def _compare(options: Compare) -> int:
    doctor.require_compatible()
    from easq_rec.evaluation import compare as comparison

    _require_resamples(options.resamples)
    found = comparison.compare(options.run, options.base, resamples=options.resamples, seed=options.seed)
    comparison.print_comparison(*found)
    if options.json is not None:
        comparison.write_comparison(*found, options.json)
    return 0


def _require_resamples(resamples: int) -> None:
    require(resamples >= 1, "--resamples", resamples, "at least 1")


def _score(options: Score) -> int:
    doctor.require_compatible()
    from easq_rec.run_directory.config_file import load_config
    from easq_rec.serving.score import score

    requests = score(
        load_config(options.run), options.run, options.input, options.output, fuse=options.fuse, best=bool(options.best)
    )
    print(f"{requests:,} requests ranked in {options.output}")
    return 0


def _study(argv: list[str]) -> int:
    options = arguments.parse(StudyOptions, argv, prog="easq-rec study")
    doctor.require_compatible()
    from easq_rec.tools.studies import command

    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(StudyOptions)}
    flags = {"resume": bool(options.resume), "shared": bool(options.shared)}
    return command.run(command.Wanted(**values | flags))


def _report(options: Report) -> int:
    from easq_rec.tools.report.command import report

    if not options.directories:
        raise arguments.UsageError("report: name at least one directory of a run or a study (--help says more)")
    print(f"report in {report(options.directories, options.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
