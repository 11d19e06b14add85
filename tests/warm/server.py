"""Forks a process per command: `python -m tests.warm.server SOCKET`; see the package."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import easq_rec
from easq_rec import doctor

STANDARD_STREAMS = (0, 1, 2)


def serve(path: str) -> dict[str, Any] | None:
    """Forks for each request, until standard input ends; returns the request in a forked process, None in the server.

    The server has one thread, since a fork of a process with several threads may deadlock.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(64)
    # A pipe that a signal writes to, so that the end of a child wakes the selector.
    wake, wakened = os.pipe()
    os.set_blocking(wakened, False)
    signal.set_wakeup_fd(wakened, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    print("ready", flush=True)

    children: dict[int, socket.socket] = {}
    while True:
        with selectors.DefaultSelector() as selector:
            for source in (0, wake, listener, *children.values()):
                selector.register(source, selectors.EVENT_READ)
            ready = {key.fileobj for key, _ in selector.select()}
        if 0 in ready:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            return None
        if wake in ready:
            os.read(wake, 4_096)
            for pid, code in _ended(children):
                connection = children.pop(pid)
                # A client that was killed does not read the code.
                with contextlib.suppress(OSError):
                    connection.sendall(f"{code}\n".encode())
                connection.close()
        for pid, connection in children.items():
            # A client never writes again: it was killed.
            if connection in ready:
                os.kill(pid, signal.SIGKILL)
        if listener in ready:
            connection, _ = listener.accept()
            request, streams = _receive(connection)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number, stream in zip(STANDARD_STREAMS, streams, strict=True):
                    os.dup2(stream, number)
                for one in (listener, connection, *children.values()):
                    one.close()
                for descriptor in (wake, wakened, *streams):
                    os.close(descriptor)
                os.setsid()
                return request
            connection.sendall(f"{pid}\n".encode())
            children[pid] = connection
            for stream in streams:
                os.close(stream)


def _ended(children: dict[int, socket.socket]) -> list[tuple[int, int]]:
    """Children that ended, with their exit codes; minus the number of the signal that ended them."""
    found = []
    for pid in children:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            found.append((pid, os.waitstatus_to_exitcode(status)))
    return found


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    size, streams, *_ = socket.recv_fds(connection, 4, 3)
    content = b""
    while len(content) < int.from_bytes(size, "big"):
        content += connection.recv(1 << 20)
    return json.loads(content), streams


def run(request: dict[str, Any], path: list[str]) -> None:
    """Runs the command of a request as the interpreter would, with `path` as its path of modules."""
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    arguments = request["arguments"]
    if arguments[0] == "-u":
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        arguments = arguments[1:]
    # Processes that the command starts are warm, too.
    sys.executable = os.environ.get("PYTHON_EXEC", sys.executable)
    added = [folder for folder in os.environ.get("PYTHONPATH", "").split(":") if folder]
    what, *rest = arguments
    first = "" if what in ("-m", "-c") else str(Path(what).resolve().parent)
    sys.path[:] = [first, *added, *path]
    if what == "-m":
        sys.argv = rest
        # Imported by the server already, of which runpy would warn.
        if not hasattr(sys.modules.get(rest[0]), "__path__"):
            sys.modules.pop(rest[0], None)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(what, run_name="__main__")


def exit_code(request: dict[str, Any], path: list[str]) -> int:
    """Runs the command, waits for its threads and calls its exit functions; does not unload modules, which takes longer
    than many a command."""
    code = 0
    try:
        run(request, path)
    except SystemExit as error:
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    return code


def import_everything() -> None:
    """Imports what the commands need. No module of them may start a thread at import."""
    # It also silences a message that FBGEMM 1.6 logs at import.
    doctor.require_compatible("cpu")
    import torch.distributed.run  # noqa: F401

    for module in pkgutil.walk_packages(easq_rec.__path__, "easq_rec."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)


if __name__ == "__main__":
    import_everything()
    base = sys.path[1:]
    # Without it, a collection in a child writes to every object, and copies the memory of the server.
    gc.freeze()
    served = serve(sys.argv[1])
    os._exit(0 if served is None else exit_code(served, base))
