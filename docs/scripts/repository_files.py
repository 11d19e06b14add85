"""MkDocs hook: links that leave docs/ lead to copies of the files on the site.

A page links to a result or a source file by its path in the repository, as in `../../benchmarks/results/data.json`, so
that the link works in a checkout. The hook copies each such file to repository/ on the site and rewrites the link. A
file that does not exist is a warning, which `mkdocs build --strict` turns into an error.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

log = logging.getLogger("mkdocs.hooks.repository_files")

LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
FOLDER = "repository"
MARKDOWN = {"datasets/world/README.md", "datasets/movielens/README.md", "datasets/kuairand/README.md"}
"""Pages of the site that lie outside docs/; their links are rewritten as well."""


def on_files(files: Files, config: Any) -> Files:
    """Adds the cards of the data sets as pages."""
    for name in sorted(MARKDOWN):
        _add(files, config, name)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrites the links of a page that leave docs/."""
    docs = Path(config.docs_dir)
    root = docs.parent
    source = page.file.src_uri
    here = root / source.removeprefix(f"{FOLDER}/") if source.startswith(f"{FOLDER}/") else docs / source

    def rewritten(match: re.Match[str]) -> str:
        opening, target, anchor, closing = match.groups()
        path = Path(os.path.normpath(here.parent / target))
        if source.startswith(f"{FOLDER}/") and path.is_relative_to(docs):
            wanted = path.relative_to(docs).as_posix()
        elif path.is_relative_to(docs) or not path.is_relative_to(root):
            return match.group(0)
        elif not path.is_file():
            log.warning("%s links to %s, which is not a file of the repository", source, target)
            return match.group(0)
        else:
            wanted = _add(files, config, path.relative_to(root).as_posix())
        relative = os.path.relpath(wanted, Path(source).parent)
        return f"{opening}{relative}{anchor or ''}{closing}"

    return LINK.sub(rewritten, markdown)


def _add(files: Files, config: Any, name: str) -> str:
    """Adds a file of the repository to the site; returns its place there."""
    place = f"{FOLDER}/{name}"
    if files.get_file_from_path(place) is None:
        root = Path(config.docs_dir).parent
        files.append(File.generated(config, place, abs_src_path=str(root / name)))
    return place
