"""Errors that a user can mend, and how a command ends with one.

Uses the standard library only, so that every module, `doctor` included, may import it.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

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

    After Ctrl-C a line says so. If the reader of the output has left, the command ends silently.
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
        finally:
            # What is still buffered would be written when the interpreter ends, which prints its own errors then.
            sys.stdout.flush()
    except BrokenPipeError:
        # A pipe to another process may break as well.
        if not _reader_left():
            raise
        _discard_output()
        return READER_LEFT


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


def _discard_output() -> None:
    """Sends everything that is still buffered, or printed later, to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(null, stream.fileno())
        except (OSError, ValueError):
            continue
