"""`easq-rec runs list` and `runs show`: the runs in run directories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class RunsListCommand:
    """List all runs in and below some directories, most recently active first.

    State: finished; stopped, by a signal or at a step, with a checkpoint; failed, by an exception or a rank that hung;
    running, the process is alive, or on another host and wrote within 15 minutes; killed, the process is gone; silent,
    on another host and without a sign for 15 minutes; unknown, it has no logs. Exit code 1: some could not be read, and
    are named."""

    directories: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs"),)
    """Where to look."""
    json: bool = False
    """As JSON: step counts, bytes and seconds as numbers."""

    def run(self) -> int:
        from easq_rec.run_directory.listing import list_runs

        return list_runs(list(self.directories), as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class RunsShowCommand:
    """Show one run: what differs from its recipe, what happened, metrics, checkpoints, tables and files."""

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    """Run directory."""
    verify: bool = False
    """Read all checkpoints and compare their checksums; exit code 1: one is damaged."""

    def run(self) -> int:
        from easq_rec.run_directory.showing import show_run

        return show_run(self.run_dir, verify=self.verify)


@dataclass(frozen=True, kw_only=True)
class RunsCommands:
    """List runs, or show one of them."""

    command: (
        Annotated[RunsListCommand, tyro.conf.subcommand("list")]
        | Annotated[RunsShowCommand, tyro.conf.subcommand("show")]
    )

    def run(self) -> int:
        return self.command.run()
