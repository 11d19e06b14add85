"""The errors of tyro, which it prints in a box, as one line. Loads without torch."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator


@contextlib.contextmanager
def unwrapped(*, helping: bool) -> Iterator[None]:
    """Keeps tyro from wrapping its error messages within the block.

    Args:
        helping: the block prints help, which is wrapped to the terminal.
    """
    before = os.environ.get("COLUMNS")
    if not helping:
        os.environ["COLUMNS"] = "2000"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = before


def one_line(box: str) -> str:
    """The message in the box that tyro prints: the text above its first rule, and the names that it offers instead."""
    parts: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:
        text = line.strip(" │|╰╯╭╮")
        if not text or set(text) <= {"─", "-"}:
            parts.append([])
        else:
            parts[-1].append(text)
    # Where the terminal has no box characters, a rule follows the title.
    parts = [part for part in parts if part]
    # Names of options stay. Other places are names in tyro's structure, where our own messages name the field.
    message = re.sub(r"^Error parsing (?:(--[\w.-]+: )|\S+: )", r"\1", " ".join(parts[0]))
    offers = [part[0] for part in parts if part[0].startswith("Available subcommands")]
    offers += [" ".join(part[:2]) for part in parts if part[0].startswith("Perhaps you meant")]
    return " ".join([message.removesuffix("."), *(f"({offer})" for offer in offers)])
