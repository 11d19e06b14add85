"""What is wrong with a request of a caller, by column."""

from __future__ import annotations

from easq_rec.export.inputs import Input

SHOWN = 80
"""Characters of a wrong value that an error shows."""


class BadRequestError(ValueError):
    """A request that cannot be scored. The message names the column, what it holds, and what is expected."""

    def __init__(self, column: str, found: object, expected: str) -> None:
        text = str(found)
        self.column = column
        self.found = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
        self.expected = expected
        super().__init__(f"{column}: is {self.found}, expected {expected}")


def expected_list(one: Input) -> str:
    """The list that a column must be."""
    kind = "integers of 64 bits" if one.dtype == "int64" else "numbers"
    return f"a list of {kind}" if one.width is None else f"a list of lists of {one.width} {kind}"


def check_names(names: list[str], inputs: tuple[Input, ...]) -> None:
    """Raises BadRequestError if there is not exactly one column for each input."""
    wanted = {one.name for one in inputs}
    if len(names) == len(inputs) and wanted.issuperset(names) and len(set(names)) == len(names):
        return
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequestError(twice, "there more than once", "one list")
    if missing := sorted(wanted - set(names)):
        raise BadRequestError(missing[0], "missing", f"a list; all columns are {', '.join(sorted(wanted))}")
    if unknown := sorted(set(names) - wanted):
        raise BadRequestError(unknown[0], "unknown", f"one of {', '.join(sorted(wanted))}")
