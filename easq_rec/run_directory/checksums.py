"""checksums.json of a checkpoint: size and SHA-256 of each of its files.

Disks and file systems fail. Every file is compared with its checksum before anything is loaded from a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easq_rec import json_file
from easq_rec.run_directory.paths import CheckpointDirectory


def checksums(checkpoint: CheckpointDirectory, *, rank: int) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of the files that this rank has written, by file name."""
    return {file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in checkpoint.files_of(rank)}


def write_checksums(checkpoint: CheckpointDirectory, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the checksums of all ranks."""
    checkpoint.checksums.write_text(json_file.text({"files": found}, indent=1) + "\n")


def digest_of(checkpoint: CheckpointDirectory) -> str:
    """SHA-256 of the checksums: two checkpoints have the same one only if all of their files are equal."""
    return sha256_of(checkpoint.checksums)


def damage(checkpoint: CheckpointDirectory, *, share: int = 0, shares: int = 1) -> str | None:
    """What is wrong with the files of a checkpoint; None if every file matches its checksum.

    Args:
        share: which part of the files to read, of `shares`. Ranks divide the files among themselves.
    """
    try:
        files = json.loads(checkpoint.checksums.read_text())["files"]
        expected = [(name, int(files[name]["bytes"]), str(files[name]["sha256"])) for name in sorted(files)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{checkpoint.checksums.name} is missing or torn"
    for name, size, digest in expected[share::shares]:
        file = checkpoint.path / name
        try:
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size:,} bytes, not {size:,}"
            if sha256_of(file) != digest:
                return f"{name} does not match its checksum"
        except OSError as error:
            return f"{name}: {error.strerror or error}"
    return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
