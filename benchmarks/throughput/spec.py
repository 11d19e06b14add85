"""The specification of one launch, as a file that all of its ranks read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from easq_rec.config import Config
from easq_rec.config.serialization import from_dict, to_dict


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One launch."""

    config: Config
    """The config with the data's directory and this launch's requests per rank."""
    pipelines: tuple[str, ...]
    """Pipelines that alternate by window; the first is also measured by phase."""
    independent: bool
    """Every rank is an independent run: measures the machine with this number of busy processes."""
    warm_up: int
    """Steps of each pipeline before anything is measured."""
    windows: int
    """Number of windows of each pipeline."""
    steps: int
    """Number of steps in a window."""
    trace: bool
    """Whether rank 0 writes a Chrome trace of some steps."""
    ceiling_s: float
    """Seconds for each measurement of the machine's limits."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({**asdict(self), "config": to_dict(self.config)}))

    @classmethod
    def read(cls, path: Path) -> Spec:
        values = json.loads(path.read_text())
        config = from_dict(Config, values.pop("config"))
        return cls(config=config, pipelines=tuple(values.pop("pipelines")), **values)
