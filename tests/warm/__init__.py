"""Runs the Python commands of tests without importing torch and TorchRec each time.

An import of the trainer takes 4 CPU seconds, and a test of four ranks needs five of them. `server.py` imports
everything once and forks a process per command. `client.py` takes the place of the interpreter: it passes its
arguments, environment, directory and standard streams to the server, forwards signals to the forked process, and ends
as that process ends. torchrun starts its workers with the client as well, by PYTHON_EXEC.

What depends on the start of an interpreter (environment variables that libraries read at import, `--help` without
torch, the launch scripts, kills of whole process groups) is tested with the real one.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


@contextlib.contextmanager
def warm_python(environment: dict[str, str]) -> Iterator[str]:
    """Yields the path of an executable that takes the arguments of `python`, until the context ends.

    Args:
        environment: of the server. Libraries read their variables from it at import. Each command has its own
            environment otherwise.
    """
    # Not below pytest's directory: the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory() as folder:
        socket, python, errors = Path(folder, "socket"), Path(folder, "python"), Path(folder, "stderr")
        client = shlex.join([sys.executable, "-SI", str(HERE / "client.py"), str(socket)])
        python.write_text(f'#!/bin/sh\nexec {client} "$@"\n')
        python.chmod(0o755)
        command = [sys.executable, "-m", "tests.warm.server", str(socket)]
        with errors.open("w") as log:
            server = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert server.stdin is not None and server.stdout is not None
        try:
            assert server.stdout.readline() == "ready\n", f"the imports failed\n{errors.read_text()}"
            # A command that starts with the real interpreter would print it.
            assert not errors.read_text(), f"the imports warn\n{errors.read_text()}"
            yield str(python)
        finally:
            # The server ends with the end of its standard input, and ends its children before.
            server.stdin.close()
            server.wait(timeout=60)
            server.stdout.close()
