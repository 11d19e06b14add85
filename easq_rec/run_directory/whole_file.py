"""Files of a run directory that are replaced as a whole: a reader sees the old content or the new one."""

from __future__ import annotations

from pathlib import Path


def replace(path: Path, content: str) -> None:
    """Writes a file under a temporary name and publishes it by a rename.

    Raises:
        OSError: the disk failed; the file is as before, and the temporary one is gone.
    """
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(content, encoding="utf-8", errors="surrogateescape")
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
