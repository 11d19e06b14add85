"""What every benchmark says in the same way: its result as one JSON line, and what it was measured on."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch

from easq_rec.doctor import core_versions


def hardware() -> dict[str, object]:
    """What the figures were measured on."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {"cpu": model, "threads": torch.get_num_threads(), **core_versions()}


def publish(result: dict[str, object], out: Path | None) -> None:
    """Prints a result, and writes it to a file where one is named."""
    line = json.dumps(result)
    print(line)
    if out is not None:
        out.write_text(line + "\n")
