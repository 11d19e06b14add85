"""`easq-rec export`: a trained run as a package that is served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from easq_rec import doctor, outputs
from easq_rec.config.schema import require


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write a trained run as a package: compiled code from raw columns to scores, and weights that are mapped.

    Writes OUTPUT/VERSION, compares it with the ranker on held-out requests, and names it in OUTPUT/current.json. If the
    comparison fails, nothing is published. A second export of the same schema and model needs no compiler."""

    run_dir: Annotated[Path, tyro.conf.arg(name="run")]
    """Run directory."""
    output: Path
    """Directory of packages. Each export adds a version."""
    tables: Literal["fp32", "fp16", "int8"] = "fp32"
    """Precision of the embedding tables."""
    fuse: float | None = None
    """Weight of the satisfaction score in the served score, in place of the run's model.satisfaction_weight; None: that
    weight."""
    best: bool = False
    """Use the checkpoint with the best evaluation during training, not the newest."""
    copy_to: str | None = None
    """URL of a folder in an object store, as s3://bucket/packages, into which the package is copied; servers read it
    there. None: it stays in OUTPUT."""
    data: str | None = None
    """Directory or URL with requests/, of which the held-out ones are compared; None: the one that the run was trained
    on."""

    def run(self) -> int:
        doctor.require_compatible()
        from easq_rec.serving import preflight

        config = preflight.check_run(self.run_dir, best=self.best, fuse=self.fuse)
        preflight.check_data(config, self.data)
        if self.copy_to is not None:
            require("://" in self.copy_to, "--copy-to", self.copy_to, "a URL, as s3://bucket/packages")
        outputs.check_folder("--output", self.output, inputs=[self.run_dir])
        from easq_rec.export.package_copies import PackageCopies
        from easq_rec.serving.export import export

        with outputs.writing("--output", self.output):
            found = export(
                config,
                self.run_dir,
                self.output,
                precision=self.tables,
                fuse=self.fuse,
                best=self.best,
                data=self.data,
            )
        copied = ""
        if self.copy_to is not None:
            copies = PackageCopies(self.copy_to)
            copies.upload(self.output)
            copied = f", copied to {copies}"
        gate = found.gate
        print(
            f"{found.folder}: {'compiled' if found.compiled else 'the code of an earlier package fits'}{copied}\n"
            f"  {gate.requests:,} held-out requests, {gate.candidates:,} candidates: largest difference of a score "
            f"{gate.difference:.1e}, pairs in the ranker's order {gate.pair_order:.3%}, engagement NDCG@10 "
            f"{gate.ndcg:+.5f}; a request that is scored alone differs by {gate.alone:.1e} at most"
        )
        return 0
