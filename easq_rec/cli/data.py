"""`easq-rec data`: the two datasets are generated, built, described, extended, converted and joined."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from easq_rec import outputs
from easq_rec.config import Data, World
from easq_rec.config.schema import require
from easq_rec.data.presence import require_folder
from easq_rec.errors import UserError


@dataclass(frozen=True, kw_only=True)
class WorldCommand:
    """Write the built-in synthetic world in the data contract."""

    out: Path
    """Directory to write; must not hold another world."""
    without_counts: bool = False
    """Leave out the usual counts of the past, which the recipes `easq` and `quickstart` read."""
    world: World = field(default_factory=World)

    def run(self) -> int:
        from easq_rec.tools.simulation.world import generate

        outputs.check_new_directory("--out", self.out)
        with outputs.writing("--out", self.out):
            generate(self.world, self.out, counts=not self.without_counts)
        print(f"{self.world.requests:,} requests in {self.out}; train on them with --data {self.out}")
        return 0


@dataclass(frozen=True, kw_only=True)
class BuildCommand:
    """Turn raw logs (impressions, answers, users, videos) into the datasets requests/ and answers/.

    Called again after an interruption, it continues, or starts over with the engine spark."""

    config: Path
    """TOML file that says where the raw tables lie, what their columns mean, and the rules."""
    out: Path
    """Directory to write; appears when it is complete."""
    shared: bool = False
    """Other processes, also on other machines, build the same output: share the work, take over from one that ended."""
    engine: Literal["local", "spark"] = "local"
    """local: processes of this command. spark: a Spark session, of spark-submit or in this process, which also reads
    tables of its catalog; needs the extra `spark` and Java 17."""
    memory_mb: int | None = None
    """Bound of the SQL engine's memory in MB. None: engine.memory_mb of the TOML file."""
    threads: int | None = None
    """Threads. None: engine.threads of the TOML file."""
    temp: Path | None = None
    """Directory of temporary files. None: engine.temp of the TOML file."""

    def run(self) -> int:
        from easq_rec.tools.builder.command import build

        resources = {"memory_mb": self.memory_mb, "threads": self.threads, "temp": self.temp}
        build(self.config, self.out, shared=self.shared, engine=self.engine, resources=resources)
        return 0


@dataclass(frozen=True, kw_only=True)
class InspectCommand:
    """Report what a data directory holds; draft its feature schema and plot it."""

    directory: Annotated[str, tyro.conf.Positional]
    """Holds requests/ and answers/, or is one of these itself; a path or a URL."""
    out: Path = Path("inspect")
    """Directory for schema.toml, report.json and PNGs."""
    schema: Path | None = None
    """Also list everything that training with this TOML file would refuse."""

    def run(self) -> int:
        from easq_rec.tools.inspect.command import inspect

        inspect(self.directory, self.out, self.schema)
        return 0


@dataclass(frozen=True, kw_only=True)
class CountsCommand:
    """Add what happened before each request to its candidates: decayed counts of outcomes and answers, by id.

    The schema declares them, by a TOML file or a recipe."""

    directory: Annotated[str, tyro.conf.Positional]
    """Holds requests/ and answers/; a path or a URL."""
    out: Path
    """Directory to write: the same data with more columns of the candidates, and the table counts/."""
    schema: Path | None = None
    """TOML file with the counts."""
    recipe: str | None = None
    """Recipe with the counts, such as kuairand_counts."""
    holdout: float | None = None
    """Last fraction of the time line that training will hold out (data.holdout): counts with `frozen` are frozen at its
    beginning. None: the recipe's, or the default of training. 0: nothing is frozen."""
    frozen_after: tuple[int, ...] | None = None
    """Times in place of the holdout's beginning, in milliseconds since 1970: from the first one on, counts with
    `frozen` are published only at these."""

    def run(self) -> int:
        from easq_rec.config.command_line import find_recipe
        from easq_rec.config.schema_file import load_schema
        from easq_rec.tools.counts.command import add_counts

        if self.schema is not None and self.recipe is None:
            declared, holdout = load_schema(self.schema), Data.holdout
        elif self.recipe is not None and self.schema is None:
            config = find_recipe(self.recipe)
            declared, holdout = config.schema, config.data.holdout
        else:
            raise UserError("data counts: give one of --schema FILE.toml and --recipe NAME")
        if self.holdout is not None:
            require(self.frozen_after is None, "--holdout", self.holdout, "left out, since --frozen-after is given")
            require(0 <= self.holdout < 1, "--holdout", self.holdout, "from 0 to less than 1")
            holdout = self.holdout
        outputs.check_new_directory("--out", self.out, inputs=_local(self.directory))
        with outputs.writing("--out", self.out):
            print(add_counts(self.directory, self.out, declared, holdout=holdout, frozen_after_ms=self.frozen_after))
        return 0


