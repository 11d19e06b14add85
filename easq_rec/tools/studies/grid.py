"""Cells: the training runs of a study."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from easq_rec import json_file
from easq_rec.config import Config
from easq_rec.config.serialization import to_dict
from easq_rec.tools.studies.partner import Addition

BASE = "main_only"
"""The variant with which all others are compared: the ranker that learns only from engagement."""
RANDOM, SATISFYING, ENGAGING = "random", "oracle of satisfaction", "oracle of engagement"
ANCHORS = (RANDOM, SATISFYING, ENGAGING)
"""Variants that are not trained: a random order, the order by true satisfaction, and that by the expected engagement
utility. Tables have them; figures do not, since an oracle's distance would squeeze all other differences."""
TRAIN = "easq_rec.tools.studies.cell"
"""Program of a cell that trains and evaluates."""
BY_USER = "by_user"
"""Argument of that program: the cell also keeps what every held-out user adds to its metrics."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of a study."""

    variant: str
    """What is trained."""
    setting: str = ""
    """Property that distinguishes its world from others of the same seed, for example the answer rate."""
    series: str = ""
    """Curve to which the cell belongs; empty: none."""
    x: float | None = None
    """Position on the curve."""
    fuse: tuple[float, ...] = ()
    """Weights of the reference score at which fused rankings are also evaluated."""
    additions: tuple[Addition, ...] = ()
    """Other scores with which rankings are also evaluated."""
    config: Config

    keep: tuple[str, ...] = ()
    """Names of metrics that are stored by step."""
    program: str = TRAIN
    """Module that is run with the path of the config; it trains and writes RUN_DIR/metrics.jsonl."""
    arguments: tuple[str, ...] = ()
    """Other arguments of the module."""

    @property
    def label(self) -> str:
        """Variant and setting: the cells of all seeds with one label form one row of the result."""
        return f"{self.variant} {self.setting}".strip()

    @property
    def world_seed(self) -> int | None:
        """Seed of the world; None for a cell on a data set."""
        return self.config.world.seed if self.config.data.path is None else None

    @property
    def training_seed(self) -> int:
        return self.config.trainer.seed

    @property
    def cpus(self) -> int:
        """Number of CPUs that it uses."""
        return self.config.trainer.threads or 1

    @property
    def block(self) -> str:
        """What a cell shares with its base: the world's seed, or the training seed on a data set."""
        return f"seed {self.training_seed}" if self.world_seed is None else f"world {self.world_seed}"

    # The key is cached, since a comparison reads it thousands of times.
    @functools.cached_property
    def pair(self) -> str:
        """Pairing key, equal for cells on the same data: the block and the other properties of the world."""
        world = "" if self.world_seed is None else digest_of(self.config.world.requests_identity)
        return f"{self.block} {world}".strip()

    @property
    def name(self) -> str:
        """Name of the cell's files, unique in a study."""
        block = self.block
        if self.world_seed not in (None, self.training_seed):
            block += f" seed {self.training_seed}"
        return re.sub(r"[^\w.=-]+", "_", f"{self.label}--{block}")

    @property
    def values(self) -> dict[str, Any]:
        """The config as JSON values, without what no result of a study depends on: the run directory, copies of
        checkpoints, continuous training, and options that came after results were published, where they do nothing.
        """
        values: dict[str, Any] = json.loads(json_file.text(to_dict(dataclasses.replace(self.config, run_dir=None))))
        del values["follow"], values["checkpoint"]["copy_to"]
        for table in values["schema"]["tables"]:
            if table["id_space"] != "admitted":
                del table["admit_after"]
        return values

    @property
    def digest(self) -> str:
        """Digest of the config, the program and its arguments: cells with the same digest give the same result."""
        additions = [str(addition) for addition in self.additions]
        lists = (("fuse", self.fuse), ("additions", additions), ("keep", self.keep), ("arguments", self.arguments))
        wanted: dict[str, Any] = {name: list(value) for name, value in lists if value}
        if self.program != TRAIN:
            wanted["program"] = self.program
        return digest_of(self.values | wanted)


def grid(
    variants: Mapping[str, Config],
    seeds: Sequence[int],
    *,
    curve: Mapping[str, tuple[str, float]] | None = None,
    fuse: Mapping[str, tuple[float, ...]] | None = None,
    additions: Mapping[str, tuple[Addition, ...]] | None = None,
) -> list[Cell]:
    """Every variant on the world of every seed, ordered by seed, so that an interrupted study has complete worlds.

    Args:
        curve: (series, x) of the variants that are points of curves.
        fuse: weights of fused serving, by variant.
        additions: other scores that are added to the policy score, by variant.
    """
    cells = []
    for seed in seeds:
        for variant, config in variants.items():
            series, x = (curve or {}).get(variant, ("", None))
            cells.append(
                Cell(
                    variant=variant,
                    config=seeded(config, seed),
                    series=series,
                    x=x,
                    fuse=(fuse or {}).get(variant, ()),
                    additions=(additions or {}).get(variant, ()),
                )
            )
    return cells


def seeded(config: Config, seed: int) -> Config:
    """The config with the world and the initial weights of this seed."""
    return dataclasses.replace(
        config,
        world=dataclasses.replace(config.world, seed=seed),
        trainer=dataclasses.replace(config.trainer, seed=seed),
    )


def check_names(cells: Iterable[Cell]) -> None:
    """Asserts that names are unique: cells with the same name would share results."""
    twice = [name for name, count in Counter(cell.name for cell in cells).items() if count > 1]
    assert not twice, twice


def differences(stored: Any, wanted: Any, where: str = "") -> list[str]:
    """Differences between the values of two configs, as `losses.dense.weight is 0.3 there, 0.2 here`."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        return [
            line
            for name in sorted(set(stored) | set(wanted))
            for line in differences(stored.get(name), wanted.get(name), f"{where}.{name}" if where else name)
        ]
    return [] if stored == wanted else [f"{where} is {_short(stored)} there, {_short(wanted)} here"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def digest_of(values: Mapping[str, Any]) -> str:
    """16 hexadecimal digits, equal for equal JSON values."""
    return hashlib.sha256(json_file.text(values, sort_keys=True).encode()).hexdigest()[:16]
