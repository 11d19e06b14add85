"""RUN_DIR/config.json: the configuration of a run, and which of its fields may change when the run is resumed."""

from __future__ import annotations

import json
from pathlib import Path

from easq_rec.config import Config
from easq_rec.config.serialization import from_dict, to_dict

NAME = "config.json"
FREE = ("run_dir", "schema_file", "logging", "checkpoint", "evaluation")
"""Parts of a config that may differ when a run is resumed; and fields of others:"""
FREE_FIELDS = {
    "trainer": ("stop_at_step", "device", "threads", "pin_cores", "timeout_s", "on_not_finite"),
    # Data may have moved: a checkpoint knows them by their fingerprint.
    "data": ("path", "workers", "prefetch", "on_bad_rows"),
    # A resumed run keeps to the plan of its checkpoint.
    "sharding": ("plan",),
}


def load_config(run_dir: Path) -> Config:
    """The config of a run. Raises ValueError where the directory holds none."""
    path = run_dir / NAME
    if not path.exists():
        raise ValueError(f"--run {run_dir}: no config.json in it; name a directory that `easq-rec train` wrote")
    config: Config = from_dict(Config, json.loads(path.read_text()))
    return config


def write_config(config: Config, run_dir: Path) -> None:
    """Writes config.json under a temporary name and publishes it by a rename."""
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / NAME
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(_json_values(config), indent=2) + "\n")
    partial.rename(path)


def check_resumable(config: Config, run_dir: Path) -> None:
    """
    Raises:
        ValueError: the directory holds a run with checkpoints and another configuration. Names every difference.
    """
    path = run_dir / NAME
    if not path.exists() or not (run_dir / "checkpoints").exists():
        return
    differences = _differences(_fixed(json.loads(path.read_text())), _fixed(_json_values(config)))
    if differences:
        raise ValueError(
            f"{run_dir} holds a run with another configuration: {'; '.join(differences)}. "
            "Give the same values to resume it, or another --run-dir"
        )


def _json_values(config: Config) -> dict[str, object]:
    """The config as `json.loads` would return it: tuples are lists."""
    values: dict[str, object] = json.loads(json.dumps(to_dict(config)))
    return values


def _fixed(values: dict[str, object]) -> dict[str, object]:
    """The part of a config that must stay as it is when a run is resumed."""
    kept = {name: value for name, value in values.items() if name not in FREE}
    for part, free in FREE_FIELDS.items():
        fields = kept[part]
        assert isinstance(fields, dict)
        # A run from before a field has what is usual.
        usual = json.loads(json.dumps(to_dict(Config.__dataclass_fields__[part].default)))
        kept[part] = {name: value for name, value in {**usual, **fields}.items() if name not in free}
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
        # Tables and features, whose order matters as well.
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