def _local(directory: str) -> list[Path]:
    """A directory that is read, if it is on this machine."""
    return [] if "://" in directory else [Path(directory)]


@dataclass(frozen=True, kw_only=True)
class JoinCommand:
    """Add outcomes and answers to the requests that easq-rec serve --log wrote, so that they can be trained on.

    The schema, by a TOML file or a recipe, names the outcomes."""

    log: Annotated[Path, tyro.conf.Positional]
    """Data directory that the server wrote."""
    outcomes: Path
    """Parquet file or directory with a row for each impression or event: request_id, the item, every outcome, and
    answer with answered_at_ms if there are answers."""
    out: Path
    """Directory to write: requests/ and answers/ in the order of time."""
    shown: Literal["all", "listed"]
    """all: every candidate was shown; one without a row has no outcome. listed: candidates without a row were not
    shown, and are left out."""
    schema: Path | None = None
    """TOML file."""
    recipe: str | None = None
    """Recipe, such as easq."""

    def run(self) -> int:
        from easq_rec.config.command_line import find_recipe
        from easq_rec.config.schema_file import load_schema
        from easq_rec.tools.join.command import join

        require_folder("LOG", self.log)
        if not self.outcomes.exists():
            raise UserError(f"--outcomes {self.outcomes}: no such file or directory")
        if self.schema is not None and self.recipe is None:
            declared = load_schema(self.schema)
        elif self.recipe is not None and self.schema is None:
            declared = find_recipe(self.recipe).schema
        else:
            raise UserError("data join: give one of --schema FILE.toml and --recipe NAME")
        outputs.check_new_directory("--out", self.out, inputs=[self.log, self.outcomes])
        with outputs.writing("--out", self.out):
            print(join(self.log, self.outcomes, self.out, declared, shown=self.shown))
        return 0


@dataclass(frozen=True, kw_only=True)
class ConvertCommand:
    """Store histories once per user, or with every request. Training reads both layouts alike."""

    directory: Annotated[Path, tyro.conf.Positional]
    """Holds requests/ and answers/."""
    out: Path
    """Directory to write: the same data, with its requests in the other layout; other files are copied."""
    histories: Literal["reference", "inline"]
    """reference: requests hold ranges of lists in the folder histories/. inline: requests hold their histories."""

    def run(self) -> int:
        from easq_rec.tools.histories.command import convert

        print(convert(self.directory, self.out, histories=self.histories))
        return 0


@dataclass(frozen=True, kw_only=True)
class DataCommands:
    """Generate, build, inspect, extend, convert and join data."""

    command: (
        Annotated[WorldCommand, tyro.conf.subcommand("world")]
        | Annotated[BuildCommand, tyro.conf.subcommand("build")]
        | Annotated[InspectCommand, tyro.conf.subcommand("inspect")]
        | Annotated[CountsCommand, tyro.conf.subcommand("counts")]
        | Annotated[ConvertCommand, tyro.conf.subcommand("convert")]
        | Annotated[JoinCommand, tyro.conf.subcommand("join")]
    )

    def run(self) -> int:
        return self.command.run()
