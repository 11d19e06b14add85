"""The error file of torchrun (TORCHELASTIC_ERROR_FILE), whose content torchrun shows when a job fails."""

from __future__ import annotations

import json
from pathlib import Path

from easq_rec import json_file


def show(file: Path, text: str) -> None:
    """Replaces the traceback that torchrun will show.

    Args:
        file: written by `torch.distributed.elastic.multiprocessing.errors.ErrorHandler`.
    """
    content = json.loads(file.read_text())
    content["message"]["extraInfo"]["py_callstack"] = text
    file.write_text(json_file.text(content))
