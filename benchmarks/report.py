"""Common output of all benchmarks: the result as one JSON line, and the hardware."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch

from easq_rec.doctor import core_versions


def hardware() -> dict[str, object]:
    """Description of the hardware."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {"cpu": model, "threads": torch.get_num_threads(), **core_versions()}


def publish(result: dict[str, object], out: Path | None) -> None:
    """Prints a result, and writes it to a file if `out` is given."""
    line = json.dumps(result)
    print(line)
    if out is not None:
        out.write_text(line + "\n")
