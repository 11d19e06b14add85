"""A build that is killed at any point leaves no incomplete dataset, and the next build resumes it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from easq_rec.tools.builder import stages
from tests.tools.builder.logs import config, random_log, run_build, write_log

REPOSITORY = Path(__file__).parents[3]

KILLED = """
import importlib, os, signal, sys
from pathlib import Path
from tests.tools.builder.logs import config, run_build

module, name, call, when = sys.argv[3:]
target = importlib.import_module(module)
*owner, name = name.split(".")
for part in owner:
    target = getattr(target, part)
original, calls = getattr(target, name), 0

def dying(*arguments, **named):
    global calls
    calls += 1
    if calls == int(call) and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments, **named)
    if calls == int(call):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(target, name, dying)
run_build(Path(sys.argv[1]), config(), out=sys.argv[2])
"""

POINTS = (
    "easq_rec.tools.builder.blocks BlockWriter.add 1 after",
    "easq_rec.tools.builder.bucket Bucket.batch 3 before",
    "os rename 1 before",  # the first scan
    "os rename 5 before",  # the lookup of videos
    "os rename 6 after",  # the first bucket
    "os rename 8 before",  # the last bucket
    "easq_rec.tools.builder.merge _take 2 after",
    "os rename 9 after",  # the first slice
    "easq_rec.tools.builder.publish _link 1 after",
    "os rename 11 before",  # the output
    "os rename 11 after",
)


def kill(folder: Path, point: str, out: str = "out") -> None:
    command = [sys.executable, "-c", KILLED, str(folder), out, *point.split()]
    done = subprocess.run(command, cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL, "the build completed: it did not reach this point"


def contents(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log and its uninterrupted build."""
    folder = tmp_path_factory.mktemp("whole")
    write_log(folder, random_log(20))
    run_build(folder, config(), out="whole")
    return folder


@pytest.mark.parametrize("number", range(len(POINTS)), ids=POINTS)
def test_a_killed_build_is_resumed(whole: Path, number: int) -> None:
    out = whole / f"out{number}"
    kill(whole, POINTS[number], out.name)
    assert out.exists() == (POINTS[number] == "os rename 11 after")
    names = {out.name, f".{out.name}.build"}
    assert {path.name for path in whole.iterdir()} & names == (names if out.exists() else names - {out.name})
    run_build(whole, config(), out=out.name)
    assert contents(out) == contents(whole / "whole")
    assert not (whole / f".{out.name}.build").exists()


def test_finished_units_are_not_done_again(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path, random_log(20))
    kill(tmp_path, "os rename 7 after")
    area = tmp_path / ".out.build"
    assert len(list(area.glob("bucket-*[0-9]"))) == 2
    built: list[int] = []
    original = stages.BuildStages._bucket

    def counted(self: stages.BuildStages, number: int, *rest: object) -> None:
        built.append(number)
        original(self, number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(stages.BuildStages, "_bucket", counted)
    monkeypatch.setattr(stages.BuildStages, "_scan", lambda *arguments: pytest.fail("the raw tables are scanned again"))
    run_build(tmp_path, config())
    assert len(built) == 1
    assert contents(tmp_path / "out" / "requests") == contents(whole / "whole" / "requests")


@pytest.mark.parametrize("change", ["config", "inputs"])
def test_a_changed_build_starts_over(tmp_path: Path, change: str) -> None:
    write_log(tmp_path, random_log(20))
    kill(tmp_path, "os rename 7 after")
    values = config(requests={"max_history": 1}) if change == "config" else config()
    if change == "inputs":
        write_log(tmp_path, random_log(21))
    out = run_build(tmp_path, values)
    assert contents(out / "requests") == contents(run_build(tmp_path, values, out="again") / "requests")


def test_a_finished_output_is_not_changed(tmp_path: Path) -> None:
    write_log(tmp_path, random_log(20))
    before = contents(run_build(tmp_path, config()))
    assert contents(run_build(tmp_path, config())) == before
    assert run_build(tmp_path, config(engine={"threads": 2})), "settings of the engine do not make another build"
    with pytest.raises(ValueError, match=r"out: is another build \(config differ\): delete it or choose another name"):
        run_build(tmp_path, config(requests={"max_history": 1}))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="notes: is not a build"):
        run_build(tmp_path, config(), out="notes")
    assert contents(tmp_path / "out") == before
