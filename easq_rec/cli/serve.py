"""`easq-rec serve`: a package over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from easq_rec import doctor
from easq_rec.config.schema import require
from easq_rec.data.presence import require_folder
from easq_rec.errors import UserError
from easq_rec.export.versions import roll_back


@dataclass(frozen=True, kw_only=True)
class ServeCommand:
    """Score requests over HTTP with the current package of a directory that easq-rec export wrote.

    A package that is exported meanwhile takes over without a pause; one that is damaged or scores its golden requests
    differently is refused. Needs the extra serve. SIGTERM ends the server when all accepted calls are answered."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="packages")]
    """Directory of packages."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: all of this machine's."""
    port: int = 8080
    """0: any free port, which is printed."""
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
        require_folder("PACKAGES", self.directory)
        try:
            from easq_rec.serving.server.run import serve
        except ModuleNotFoundError as error:
            raise UserError(
                f"easq-rec serve needs the extra serve, and there is no {error.name}: pip install 'easq-rec[serve]'"
            ) from error
        from easq_rec.serving.server.app import ServerOptions

        options = ServerOptions(
            deadline_s=self.deadline_ms / 1_000,
            body_bytes=self.body_mb * 2**20,
            most_waiting=self.most_waiting,
            watch_s=self.watch_ms / 1_000,
        )
        return serve(self.directory, options, host=self.host, port=self.port)


@dataclass(frozen=True, kw_only=True)
class RollbackCommand:
    """Serve an earlier version of a directory of packages. Servers take it over as they do a new one."""

    directory: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="packages")]
    """Directory of packages."""
    to: str | None = None
    """The version; None: the one before the version that is served."""

    def run(self) -> int:
        require_folder("PACKAGES", self.directory)
        before, now = roll_back(self.directory, self.to)
        print(f"{self.directory}: {now} in place of {before}")
        return 0
