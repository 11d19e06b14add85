"""How a command ends: a UserError is one line and exit code 2, every other exception shows its traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from easq_rec.errors import UserError, exit_code

SCRIPT = """
import sys
from easq_rec import train
from easq_rec.errors import UserError
def main(): raise {error}
sys.exit(train.script(main))
"""


def raising(error: BaseException) -> int:
    raise error


def test_the_exit_code_of_a_command_is_passed_on() -> None:
    assert exit_code(lambda: 7) == 7


def test_a_user_error_prints_only_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: raising(UserError("--data /nowhere: no such directory"))) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "easq-rec: --data /nowhere: no such directory\n")


@pytest.mark.parametrize("error", [ValueError("shapes differ"), KeyError("x"), OSError("disk"), BrokenPipeError()])
def test_other_exceptions_are_not_caught(error: BaseException) -> None:
    with pytest.raises(type(error)):
        exit_code(lambda: raising(error))


def test_an_interrupt_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "easq-rec: interrupted\n"


@pytest.mark.parametrize(("unbuffered", "what"), [("", "the standard output"), ("1", "a file, or the output of the")])
def test_an_output_on_a_full_disk_is_one_line(unbuffered: str, what: str) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "easq_rec.cli", "--version"]
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 74 and done.stderr.startswith(f"easq-rec: {what}")
    assert done.stderr.count("\n") == 1 and "cannot be written: No space left on device (ENOSPC)" in done.stderr


def test_the_traceback_of_a_user_error_can_be_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASQ_TRACEBACK", "1")
    with pytest.raises(UserError):
        exit_code(lambda: raising(UserError("a message")))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("error", "code", "traceback"),
    [("UserError('a message')", 2, False), ("ValueError('a bug')", 1, True)],
)
def test_the_error_file_of_torchrun_has_the_same_content(
    tmp_path: Path, error: str, code: int, traceback: bool
) -> None:
    file = tmp_path / "error.json"
    environment = {**os.environ, "TORCHELASTIC_ERROR_FILE": str(file)}
    environment.pop("EASQ_TRACEBACK", None)
    command = [sys.executable, "-c", SCRIPT.format(error=error)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("Traceback" in done.stderr) == traceback
    written = json.loads(file.read_text())["message"]["extraInfo"]["py_callstack"]
    assert (written == "a message") != traceback
    assert ("Traceback" in written) == traceback
