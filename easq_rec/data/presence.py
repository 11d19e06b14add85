"""Whether the folders that a command names are there. Loads without torch, for which such an error must not wait."""

from __future__ import annotations

from pathlib import Path

from easq_rec.config import Config
from easq_rec.errors import UserError

CONVERTED = {"movielens": "ML100K", "kuairand": "KUAIRAND"}
"""Data sets with a converter: first word of the recipe's name, and the converter's input."""


def require_folder(option: str, location: Path | str) -> None:
    """Checks a folder of this machine. A URL passes: its file system is asked later.

    Args:
        option: what names the folder, for the message.

    Raises:
        UserError: it does not exist, or is a file.
    """
    if is_url(location):
        return
    if not Path(location).exists():
        raise UserError(f"{option} {location}: no such directory")
    if not Path(location).is_dir():
        raise UserError(f"{option} {location}: a file, not a directory; name the folder with requests/ and answers/")


def require_training_data(config: Config) -> None:
    """Checks the folders that a run reads.

    Raises:
        UserError: the data, or one of the two datasets that the recipe needs, are missing.
    """
    if config.data.path is None:
        data_set = config.recipe.split("_")[0]
        if data_set in CONVERTED:
            command = f"python datasets/{data_set}/prepare.py --raw {CONVERTED[data_set]} --out DIR"
            raise UserError(f"recipe {config.recipe!r} needs --data DIR: {command}")
        return
    require_folder("--data", config.data.path)
    if is_url(config.data.path):
        return
    if not Path(config.data.path, "requests").is_dir():
        raise no_requests(config.data.path)
    if config.reads_answers and not Path(config.data.path, "answers").is_dir():
        raise no_answers(config, config.data.path)


def no_requests(directory: Path | str) -> UserError:
    """The error about data without requests."""
    return UserError(f"--data {directory}: it has no folder requests/ (see docs/reference/data-contract.md)")


def no_answers(config: Config, directory: Path | str) -> UserError:
    """The error about data without answers, for a recipe that reads them."""
    return UserError(
        f"no folder answers/ in {directory}: recipe {config.recipe!r} learns from answers; without a questionnaire, "
        "train a variant that reads no answers, such as main_only or without_any_answers"
    )


def is_url(location: Path | str) -> bool:
    """Whether a location is on a file system that must be asked by its own protocol."""
    return "://" in str(location)
