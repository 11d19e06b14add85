"""Which version is served, and how an earlier one is."""

from __future__ import annotations

from pathlib import Path

import pytest

from easq_rec.cli import main as cli
from easq_rec.errors import UserError
from easq_rec.export.package import lender, require_compiler
from easq_rec.export.versions import current_of, roll_back, set_current, versions_of


def packages(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir()
        (folder / name / "manifest.json").write_text("{}")
    set_current(folder, names[-1])
    return folder


def test_the_current_version_is_a_folder(tmp_path: Path) -> None:
    packages(tmp_path, "1", "2", "3")
    # What is not complete, or hidden, is no version.
    (tmp_path / "4").mkdir()
    (tmp_path / ".5").mkdir()
    (tmp_path / ".5" / "manifest.json").write_text("{}")
    assert current_of(tmp_path) == tmp_path / "3" and versions_of(tmp_path) == ["1", "2", "3"]
    assert current_of(tmp_path / "2") == tmp_path / "2"


def test_rolling_back_goes_to_the_version_before(tmp_path: Path) -> None:
    packages(tmp_path, "1", "2", "3")
    assert roll_back(tmp_path) == ("3", "2") and current_of(tmp_path).name == "2"
    assert roll_back(tmp_path, "3") == ("2", "3")
    assert roll_back(tmp_path, "1") == ("3", "1")
    with pytest.raises(UserError, match="no version is older than 1, which is served"):
        roll_back(tmp_path)
    with pytest.raises(UserError, match=r"--to 7: no such version in .*; there are 1, 2, 3"):
        roll_back(tmp_path, "7")
    assert current_of(tmp_path).name == "1"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages(tmp_path, "1", "2")
    assert cli.main(["rollback", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 1 in place of 2\n"
    assert cli.main(["rollback", str(tmp_path)]) == 2
    assert cli.main(["rollback", str(tmp_path / "none")]) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_a_torn_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "current.json").write_text(content)
    with pytest.raises(UserError, match=r"holds no package: current\.json is missing or torn"):
        current_of(tmp_path)


def test_only_a_complete_version_lends_its_code(tmp_path: Path) -> None:
    """An export that was killed leaves a hidden folder, in which code may be torn."""
    packages(tmp_path, "1", "2", "3", ".4.tmp")
    for name in ("1", "2", ".4.tmp"):
        (tmp_path / name / "code").mkdir()
        (tmp_path / name / "code" / "key.pt2").write_text("")
    for name in ("1", ".4.tmp"):
        (tmp_path / name / "program.pt2").write_text("")
    assert lender(tmp_path, "key") == tmp_path / "1"
    assert lender(tmp_path, "other") is None and lender(tmp_path / "none", "key") is None


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"there is no no-such-compiler: install it .*, or name another with CXX"):
        require_compiler()
