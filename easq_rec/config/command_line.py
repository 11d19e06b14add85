"""The command line of a run: a recipe's name, then overrides of its numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from easq_rec.config import Config
from easq_rec.config.recipes import BASES, RECIPES, recipe
from easq_rec.config.schema import FeatureSchema
from easq_rec.config.schema_file import load_schema
from easq_rec.config.serialization import from_dict

DEFAULT = "quickstart"
Options = TypeVar("Options")


class UsageError(ValueError):
    """The command line cannot be carried out; the message is one readable line."""


def parse_config(argv: Sequence[str], *, prog: str) -> Config:
    """`[RECIPE] [--schema FILE] [--data DIR] [--run-dir DIR] [--overrides]` to a config.

    In place of a recipe's name may stand the config.json of another run, to repeat it in a new directory. A schema file
    takes the place of the recipe's schema; a run that began with one goes on without the file. Prints the help and
    leaves with exit code 0 on --help.

    Raises:
        UsageError: an unknown recipe, flag or value, or a schema file that is none.
    """
    argv = list(argv)
    schema_file = _take_schema(argv)
    name = argv.pop(0) if argv and not argv[0].startswith("-") else DEFAULT
    if name.endswith(".json"):
        default = _stored_config(Path(name))
        name = default.recipe
    else:
        try:
            default = recipe(name)
        except KeyError:
            known = (
                f"one of {', '.join(RECIPES)}, or BASE_VARIANT such as quickstart_ple, BASE one of {', '.join(BASES)}"
            )
            raise UsageError(f"recipe {name!r} is not known: {known}") from None
    if schema_file is not None:
        default = _with_schema(default, schema_file)
    description = (
        f"Trains recipe {name} (of: {', '.join(RECIPES)}, or BASE_VARIANT such as quickstart_ple; {prog} RECIPE --help "
        "shows the defaults of another).\n\n"
        "--data DIR names the folder with requests/ and answers/; an existing --run-dir is resumed. --schema FILE.toml "
        "takes features, tables and outcomes from a file instead of the recipe (easq-rec data inspect drafts one)."
    )
    config = parse(Config, argv, prog=f"{prog} {name}", description=description, default=default)
    return config if schema_file is not None else _as_begun(config)


def _take_schema(argv: list[str]) -> Path | None:
    """Takes --schema FILE out of the arguments: the schema is a field without a flag, which recipes choose."""
    found = [index for index, word in enumerate(argv) if word == "--schema" or word.startswith("--schema=")]
    if not found:
        return None
    if len(found) > 1:
        raise UsageError("--schema: given more than once")
    _, equals, file = argv.pop(found[0]).partition("=")
    if not equals and found[0] < len(argv) and not argv[found[0]].startswith("--"):
        file = argv.pop(found[0])
    if not file:
        raise UsageError("--schema: needs a TOML file: --schema FILE.toml")
    return Path(file)


def _with_schema(config: Config, file: Path) -> Config:
    try:
        return dataclasses.replace(config, schema=load_schema(file), schema_file=str(file))
    except ValueError as error:
        raise UsageError(str(error)) from error


def _as_begun(config: Config) -> Config:
    """With the schema that the run in `run_dir`, if there is one to be resumed, was given in a file."""
    stored = Path(config.run_dir or "") / "config.json"
    if config.run_dir is None or not stored.exists() or not stored.with_name("checkpoints").exists():
        return config
    try:
        values = json.loads(stored.read_text())
        if not values.get("schema_file"):
            return config
        schema = from_dict(FeatureSchema, values["schema"], "schema")
        return dataclasses.replace(config, schema=schema, schema_file=values["schema_file"])
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise UsageError(f"{stored} is not the config.json of a run: {error}") from error


def _stored_config(path: Path) -> Config:
    try:
        config: Config = from_dict(Config, json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not the config.json of a run: {error}") from error
    return dataclasses.replace(config, run_dir=None)


def parse(
    cls: type[Options],
    argv: Sequence[str],
    *,
    prog: str,
    description: str | None = None,
    default: Options | None = None,
) -> Options:
    """Options of one command, as the dataclass `cls`. Raises UsageError as `parse_config` does."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), _wide_terminal(helping=bool({"-h", "--help"} & set(argv))):
            return tyro.cli(
                cls,
                prog=prog,
                description=description,
                args=list(argv),
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
                **({} if default is None else {"default": default}),
            )
    except SystemExit as leaving:
        if leaving.code:
            raise UsageError(_one_line(errors.getvalue())) from None
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def run(main: Callable[[], int]) -> int:
    """Calls `main()`; a user's error becomes its message on stderr and exit code 2."""
    try:
        return main()
    except ValueError as error:
        if not is_users(error):
            raise
        print(f"easq-rec: {error}", file=sys.stderr)
        return 2


def is_users(error: BaseException) -> bool:
    """Whether an error is shown as its message alone; EASQ_TRACEBACK=1 asks for more of any."""
    return isinstance(error, ValueError) and not os.environ.get("EASQ_TRACEBACK")


@contextlib.contextmanager
def _wide_terminal(*, helping: bool) -> Iterator[None]:
    """Keeps tyro from wrapping its error messages, which are unboxed into one line."""
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


def _one_line(box: str) -> str:
    """The message out of tyro's box: what stands above its first rule."""
    lines = []
    for line in box.splitlines()[1:]:
        text = line.strip(" │|╰╯╭╮")
        if not text or set(text) <= {"─", "-"}:
            break
        lines.append(text)
    message = " ".join(lines)
    return re.sub(r"^Error parsing ([\w.-]+): ", r"\1: ", message) + " (--help lists all fields)"
