"""The console command `easq-rec`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from easq_rec import arguments, doctor, train
from easq_rec.config import World

USAGE = """usage: easq-rec COMMAND [OPTIONS]

  train [RECIPE] [--data DIR] [--run-dir DIR] [--overrides]   train, evaluate, checkpoint; resumes an existing run;
                                                              --schema FILE.toml: features of your own logs
  evaluate --run DIR [--data DIR]                             metrics of a run on its held-out requests
  score --run DIR --input DIR --output FILE.parquet           rank requests by the policy score
  data world --out DIR [--requests N --seed S ...]            write the built-in synthetic world
  data build --config FILE --out DIR [--partition I/N]        turn raw logs into requests/ and answers/
  data inspect DIR [--out DIR] [--schema FILE]                what the data hold; drafts a feature schema
  doctor                                                      check the environment

`easq-rec COMMAND --help` lists the options of a command.
"""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Metrics of a trained run on the held-out requests (the last part of the time line)."""

    run: Path
    """Run directory."""
    data: str | None = None
    """Directory or URL with requests/; None: the one that the run was trained on."""
    out: Path | None = None
    """Also write the metrics to this JSON file."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Rank requests without outcomes by the policy score; adapters merged, satisfaction tower left out."""

    run: Path
    """Run directory."""
    input: str
    """Directory or URL with the requests' Parquet files (or with requests/ in it)."""
    output: Path
    """Parquet file to write: request_id, the item's id, score, rank."""


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
        case "score":
            return _score(arguments.parse(Score, rest, prog="easq-rec score"))
        case "data":
            return _data(rest)
        case "doctor":
            return doctor.main()
        case "-h" | "--help" | "help":
            print(USAGE, end="")
            return 0
        case "--version":
            from easq_rec import __version__

            print(__version__)
            return 0
    raise arguments.UsageError(f"command {command!r} is not known: train, evaluate, score, data or doctor")


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
    from easq_rec.data.world import generate

    world = World(**{field.name: getattr(wanted, field.name) for field in dataclasses.fields(World)})
    generate(world, wanted.out)
    print(f"{world.requests:,} requests in {wanted.out}; train on them with --data {wanted.out}")
    return 0


def _data_build(wanted: BuildOut) -> int:
    from easq_rec.data.builder.command import build

    engine = {name: getattr(wanted, name) for name in ("memory_mb", "threads", "temp")}
    build(wanted.config, wanted.out, wanted.partition, **engine)
    return 0


def _data_inspect(options: Inspect) -> int:
    from easq_rec.data.inspection.command import inspect

    inspect(options.directory, options.out, options.schema)
    return 0


def _evaluate(options: Evaluate) -> int:
    doctor.require_compatible()
    from easq_rec import session

    metrics = session.evaluate(options.run, options.data)
    session.print_metrics(metrics)
    if options.out is not None:
        options.out.write_text(json.dumps(metrics, indent=2) + "\n")
    return 0


def _score(options: Score) -> int:
    doctor.require_compatible()
    from easq_rec.scoring import score
    from easq_rec.session import load_config

    requests = score(load_config(options.run), options.run, options.input, options.output)
    print(f"{requests:,} requests ranked in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
