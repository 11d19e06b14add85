"""`make loop`: a ranker is trained, exported, served over HTTP, and follows what its simulated users do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import Warm


@pytest.mark.integration
@pytest.mark.parametrize("learning", [["following"], pytest.param(["daily", "following"], marks=pytest.mark.slow)])
def test_the_loop_closes(learning: list[str], warm: Warm, tmp_path: Path) -> None:
    """From the second day on, the servers of rankers that learn have packages that have learned from the day before."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("needs a C++ compiler")
    mine = tmp_path / "mine" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("kept")
    refused = warm.run(warm.python, "-m", "easq_rec.tools.loop", "--out", str(mine.parent), check=False)
    assert refused.returncode == 2 and "already exists" in refused.stderr and mine.read_text() == "kept"
    refused = warm.run(warm.python, "-m", "easq_rec.tools.loop", "--rankers", "frozen,weekly", check=False)
    assert refused.returncode == 2 and "--rankers='frozen,weekly' is not allowed" in refused.stderr
    names = ("frozen", *learning)
    rankers = ("--rankers", ",".join(names), "--parts", "2")
    small = ("--days", "2", "--users", "120", "--requests", "1000", *rankers, "--out", str(tmp_path / "loop"))
    done = warm.run(warm.python, "-m", "easq_rec.tools.loop", *small, timeout=550)
    results = json.loads((tmp_path / "loop" / "results.json").read_text())
    days = {name: [day for day in results["days"] if day["ranker"] == name] for name in names}
    frozen = days["frozen"]
    # On the first day they serve the same package to the same users; the follower, until noon.
    if "daily" in days:
        for name in ("satisfaction", "long_view_share", "requests", "answers"):
            assert days["daily"][0][name] == frozen[0][name], name
    assert days["following"][0]["long_view_share"] != frozen[0]["long_view_share"]
    for learns in (days[name] for name in learning):
        assert learns[0]["fresh_seconds"] > 0 and frozen[1]["fresh_seconds"] is None
        assert learns[1]["model_age_days"] < 1 <= frozen[1]["model_age_days"]
        assert learns[1]["long_view_share"] != frozen[1]["long_view_share"]
    assert (
        "learned and served after" in done.stdout and "| satisfaction |" in (tmp_path / "loop" / "table.md").read_text()
    )
    page = (tmp_path / "loop" / "index.html").read_text()
    assert "data:image/png;base64," in page and "http://" not in page and "https://" not in page
