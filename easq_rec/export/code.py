"""The compiled code of a program, which weights do not change.

Code depends on what `code_key` reads. So a ranker that was trained again needs no compiler: it is new weights for the
same code.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

import torch

import easq_rec
from easq_rec import json_file
from easq_rec.config import Config
from easq_rec.cpu_flags import cpu_flags
from easq_rec.export.tables import Precision

SOURCES = (
    *("export", "kernels", "model", "data/encoding.py", "data/layout.py", "data/kinds.py", "config/schema.py"),
    *("upstream/torch_export.py", "upstream/torch_inductor.py"),
)
"""Files of the package that decide what a trace is."""


def code_key(config: Config, *, satisfaction: bool, precision: Precision, device: torch.device) -> str:
    """A name for all code that is the same, 16 hexadecimal digits."""
    read = {
        "schema": asdict(config.schema),
        "model": asdict(config.model),
        "max_history": config.data.max_history,
        "satisfaction": satisfaction,
        "precision": precision,
        "torch": torch.__version__,
        "device": device_name(device),
        "source": _source(),
    }
    return _digest(json_file.text(read, sort_keys=True, words=True).encode())


def device_name(device: torch.device) -> str:
    """What compiled code runs on: the vector instructions of the CPU, or the model of the GPU."""
    if device.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()} {_digest(' '.join(sorted(cpu_flags())).encode())}"
    return f"{device.type} {torch.cuda.get_device_name(device)}"


def _source() -> str:
    """Digest of the files that decide what a trace is."""
    folder = Path(easq_rec.__file__).parent
    files: list[Path] = []
    for name in SOURCES:
        files += [folder / name] if name.endswith(".py") else (folder / name).rglob("*.py")
    return _digest(b"\0".join(file.read_bytes() for file in sorted(files)))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
