"""Small logs that were read wrongly once, each in a folder with the script that feeds it to the command.

They lie in `shared/cases` of this repository or of a folder above it, and are not part of the repository.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Warm

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
"""The folder of the installed `easq-rec`."""
CASES = next((cases for top in (REPOSITORY, *REPOSITORY.parents) if (cases := top / "shared" / "cases").is_dir()), None)

pytestmark = pytest.mark.integration


def ran(case: str, folder: Path, programs: Path = PROGRAMS) -> tuple[str, Path]:
    """(what the script of a case printed, the copy of its folder that it ran in)"""
    if CASES is None or not (CASES / case).is_dir():
        pytest.skip("the folder shared/cases is not here")
    place = folder / "cases" / case
    shutil.copytree(CASES / case, place)
    if (CASES / "common.sh").exists():
        shutil.copy(CASES / "common.sh", place.parent)
    script = next(place.glob("run.*"))
    command = ["bash", str(script)] if script.suffix == ".sh" else [sys.executable, str(script)]
    # The command of this environment, and the package of this repository.
    environment = {**os.environ, "EASQ": str(programs), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    return run.stdout + run.stderr, place


@pytest.mark.parametrize(
    "case", ["iso-offset", "symlinked-day", "unread-suffixes", "float-flags", "brackets", "zero-byte-part"]
)
def test_all_rows_are_read(case: str, tmp_path: Path) -> None:
    said, place = ran(case, tmp_path)
    assert "impressions: 13 rows = 13 kept + 0 quarantined" in said
    if case == "iso-offset":
        build = json.loads((place / "data" / "build.json").read_text())
        assert build["counts"]["answers.kept"] == 3
        assert min(file.name[:13] for file in (place / "data" / "requests").rglob("*.parquet")) == "1767225600000"
    if case == "zero-byte-part":
        assert "from 2 files (1 without content)" in said


def test_two_users_stay_two_or_are_refused(tmp_path: Path) -> None:
    said, _ = ran("float-ids", tmp_path)
    assert said.startswith("2 ") and "users: set()" in said


def test_a_quote_late_in_a_file_is_a_quote(tmp_path: Path) -> None:
    said, _ = ran("late-quotes", tmp_path)
    assert "impressions: 21,000 rows = 21,000 kept + 0 quarantined" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_an_output_that_is_a_mount_is_refused_with_the_remedy(tmp_path: Path) -> None:
    said, place = ran("out-is-a-mount", tmp_path)
    if "unshare" in said or "mount:" in said:
        pytest.skip(f"mounting is not allowed here: {said}")
    assert "is a mount point, which cannot be replaced: name a directory in it, as --out vol/out" in said
    assert not (place / ".vol.build").exists()


def test_undefined_metrics_are_null(warm: Warm, tmp_path: Path) -> None:
    _, place = ran("nan-json", tmp_path, warm.programs(tmp_path / "bin"))
    values = json.loads((place / "v.json").read_text(), parse_constant=pytest.fail)
    assert None in values.values()
