"""Names and texts in SQL."""

from __future__ import annotations

WILDCARDS = str.maketrans({character: f"[{character}]" for character in "*?["})


def literal(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """An SQL name."""
    return '"' + name.replace('"', '""') + '"'


def file_literal(path: str) -> str:
    """An SQL string that names one file. DuckDB takes brackets, stars and question marks in paths for a pattern."""
    return literal(path.translate(WILDCARDS))
