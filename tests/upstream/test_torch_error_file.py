"""torchrun still shows the text that is written to its error file."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ErrorHandler, ProcessFailure

from easq_rec.upstream import torch_error_file

CHANGED = "torch has changed {}: adapt easq_rec/upstream/torch_error_file.py"


def test_torchrun_shows_the_text_in_the_error_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    try:
        raise ValueError("the whole error")
    except ValueError as error:
        ErrorHandler().record_exception(error)
    torch_error_file.show(file, "one readable line")
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file=str(file))
    shown = str(ChildFailedError("train.py", {0: failure}))
    assert "one readable line" in shown, CHANGED.format("what torchrun reads from an error file")
    assert "Traceback" not in shown, CHANGED.format("what torchrun reads from an error file")
