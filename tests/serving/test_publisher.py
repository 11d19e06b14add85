"""The process that exports checkpoints beside training."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from easq_rec.config.recipes import recipe
from easq_rec.export.versions import remove_old
from easq_rec.serving.publisher import ENDED, opened
from easq_rec.training.follow.loop import Publication
from tests.data.builders import make_rows, open_dataset, write_dataset


def test_a_process_that_has_ended_is_reported(tmp_path: Path) -> None:
    """For the publication that it worked on, and for every later one. Training goes on."""
    import numpy as np

    data = open_dataset(write_dataset(tmp_path / "requests", make_rows(np.random.default_rng(0), 4)))
    requests = data.read_all()
    assert requests is not None
    config = recipe("quickstart")
    config = dataclasses.replace(
        config, follow=dataclasses.replace(config.follow, source="here", packages=str(tmp_path / "packages"))
    )
    said: list[str] = []
    with opened(config, tmp_path / "run", said.append) as publish:
        process = publish._process  # type: ignore[attr-defined]
        for step in (10, 20):
            publish(Publication(step=step, clock_ms=0, metrics={}, requests=requests))
            process.kill()
            process.join()
            until = time.monotonic() + 30
            while len(said) < step // 10 and time.monotonic() < until:
                time.sleep(0.01)
    assert said == [f"step {step} is not published: {ENDED}" for step in (10, 20)]


def test_old_packages_are_removed_but_not_the_served_one(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    (tmp_path / "current.json").write_text('{"version": "a"}')
    remove_old(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "c", "d"]
