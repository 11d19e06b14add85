"""`easq-rec serve`: a package over HTTP."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from easq_rec import doctor, outputs
from easq_rec.config.schema import require
from easq_rec.data.presence import require_folder
from easq_rec.errors import UserError
from easq_rec.export.versions import roll_back


@dataclass(frozen=True, kw_only=True)
class ServeCommand:
    """Score requests over HTTP with the current package of a directory that easq-rec export wrote.

    A package that is exported meanwhile takes over without a pause; one that is damaged or scores its golden requests
    differently is refused. Needs the extra serve. SIGTERM ends the server when all accepted calls are answered."""

    packages: Annotated[str, tyro.conf.Positional]
    """Directory of packages, or the URL of one, as s3://bucket/packages; then give --cache too."""
    cache: Path | None = None
    """Directory on this machine's disk for copies of the packages of a URL."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: all of this machine's."""
    port: int = 8080
    """0: any free port, which is printed."""
    processes: int = 1
    """Processes that accept calls on the port, one core each; they share the memory of the tables."""
    second: str | None = None
    """Directory or URL of packages to compare with: give --share too, or it only scores all requests, which --log
    keeps."""
    second_cache: Path | None = None
    """As --cache, for the packages of --second."""
    share: float = 0.0
    """Share of the users that the second package answers, from 0 (none) to 1."""
    experiment: str = "experiment"
    """Name of the comparison; another name is another split of the users."""
    log: Path | None = None
    """Data directory that gets what was served, as requests of the data contract. Callers then send all columns of a
    training request."""
    log_seconds: float = 10.0
    """Time between two files of the log."""
    deadline_ms: int = 500
    """A call that waited longer is answered by 504, and not scored."""
    most_waiting: int = 256
    """Calls that wait at most; more are answered by 503."""
    body_mb: int = 4
    """Largest body of a call, in MiB; a larger one is answered by 413."""
    watch_ms: int = 1_000
    """Time between two looks for a new package."""

    def run(self) -> int:
        doctor.require_compatible()
        for name in ("deadline_ms", "most_waiting", "body_mb", "watch_ms"):
            value = getattr(self, name)
            require(value >= 1, f"--{name.replace('_', '-')}", value, "at least 1")
        require(0 <= self.port < 65_536, "--port", self.port, "0 to 65535")
        require(1 <= self.processes <= 256, "--processes", self.processes, "1 to 256")
        require(0 <= self.share <= 1, "--share", self.share, "0 to 1")
        require(not self.share or self.second is not None, "--share", self.share, "given together with --second")
        require(self.log_seconds > 0, "--log-seconds", self.log_seconds, "above 0")
        directory = _directory("PACKAGES", self.packages, "--cache", self.cache)
        second = _directory("--second", self.second, "--second-cache", self.second_cache)
        assert directory is not None
        # Old versions are removed from a directory of copies.
        if self.second_cache is not None:
            outputs.check_outside("--second-cache", self.second_cache, [directory])
        if self.cache is not None and second is not None:
            outputs.check_outside("--cache", self.cache, [second])
        if self.log is not None:
            outputs.check_outside("--log", self.log, [path for path in (directory, second) if path])
        try:
            from easq_rec.serving.server.run import serve
        except ModuleNotFoundError as error:
            raise UserError(
                f"easq-rec serve needs the extra serve, and there is no {error.name}: pip install 'easq-rec[serve]'"
            ) from error
        from easq_rec.export.package_copies import mirrored
        from easq_rec.serving.server.app import ServerOptions
        from easq_rec.serving.server.experiment import ServingExperiment
        from easq_rec.serving.server.served_package import PackageSource

        experiment = ServingExperiment(share=self.share, name=self.experiment) if self.second is not None else None
        source = PackageSource(first=directory, second=second, experiment=experiment, logged=self.log is not None)
        options = ServerOptions(
            source=source,
            deadline_s=self.deadline_ms / 1_000,
            body_bytes=self.body_mb * 2**20,
            most_waiting=self.most_waiting,
            watch_s=self.watch_ms / 1_000,
            log=self.log,
            log_s=self.log_seconds,
        )
        with contextlib.ExitStack() as stack:
            for location, cache in ((self.packages, self.cache), (self.second, self.second_cache)):
                if location is not None and cache is not None:
                    stack.enter_context(mirrored(location, cache, options.watch_s, _say))
            return serve(options, host=self.host, port=self.port, processes=self.processes)


@dataclass(frozen=True, kw_only=True)
class RollbackCommand:
    """Serve an earlier version of a directory of packages. Servers take it over as they do a new one."""

    packages: Annotated[str, tyro.conf.Positional]
    """Directory of packages, or the URL of one."""
    to: str | None = None
    """The version; None: the one before the version that is served."""

    def run(self) -> int:
        if "://" in self.packages:
            from easq_rec.export.package_copies import PackageCopies

            before, now = PackageCopies(self.packages).roll_back(self.to)
        else:
            require_folder("PACKAGES", Path(self.packages))
            before, now = roll_back(Path(self.packages), self.to)
        print(f"{self.packages.partition('?')[0]}: {now} in place of {before}")
        return 0


def _directory(option: str, location: str | None, cache_option: str, cache: Path | None) -> Path | None:
    """The directory from which packages are served: that of copies if their location is a URL; None: there is none.

    Raises:
        UserError: there is no such directory, or a URL without a directory for copies, or the reverse.
    """
    if location is not None and "://" in location:
        require(cache is not None, cache_option, cache, "a directory, for copies of the packages of a URL")
        return cache
    require(cache is None, cache_option, cache, "only for the packages of a URL")
    if location is None:
        return None
    require_folder(option, Path(location))
    return Path(location)


def _say(text: str) -> None:
    print(f"easq-rec: {text}", file=sys.stderr, flush=True)
