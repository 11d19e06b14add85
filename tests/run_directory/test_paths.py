"""The names in a run directory. Only one module contains them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from easq_rec.evaluation import evaluation_file
from easq_rec.run_directory.paths import CheckpointDirectory, RunDirectory, damaged, published

PACKAGE = Path(__file__).parents[2] / "easq_rec"
FILES = {
    *("config.json", "metrics.jsonl", "plan.json", "progress.json", "checksums.json"),
    *("report.html", "fused.json", "evaluation.json", "evaluation.parquet", "calibration.json"),
}
BELOW = {"config/command_line.py": {"config.json", "checkpoints"}}
"""Modules in a lower layer cannot import `run_directory`. This one finds the schema of the run to be resumed."""


def spelled(source: str) -> set[str]:
    """The names that a module contains: those of files anywhere, that of the checkpoint folder as part of a path."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=str(name)) if name in FILES:
                found.add(name)
            case ast.BinOp(op=ast.Div(), right=ast.Constant(value="checkpoints")):
                found.add("checkpoints")
            case ast.Call(func=ast.Attribute(attr="with_name"), args=[ast.Constant(value="checkpoints")]):
                found.add("checkpoints")
    return found


def test_only_one_module_contains_the_names() -> None:
    files = {str(file.relative_to(PACKAGE)): file.read_text() for file in PACKAGE.rglob("*.py")}
    assert spelled(files.pop("run_directory/paths.py")) == {*FILES, "checkpoints"} - {
        *("evaluation.json", "evaluation.parquet"),
    }, "these two names are made of a stem and a suffix"
    found = {place: names for place, source in files.items() if (names := spelled(source))}
    assert found == BELOW


def test_the_names_are_those_of_the_documentation(tmp_path: Path) -> None:
    """Users and their scripts rely on these names."""
    run = RunDirectory(tmp_path)
    found = [
        *(run.config, run.metrics, run.plan, run.log(3), run.checkpoint(25).path, run.tensorboard),
        *(run.not_finite, run.quarantine, run.evaluation, run.evaluation_table, run.report),
    ]
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        *("config.json", "metrics.jsonl", "plan.json", "logs/rank_3.jsonl", "checkpoints/step_00000025", "tensorboard"),
        *("not_finite", "quarantine", "evaluation.json", "evaluation.parquet", "report.html"),
    ]
    assert run.evaluation_table.name == f"{evaluation_file.NAME}.parquet"


def test_only_complete_checkpoints_are_published(tmp_path: Path) -> None:
    others = (".step_00000011.partial", "step_00000009.damaged", "step_1", "other")
    for name in ("step_00000002", "step_00000010", *others):
        (tmp_path / name).mkdir()
    assert [checkpoint.step for checkpoint in published(tmp_path)] == [2, 10]
    assert [path.name for path in damaged(tmp_path)] == ["step_00000009.damaged"]
    assert published(tmp_path / "nowhere") == []


@pytest.mark.parametrize("rank", [0, 1, 11])
def test_every_file_of_a_checkpoint_belongs_to_one_rank(tmp_path: Path, rank: int) -> None:
    shared = {".metadata", "plan.json", "progress.json"}
    owned = {owner: {f"__{owner}_0.distcp", f"__{owner}_1.distcp", f"rng_{owner}.npy"} for owner in (0, 1, 11)}
    for name in shared.union(*owned.values()):
        (tmp_path / name).touch()
    found = {file.name for file in CheckpointDirectory(tmp_path).files_of(rank)}
    assert found == owned[rank] | (shared if rank == 0 else set())
