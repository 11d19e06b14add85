"""Runs the server until a signal ends it, in one process or in several on one port."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import uvicorn
from starlette.applications import Starlette

from easq_rec.errors import UserError
from easq_rec.export.package import Package
from easq_rec.export.versions import current_of
from easq_rec.serving.server.app import ServerOptions, application
from easq_rec.serving.server.metrics import SHARED
from easq_rec.serving.server.processes import BAD, Processes

BACKLOG = 4_096
"""Connections that wait to be accepted. A full queue resets connections, which callers cannot tell from a failure; the
bound on calls that wait answers them."""
DRAIN_S = 10
"""Accepted calls have this long to be answered after SIGTERM."""


def serve(options: ServerOptions, *, host: str, port: int, processes: int = 1) -> int:
    """Serves the current packages of a directory.

    Raises UserError if there is none, if it is refused, or if the port is taken.
    """
    _prepare()
    with _bound(host, port) as listening:
        return _serve(options, listening, host=host, processes=processes)


def _serve(options: ServerOptions, listening: socket.socket, *, host: str, processes: int) -> int:
    app = application(options) if processes == 1 else None
    if app is None:
        for directory in options.source.directories.values():
            # What every process would say.
            Package(current_of(directory))
    # Callers can connect from now on.
    listening.listen(BACKLOG)
    where = f"http://{host}:{listening.getsockname()[1]}"
    print(f"serving {options.source.first} on {where}" + (f" in {processes} processes" * (processes > 1)), flush=True)
    if app is None:
        return _several(options, listening, processes)
    _run(app, options, listening)
    return 0


def _several(options: ServerOptions, listening: socket.socket, count: int) -> int:
    shared = Path(tempfile.mkdtemp(prefix="easq-rec-serve-"))
    try:
        # Read by the library of the metrics when a process imports it.
        os.environ[SHARED] = str(shared)
        accepted = shared / "accepted"
        accepted.mkdir()
        options = replace(options, source=replace(options.source, accepted=accepted))
        target = functools.partial(_one_of_several, options, listening)
        processes = Processes(target, count, drain_s=DRAIN_S + 5)
        return processes.run(served=lambda: any(accepted.iterdir()))
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def _one_of_several(options: ServerOptions, listening: socket.socket) -> None:
    _prepare()
    try:
        app = application(options)
    except UserError as error:
        print(f"easq-rec: {error}", file=sys.stderr)
        raise SystemExit(BAD) from error
    _run(app, options, listening)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        # It was killed, and did not remove the folder.
        shutil.rmtree(os.environ[SHARED], ignore_errors=True)


def _run(app: Starlette, options: ServerOptions, listening: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=DRAIN_S,
        backlog=BACKLOG,
    )
    server = uvicorn.Server(config)
    # The server sets these handlers itself, later; a signal before would be lost or end the process at once. And it
    # raises the signal once more when all calls are answered: the end that was asked for is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    server.run(sockets=[listening])


def _prepare() -> None:
    """Sets up a process that serves."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logger = logging.getLogger("easq_rec.serve")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    # A process is one thread: another core serves with another process.
    torch.set_num_threads(1)


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the port. It is taken before a package is loaded, which takes time."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise UserError(f"--host {host} --port {port}: cannot listen there: {error.strerror or error}") from error
    return listening
