"""An interpreter's place: `client.py SOCKET [-u] (SCRIPT | -m MODULE | -c CODE) ARGUMENTS...`.

Runs with `python -SI`, so that a start takes milliseconds. Imports nothing outside the standard library.
"""

import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    # Blocked until the process exists that they are for.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(sys.argv[1])
    request = json.dumps(
        {"arguments": sys.argv[2:], "environment": dict(os.environ), "directory": os.getcwd()}
    ).encode()
    socket.send_fds(connection, [len(request).to_bytes(4, "big")], [0, 1, 2])
    connection.sendall(request)
    answers = connection.makefile()
    pid = int(answers.readline())
    for number in FORWARDED:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    code = int(answers.readline())
    if code >= 0:
        os._exit(code)
    # The process ended by a signal, and so does this one.
    signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), -code)


if __name__ == "__main__":
    main()
