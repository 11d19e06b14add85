"""The command line of a run: a recipe's name, then overrides of its numbers. The only module that calls tyro."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from easq_rec.config import Config
from easq_rec.config.recipes import BASES, RECIPES, recipe, schema_for_world
from easq_rec.config.schema import FeatureSchema
from easq_rec.config.schema_file import load_schema
from easq_rec.config.serialization import from_dict, load_json, read_json
from easq_rec.errors import UserError
from easq_rec.upstream.tyro_errors import one_line, unwrapped

DEFAULT = "quickstart"
Options = TypeVar("Options")


def parse_config(argv: Sequence[str], *, prog: str) -> Config:
    """Parses `[RECIPE] [--schema FILE] [--data DIR] [--run-dir DIR] [--overrides]`.

    The config.json of another run, given instead of a recipe's name, repeats that run in a new directory. The schema
    file replaces the recipe's schema; a run that started with one resumes without the file. --help prints the help and
    exits with code 0.

    Raises:
        UserError: the recipe or a flag is unknown, or a value or the schema file is invalid.
    """
    argv = list(argv)
    schema_file = _take_schema(argv)
    name = argv.pop(0) if argv and not argv[0].startswith("-") else DEFAULT
    if name.endswith(".json"):
        default = dataclasses.replace(load_json(Config, Path(name)), run_dir=None)
        name = default.recipe
    else:
        default = find_recipe(name)
    if schema_file is not None:
        default = dataclasses.replace(default, schema=load_schema(schema_file), schema_file=str(schema_file))
    description = (
        f"Trains recipe {name} (of: {', '.join(RECIPES)}, or BASE_VARIANT such as quickstart_ple; {prog} RECIPE --help "
        "shows the defaults).\n\n"
        "--data DIR is the folder with requests/ and answers/; an existing --run-dir is resumed. --schema FILE.toml "
        "reads features, tables and outcomes from a file instead of the recipe (easq-rec data inspect drafts one)."
    )
    # The recipe chooses the structure: a union of dataclasses keeps its member. Booleans take a value like numbers, as
    # in `--data.shuffle False`.
    markers = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    config = parse(Config, argv, prog=f"{prog} {name}", markers=markers, description=description, default=default)
    if schema_file is not None:
        return config
    schema = config.schema
    if config.world.version != default.world.version and default.schema_file is None:
        schema = schema_for_world(schema, config.world.version)
    return _as_begun(dataclasses.replace(config, schema=schema))


def _take_schema(argv: list[str]) -> Path | None:
    """Removes --schema FILE from the arguments: flags and their defaults depend on the schema."""
    found = [index for index, word in enumerate(argv) if word == "--schema" or word.startswith("--schema=")]
    if not found:
        return None
    if len(found) > 1:
        raise UserError("--schema: given more than once")
    _, equals, file = argv.pop(found[0]).partition("=")
    if not equals and found[0] < len(argv) and not argv[found[0]].startswith("--"):
        file = argv.pop(found[0])
    if not file:
        raise UserError("--schema: needs a TOML file: --schema FILE.toml")
    return Path(file)


def find_recipe(name: str) -> Config:
    """The config of a recipe. Raises UserError that lists the known names."""
    try:
        return recipe(name)
    except KeyError:
        combined = f"BASE_VARIANT such as quickstart_ple or quickstart_ple_counts, BASE one of {', '.join(BASES)}"
        known = f"one of {', '.join(RECIPES)}, or {combined}"
        raise UserError(f"unknown recipe {name!r}: {known}") from None


def _as_begun(config: Config) -> Config:
    """The config with the schema of the run in `run_dir`, if that run exists and started with a schema file."""
    stored = Path(config.run_dir or "") / "config.json"
    if config.run_dir is None or not stored.exists() or not stored.with_name("checkpoints").exists():
        return config
    what = "the config.json of a run"
    values = read_json(stored, what)
    if not isinstance(values, dict):
        raise UserError(f"{stored} is not {what}: expected an object")
    if not values.get("schema_file"):
        return config
    schema = from_dict(FeatureSchema, values.get("schema"), f"{stored} is not {what}: its schema")
    return dataclasses.replace(config, schema=schema, schema_file=values["schema_file"])


# ---------------------------------------------------------------------------------------------------------------------
# tyro


def parse(
    cls: Any,
    argv: Sequence[str],
    *,
    prog: str,
    markers: Sequence[Any],
    description: str | None = None,
    default: Options | None = None,
) -> Any:
    """Parses a command line to `cls`, a dataclass or a union of dataclasses.

    --help prints the help and exits with code 0.

    Args:
        markers: markers of `tyro.conf` for all fields.

    Raises:
        UserError: an option is missing or unknown, or its value is not allowed.
    """
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), unwrapped(helping=bool({"-h", "--help"} & set(argv))):
            return tyro.cli(
                cls,
                prog=prog,
                description=description,
                args=list(argv),
                config=tuple(markers),
                **({} if default is None else {"default": default}),
            )
    except SystemExit as leaving:
        if leaving.code:
            raise UserError(f"{one_line(errors.getvalue())} (--help lists all fields)") from None
        raise
