"""The benchmark of speed before and after trains with the code of a commit and with this code, in turn."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.before_after import compare
from benchmarks.older_code import REPOSITORY
from tests.datasets.test_kuairand import prepare, some_impressions, write_raw

TINY = "kuairand_main_only --trainer.max-steps 2 --trainer.batch-size 16"


@pytest.mark.slow
def test_both_codes_train_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(REPOSITORY / "easq_rec", repository / "easq_rec", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(repository), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    data, work = tmp_path / "data", tmp_path / "work"
    prepare.prepare(write_raw(tmp_path / "raw", some_impressions(600)), data, window=300, reveal=0.5)
    found = compare(data, "HEAD", [TINY], 1, work, repository)
    row = found["rows"][TINY]
    assert len(row["before"]) == len(row["after"]) == 1
    assert row["ratio"] == pytest.approx(row["before"][0] / row["after"][0], abs=0.01)
    assert row["after_impressions_per_cpu_second"] == round(found["impressions"] / row["after"][0])
    assert 100 < found["impressions"] < 600
    said = [line.rpartition(": ")[0] for line in capsys.readouterr().err.splitlines() if line.startswith(TINY)]
    assert said == [f"{TINY} at {found['before']}", TINY]
