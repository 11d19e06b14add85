"""What torchrun is told of an error: the file that it names in TORCHELASTIC_ERROR_FILE, and shows when a job fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from easq_rec.config import command_line as arguments


class ErrorFile(ErrorHandler):
    """Torch's own, but for errors that are a user's to mend: of these torchrun shows the message, without a traceback.

    The rank's log has the traceback of both (`easq_rec.run_directory.events`)."""

    def record_exception(self, e: BaseException) -> None:
        super().record_exception(e)
        file = os.environ.get("TORCHELASTIC_ERROR_FILE")
        if file is None or not arguments.is_users(e):
            return
        content = json.loads(Path(file).read_text())
        content["message"]["extraInfo"]["py_callstack"] = str(e)
        Path(file).write_text(json.dumps(content))
