"""The error file of torchrun (TORCHELASTIC_ERROR_FILE), whose content torchrun shows when a job fails."""

from __future__ import annotations

import os
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from easq_rec.errors import is_one_line
from easq_rec.upstream import torch_error_file


class ErrorFile(ErrorHandler):
    """Torch's handler; for a UserError torchrun shows the message without a traceback.

    The rank's log holds the traceback of every error (`easq_rec.run_directory.events`).
    """

    def record_exception(self, e: BaseException) -> None:
        super().record_exception(e)
        file = os.environ.get("TORCHELASTIC_ERROR_FILE")
        if file is None or not is_one_line(e):
            return
        torch_error_file.show(Path(file), str(e))
