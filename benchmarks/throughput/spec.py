"""What one launch of ranks is asked to do, as a file that all of its ranks read."""

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
    """With the data's directory, and the requests per rank of this launch."""
    pipelines: tuple[str, ...]
    """Take turns window by window; the first is taken apart into phases."""
    apart: bool
    """Every rank is a run of its own: what the machine does with so many busy processes."""
    warm_up: int
    """Steps of each pipeline before anything is measured."""
    windows: int
    """Of each pipeline."""
    steps: int
    """Of a window."""
    trace: bool
    """Whether rank 0 writes a Chrome trace of some steps."""
    ceiling_s: float
    """Seconds for each of the machine's ceilings."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({**asdict(self), "config": to_dict(self.config)}))

    @classmethod
    def read(cls, path: Path) -> Spec:
        values = json.loads(path.read_text())
        config = from_dict(Config, values.pop("config"))
        return cls(config=config, pipelines=tuple(values.pop("pipelines")), **values)
