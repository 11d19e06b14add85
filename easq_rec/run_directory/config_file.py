"""The configuration of a run in RUN_DIR/config.json, and which of its fields may change when the run is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from easq_rec import json_file
from easq_rec.config import Config
from easq_rec.config.serialization import load_json, read_json, to_dict
from easq_rec.errors import UserError
from easq_rec.run_directory.paths import RunDirectory
from easq_rec.run_directory.whole_file import replace

FREE = ("run_dir", "schema_file", "logging", "checkpoint", "evaluation", "follow")
"""Parts of a config that may differ when a run is resumed."""
FREE_FIELDS = {
    "trainer": ("stop_at_step", "device", "threads", "pin_cores", "timeout_s", "on_not_finite"),
    # Data may have moved: a checkpoint identifies them by a fingerprint.
    "data": ("path", "workers", "prefetch", "on_bad_rows"),
    # A resumed run uses the plan of its checkpoint.
    "sharding": ("plan",),
}
"""Fields of the other parts that may differ."""


def load_config(run_dir: Path) -> Config:
    """The config of a run.

    Raises:
        UserError: the directory holds none, or it cannot be read.
    """
    path = RunDirectory(run_dir).config
    if not path.exists():
        raise UserError(f"--run {run_dir}: no {path.name} in it; name a directory that `easq-rec train` wrote")
    return load_json(Config, path)


def read_values(run_dir: Path) -> dict[str, Any]:
    """The config of a run, which another version may have written, as plain values.

    Raises:
        UserError: the directory holds none, or it cannot be read.
    """
    path = RunDirectory(run_dir).config
    if not path.exists():
        raise UserError(f"{run_dir}: no {path.name} in it; name a directory that `easq-rec train` wrote")
    values: dict[str, Any] = read_json(path, f"the {path.name} of a run")
    try:
        # A config.json of something else lacks them.
        values["recipe"], values["trainer"]["batch_size"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not the {path.name} of a run: {error!r}") from error
    return values


def write_config(config: Config, run_dir: Path) -> None:
    """Writes the config under a temporary name and publishes it by a rename."""
    run_dir.mkdir(parents=True, exist_ok=True)
    path = RunDirectory(run_dir).config
    replace(path, json_file.text(_json_values(config), indent=2) + "\n")


def check_resumable(config: Config, run_dir: Path) -> None:
    """
    Raises:
        UserError: the directory holds a run with checkpoints and another configuration. Names every difference.
    """
    paths = RunDirectory(run_dir)
    if not paths.config.exists() or not paths.checkpoints.exists():
        return
    require_same(read_values(run_dir), config, str(run_dir), instead="another --run-dir")


def require_same(values: dict[str, Any], config: Config, where: str, *, instead: str = "another place") -> None:
    """
    Args:
        values: the config of a run, as its file has it.
        where: in which place, for the message.
        instead: what else may be given.

    Raises:
        UserError: the config differs in what must not change. Names every difference.
    """
    differences = _differences(_fixed(values), _fixed(_json_values(config)))
    if differences:
        raise UserError(
            f"{where} holds a run with another configuration: {'; '.join(differences)}. "
            f"Give the same values to resume it, or {instead}"
        )


def _json_values(config: Config) -> dict[str, object]:
    """The config as `json.loads` returns it: tuples are lists."""
    values: dict[str, object] = json.loads(json_file.text(to_dict(config)))
    return values


def _fixed(values: dict[str, object]) -> dict[str, object]:
    """The part of a config that must not change when a run is resumed."""
    kept = {name: value for name, value in values.items() if name not in FREE}
    for part, free in FREE_FIELDS.items():
        fields = kept[part]
        assert isinstance(fields, dict)
        kept[part] = {name: value for name, value in fields.items() if name not in free}
    return kept


def _differences(stored: object, wanted: object, where: str = "") -> list[str]:
    if isinstance(stored, dict) and isinstance(wanted, dict):
        names = sorted(set(stored) | set(wanted))
        return [
            line
            for name in names
            for line in _differences(stored.get(name), wanted.get(name), f"{where}.{name}" if where else name)
        ]
    names, others = _names(stored), _names(wanted)
    if names and names == others:
        # Tables and features. Their order is the same, too.
        assert isinstance(stored, list) and isinstance(wanted, list)
        pairs = zip(names, stored, wanted, strict=True)
        return [line for name, one, two in pairs for line in _differences(one, two, f"{where}.{name}")]
    if names and others:
        return [f"{where} is {', '.join(names)} there, {', '.join(others)} here"]
    return [] if stored == wanted else [f"{where} is {stored!r} there, {wanted!r} here"]


def _names(values: object) -> list[str]:
    """Names of the entries of a list of tables, features or outcomes; of anything else, none."""
    entries = values if isinstance(values, list) else []
    return [entry["name"] for entry in entries if isinstance(entry, dict) and "name" in entry]
