"""`easq-rec export`: a run becomes a package, which scores as the run does and refuses what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from easq_rec.errors import UserError
from easq_rec.export.manifest import Manifest
from easq_rec.export.package import Package, read_golden, sums
from easq_rec.export.versions import current_of

Train = Callable[..., subprocess.CompletedProcess[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.integration
def test_a_package_scores_as_the_run(exported: tuple[Path, Path], call: Call, world: Path, tmp_path: Path) -> None:
    run, packages = exported
    for name, how in (("run", ("--run", run)), ("package", ("--export", packages))):
        call("score", *how, "--input", world, "--output", tmp_path / f"{name}.parquet")
    expected, found = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("run", "package"))
    assert found.schema == expected.schema and found["request_id"] == expected["request_id"]
    np.testing.assert_allclose(found["score"].to_numpy(), expected["score"].to_numpy(), atol=1e-5)
    assert (found["rank"].to_numpy() == expected["rank"].to_numpy()).mean() > 0.999
    # Several processes give the same rows in the same order; the best of each request are the first of them.
    several = ("--export", packages, "--processes", "2", "--top", "3")
    for how in (several, ("--run", run, "--top", "3")):
        call("score", *how, "--input", world, "--output", tmp_path / "top.parquet")
        top, best = pq.read_table(tmp_path / "top.parquet"), found.filter(pc.less_equal(found["rank"], 3))
        assert top["request_id"] == best["request_id"] and top["rank"] == best["rank"]
        np.testing.assert_allclose(top["score"].to_numpy(), best["score"].to_numpy(), atol=1e-5)


@pytest.mark.integration
def test_a_package_says_what_it_is(exported: tuple[Path, Path]) -> None:
    run, packages = exported
    folder = current_of(packages)
    manifest = Manifest.read(folder)
    assert (manifest.run, manifest.step, manifest.precision) == (str(run), 20, "fp32")
    assert manifest.gate["pair_order"] == 1 and manifest.gate["difference"] < 1e-5
    assert manifest.bounds["user.region"] > 0 and "candidates.video_id" not in manifest.bounds
    assert set(manifest.files) == {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()} - {
        "manifest.json"
    }
    # The tables are mapped. Other processes share their pages.
    assert (folder / "tables" / "video.row.npy").stat().st_mode & 0o044
    # Everything that a server has not checked lies in the golden requests.
    columns, scores = read_golden(manifest.inputs, folder)
    named = {one.name: column for one, column in zip(manifest.inputs, columns, strict=True)}
    lengths = named["lengths:history"], named["lengths:candidates"]
    assert lengths[0][0] == 0 and lengths[1][1] == 1 and len(scores) == lengths[1].sum()
    assert named["candidates.video_id"].min() == -(2**63)


@pytest.mark.integration
def test_a_retrained_run_is_new_weights_for_the_same_code(
    exported: tuple[Path, Path], call: Call, train: Train, tmp_path: Path
) -> None:
    run, packages = exported
    schema = ("--schema", str(run.parent / "schema.toml"))
    # All weights differ, also those of few numbers.
    train(tmp_path / "run", *schema, "--trainer.max-steps", "10", "--trainer.seed", "5", "--optim.dense-lr", "0.02")
    shutil.copytree(packages, tmp_path / "packages")
    done = call("export", "--run", tmp_path / "run", "--output", tmp_path / "packages")
    assert "the code of an earlier package fits" in done.stdout
    old, new = Package(current_of(packages)), Package(current_of(tmp_path / "packages"))
    assert old.manifest.code == new.manifest.code and new.manifest.step == 10
    columns, scores = read_golden(old.manifest.inputs, old.folder)
    assert torch.equal(old(columns), scores) and (new(columns) - scores).abs().max() > 1e-3


def damaged(packages: Path, tmp_path: Path, damage: Callable[[Path], object]) -> Path:
    folder = tmp_path / "package"
    shutil.copytree(current_of(packages), folder)
    damage(folder)
    return folder


def _changed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(bytes(content))


def _shortened(folder: Path) -> None:
    """A table without its last row, and checksums that fit."""
    table = folder / "tables/video.row.npy"
    np.save(table, np.load(table)[:-1])
    _with(folder, files=sums(folder))


def _with(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**values, **changes}))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), r"is no package: manifest.json is missing or torn"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"is no package: manifest.json is missing or torn"),
        (lambda folder: _with(folder, format=2), r"is a package of format 2, not 1"),
        (lambda folder: _with(folder, speed=9), r"manifest.json is damaged"),
        (lambda folder: _with(folder, device="cpu SPARC"), r"was compiled for cpu SPARC, and this is cpu"),
        (lambda folder: (folder / "tables/video.row.npy").unlink(), r"tables/video.row.npy: is missing"),
        (lambda folder: (folder / "dense.safetensors").write_bytes(b""), r"dense.safetensors: has 0 bytes, not"),
        (lambda folder: _changed(folder / "tables/user.row.npy"), r"user.row.npy: does not match its checksum"),
        (lambda folder: _shortened(folder), r"tables.*video.*is torch.float32\[\d+, \d+\], and the code needs"),
        (lambda folder: _changed(next((folder / "code").iterdir())), r"\.pt2: does not match its checksum"),
    ],
)
def test_a_damaged_package_is_refused_by_name(
    exported: tuple[Path, Path], tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Package(damaged(exported[1], tmp_path, damage))


@pytest.mark.integration
def test_a_package_that_fails_its_gate_is_not_published(
    exported: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from easq_rec.export import gate
    from easq_rec.run_directory.config_file import load_config
    from easq_rec.serving.export import export

    run, packages = exported
    shutil.copytree(packages, tmp_path / "packages")
    strict = {"fp32": gate.GateLimits(difference=0.0, pair_order=1.0, ndcg=0.0)}
    monkeypatch.setattr(gate, "LIMITS", strict)
    before = sorted(path.name for path in (tmp_path / "packages").iterdir())
    with pytest.raises(UserError, match="does not rank"):
        export(load_config(run), run, tmp_path / "packages")
    assert sorted(path.name for path in (tmp_path / "packages").iterdir()) == before
    assert current_of(tmp_path / "packages").name == current_of(packages).name


@pytest.mark.integration
def test_arguments(exported: tuple[Path, Path], call: Call, world: Path, tmp_path: Path) -> None:
    run, packages = exported
    score = ("score", "--input", world, "--output", tmp_path / "s.parquet")
    for words, message in (
        (score, "give --run RUN or --export DIR, one of them"),
        ((*score, "--run", run, "--export", packages), "give --run RUN or --export DIR, one of them"),
        ((*score, "--export", packages, "--fuse", "0.3"), "--fuse=0.3 is not allowed"),
        ((*score, "--run", run, "--processes", "2"), "--processes=2 is not allowed: given with --export"),
        ((*score, "--run", run, "--top", "0"), "--top=0 is not allowed: at least 1"),
        ((*score, "--export", run), "holds no package: current.json is missing or torn"),
        (("export", "--run", run, "--output", run / "packages"), "lies in"),
    ):
        assert message in call(*words, code=2).stderr
