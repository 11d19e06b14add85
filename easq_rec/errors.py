"""Errors that a user can mend, and how a command ends with one.

Uses the standard library only, so that every module, `doctor` included, may import it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class UserError(ValueError):
    """A wrong option, config, file or environment. The message names the place, the value and the remedy.

    Commands print the message and end with exit code 2. Every other exception is a bug or a failure of the machine
    and keeps its traceback.
    """


def is_one_line(error: BaseException) -> bool:
    """Whether an error is shown by its message only. With EASQ_TRACEBACK=1 no error is."""
    return isinstance(error, UserError) and not os.environ.get("EASQ_TRACEBACK")


def exit_code(main: Callable[[], int]) -> int:
    """The exit code of `main()`; 2 after a UserError, whose message goes to standard error."""
    try:
        return main()
    except UserError as error:
        if not is_one_line(error):
            raise
        print(f"easq-rec: {error}", file=sys.stderr)
        return 2
