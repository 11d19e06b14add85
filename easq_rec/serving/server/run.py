"""Runs the server until a signal ends it."""

from __future__ import annotations

import logging
import signal
import socket
from pathlib import Path

import torch
import uvicorn

from easq_rec.errors import UserError
from easq_rec.serving.server.app import ServerOptions, application

DRAIN_S = 10
"""Accepted calls have this long to be answered after SIGTERM."""


def serve(directory: Path, options: ServerOptions, *, host: str, port: int) -> int:
    """Serves the current package of a directory.

    Raises UserError if there is none, if it is refused, or if the port is taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    # A process is one thread: another core serves with another process.
    torch.set_num_threads(1)
    app = application(directory, options)
    listening = _listen(host, port, backlog=2 * options.most_waiting)
    print(f"serving {directory} on http://{host}:{listening.getsockname()[1]}", flush=True)
    # uvicorn raises the signal once more when all calls are answered. The end that was asked for is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=DRAIN_S, backlog=2 * options.most_waiting
    )
    uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listen(host: str, port: int, *, backlog: int) -> socket.socket:
    """A socket that callers can connect to from now on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(backlog)
    except OSError as error:
        listening.close()
        raise UserError(f"--host {host} --port {port}: cannot listen there: {error.strerror or error}") from error
    return listening
