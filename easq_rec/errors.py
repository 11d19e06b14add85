"""Errors that a user can mend, and how a command ends with one.

Uses the standard library only, so that every module, `doctor` included, may import it.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from typing import TextIO

from easq_rec.disk_failures import EXIT_CODE, NO_ROOM, is_disk_failure, reason_of

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as of a shell."""
READER_LEFT = 141
"""Exit code if nobody reads the output any more, as in `| head`: 128 + SIGPIPE, as of a shell."""


class UserError(ValueError):
    """A wrong option, config, file or environment. The message names the place, the value and the remedy.

    Commands print the message and end with exit code 2. Every other exception is a bug or a failure of the machine
    and keeps its traceback.
    """


def is_one_line(error: BaseException) -> bool:
    """Whether an error is shown by its message only. With EASQ_TRACEBACK=1 no error is."""
    return isinstance(error, UserError) and not os.environ.get("EASQ_TRACEBACK")


def exit_code(main: Callable[[], int]) -> int:
    """The exit code of `main()`; 2 after a UserError, whose message goes to standard error.

    After Ctrl-C, and if a disk has no room, a line says so. If the reader of the output has left, the command ends
    silently.
    """
    try:
        try:
            return main()
        except UserError as error:
            if not is_one_line(error):
                raise
            print(f"easq-rec: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            if os.environ.get("EASQ_TRACEBACK"):
                raise
            print("easq-rec: interrupted", file=sys.stderr)
            return INTERRUPTED
        except OSError as error:
            if error.errno not in NO_ROOM or os.environ.get("EASQ_TRACEBACK"):
                raise
            _report(error.filename or "a file, or the output of the command,", error)
            return EXIT_CODE
        finally:
            _flush()
    except BrokenPipeError:
        # A pipe to another process may break as well.
        if not _reader_left():
            raise
        _discard_output(sys.stdout, sys.stderr)
        return READER_LEFT


def _flush() -> None:
    """Writes what is still buffered. The interpreter would do it when it ends, and print its own errors.

    Raises:
        BrokenPipeError: nobody reads it.
        SystemExit: the disk of the output failed, which is printed on one line.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        if not is_disk_failure(error):
            raise
        _report("the standard output", error)
        _discard_output(sys.stdout)
        sys.exit(EXIT_CODE)


def _report(place: str, error: OSError) -> None:
    print(f"easq-rec: {place} cannot be written: {reason_of(error)}", file=sys.stderr)


def _reader_left() -> bool:
    """Whether standard output or standard error is a pipe that nobody reads any more."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        try:
            poll.register(stream.fileno(), select.POLLOUT)
        except (OSError, ValueError):
            # A stream that replaces the standard one may have no file.
            continue
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _discard_output(*streams: TextIO) -> None:
    """Sends everything that is still buffered, or printed later, to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        try:
            os.dup2(null, stream.fileno())
        except (OSError, ValueError):
            continue
