"""manifest.json of a package: what it is, what it was made of, and what its files must be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from easq_rec import json_file
from easq_rec.errors import UserError
from easq_rec.export.inputs import Input
from easq_rec.export.versions import MANIFEST

FORMAT = 1
DENSE, GOLDEN, GRAPH = "dense.safetensors", "golden.arrow", "program.pt2"
CODE, TABLES = "code", "tables"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a package says of itself."""

    format: int = FORMAT
    run: str
    """Directory of the run, as it was named."""
    recipe: str
    step: int
    """Training step of the checkpoint."""
    checkpoint: str
    """SHA-256 of the checkpoint's checksums."""
    created: str
    """UTC, ISO 8601."""
    versions: Mapping[str, Any]
    item: str
    """Candidate column that identifies the item."""
    inputs: tuple[Input, ...]
    bounds: Mapping[str, int]
    """Rows of the smallest dense table that the ids of an input index: ids are 0 or more, and less than this."""
    max_history: int
    """Entries of a history that count, the last ones."""
    precision: str
    """Of the tables."""
    fuse: float | None
    """Weight of the satisfaction score that the export was told; None: that of the run."""
    code: str
    """Key of the compiled code."""
    device: str
    """What the code was compiled for."""
    constants: Mapping[str, str]
    """File of each constant of the code, by name."""
    gate: Mapping[str, Any]
    """How the package was compared with the trained ranker."""
    stream: Mapping[str, Any] | None = None
    """Of a run that trains continuously: its clock, and the metrics of the last hour; None: of a run on a fixed log."""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Size and SHA-256 of each file but this one, by path."""

    def write(self, folder: Path) -> None:
        """Writes manifest.json."""
        json_file.write(folder / MANIFEST, asdict(self))

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Raises UserError: the folder is not a package, or one of another format."""
        try:
            values = json.loads((folder / MANIFEST).read_text())
            found = values["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder}: is no package: {MANIFEST} is missing or torn ({error}): give a directory that "
                "`easq-rec export` wrote"
            ) from error
        if found != FORMAT:
            raise UserError(f"{folder}: is a package of format {found}, not {FORMAT}: export the run again")
        try:
            values["inputs"] = tuple(Input(**one) for one in values["inputs"])
            return Manifest(**values)
        except (KeyError, TypeError) as error:
            raise UserError(f"{folder}: {MANIFEST} is damaged ({error}): export the run again") from error
