"""tyro still prints its errors in the box that `one_line` reads."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import pytest
import tyro

from easq_rec.upstream.tyro_errors import one_line, unwrapped

CHANGED = "tyro has changed {}: adapt easq_rec/upstream/tyro_errors.py"


@dataclass
class Options:
    batch_size: int = 1
    name: str = ""


@dataclass
class Required:
    size: int


def error_of(kind: type[object], *arguments: str) -> str:
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), unwrapped(helping=False), pytest.raises(SystemExit) as leaving:
        tyro.cli(kind, prog="prog", args=list(arguments))
    assert leaving.value.code, CHANGED.format("its exit code after an error")
    return one_line(errors.getvalue())


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        (Options, ["--batch-siz=3"], "Unrecognized options: --batch-siz=3 (Perhaps you meant: --batch-size INT)"),
        (Options, ["--batch-size", "many"], "--batch-size: invalid literal for int() with base 10: 'many'"),
        (Required, [], "Missing from prog: --size INT (required)"),
    ],
)
def test_an_error_is_reduced_to_its_message(kind: type[object], arguments: list[str], expected: str) -> None:
    assert error_of(kind, *arguments) == expected, CHANGED.format("the box of its errors")


def test_a_long_message_is_not_wrapped() -> None:
    value = "x" * 180
    assert f"'{value}'" in error_of(Options, "--batch-size", value), CHANGED.format("how it finds the terminal's width")
