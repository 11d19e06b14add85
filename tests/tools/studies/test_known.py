"""Cells that a study takes from an earlier result of its own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from easq_rec.errors import UserError
from easq_rec.tools.studies.known import take_over, taken_over
from easq_rec.tools.studies.partner import Addition
from easq_rec.tools.studies.publish import cell_values
from easq_rec.tools.studies.runner import Runner
from easq_rec.tools.studies.store import Run, opened
from tests.tools.studies.builders import PROGRAM, cells, started

VERSIONS = {"torch": "2.13.0", "python": "3.11.7"}


def result(path: Path, runs: list[Run], **changes: Any) -> Path:
    """A results.json of study `test` with these cells."""
    values = {"study": "test", "command": "easq-rec study test", "versions": VERSIONS, "hardware": {"cores": 2}}
    path.write_text(json.dumps({**values, "cells": [cell_values(run) for run in runs], **changes}))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "go").touch()
    return folder


def test_only_the_other_cells_run(tmp_path: Path, data: Path) -> None:
    """Taken cells are the same in all that a study reads, and the store says where they come from."""
    addition = (Addition(partner="item_prior", weight=0.25),)
    base, first, second = cells(data, 1.0, 2.0)
    base = dataclasses.replace(base, additions=addition, fuse=(0.5,))
    with opened(tmp_path / "earlier", study="test", budget="small", resume=False) as store:
        earlier, _ = Runner(store, jobs=1, program=PROGRAM).run([base, first])
        assert taken_over(store) is None
    known = result(tmp_path / "results.json", earlier)
    pids = {name: list(found) for name, found in started(data).items()}
    changed = dataclasses.replace(first, additions=addition)
    with opened(tmp_path / "new", study="test", budget="small", resume=False) as store:
        assert take_over(known, store, [base, changed, second], study="test", versions=VERSIONS) == 1
        runs, failed = Runner(store, jobs=1, program=PROGRAM).run([base, changed, second])
        origin = taken_over(store)
        # A second call takes nothing: all is there.
        assert take_over(known, store, [base, changed, second], study="test", versions=VERSIONS) == 0
        assert taken_over(store) == origin
    assert not failed and [run.cell for run in runs] == [base, changed, second]
    assert runs[0].fused == earlier[0].fused and cell_values(runs[0]) == cell_values(earlier[0])
    assert origin == {
        "command": "easq-rec study test",
        "versions": VERSIONS,
        "hardware": {"cores": 2},
        "cells": 1,
    }
    again = {name: len(found) - len(pids.get(name, [])) for name, found in started(data).items()}
    assert {name for name, count in again.items() if count} == {changed.name, second.name}


def test_another_study_and_other_versions_are_refused(tmp_path: Path, data: Path) -> None:
    base = cells(data)
    with opened(tmp_path / "out", study="test", budget="small", resume=False) as store:
        known = result(tmp_path / "results.json", [])
        for study, versions, said in (
            ("map", VERSIONS, "it has study test, not map"),
            ("test", {**VERSIONS, "torch": "2.11.0"}, r"torch 2\.13\.0, here 2\.11\.0"),
            ("test", {"python": "3.11.7"}, r"torch 2\.13\.0, here None"),
        ):
            with pytest.raises(UserError, match=f"--known {known}: .*{said}"):
                take_over(known, store, base, study=study, versions=versions)
        for text in ("", "[]", '{"study": "test"}', '{"study": "test", "cells": [1]}'):
            known.write_text(text)
            with pytest.raises(UserError, match="not the results"):
                take_over(known, store, base, study="test", versions=VERSIONS)
        with pytest.raises(UserError, match="No such file"):
            take_over(tmp_path / "none.json", store, base, study="test", versions=VERSIONS)
