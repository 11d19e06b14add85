"""Writes JSON that every reader accepts: the one place of the package that does.

Python writes NaN and infinity as words that no other parser takes. Here they become null. Uses the standard library
only, so that every module may import it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easq_rec.errors import UserError


def text(
    value: object, *, indent: int | None = None, sort_keys: bool = False, ascii_only: bool = True, words: bool = False
) -> str:
    """A value as JSON text; numbers that are not finite are null.

    Args:
        ascii_only: write other characters as escapes.
        words: write values of other types as their text, rather than to raise TypeError.
    """
    return json.dumps(
        finite(value),
        indent=indent,
        sort_keys=sort_keys,
        ensure_ascii=ascii_only,
        allow_nan=False,
        default=str if words else None,
    )


def finite(value: Any) -> Any:
    """A value with None for every float that is not finite, at any depth. Tuples become lists, as in JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return value


def write(path: Path, value: object, *, indent: int | None = 2, sort_keys: bool = False) -> None:
    """Writes a JSON file, which appears complete by a rename; a device is written to as it is.

    Raises UserError if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        content = text(value, indent=indent, sort_keys=sort_keys) + "\n"
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_text(content, encoding="utf-8")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(content, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
