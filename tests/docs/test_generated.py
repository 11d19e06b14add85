"""Committed pages and figures are equal to the current output of the scripts in docs/scripts/."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from types import ModuleType

import pytest

from tests.docs.pages import DOCS, REPOSITORY

REMEDY = "run `make docs`, or the script, and commit what it writes"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["config_page", "layers_figure"])
def test_committed_file_is_current(name: str) -> None:
    module = script(name)
    assert module.FILE.read_text(encoding="utf-8") == module.content(), REMEDY


def test_flags_are_those_of_the_command_line() -> None:
    """The script derives the flags from the names of settings, so they are compared with the output of --help."""
    program = "import sys; from easq_rec.train import main; main(['easq', '--help'])"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "250"}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    offered = set(re.findall(r"│ (--[\w.-]+)", run.stdout))
    page = script("config_page").content()
    listed = set(re.findall(r"^- `\w+` \(`(--[^`]+)`", page, flags=re.MULTILINE))
    for first, other in re.findall(r"^The flags `(--\S+)\*` below exist as `(--\S+)\*` too", page, flags=re.MULTILINE):
        listed |= {flag.replace(first, other) for flag in listed if flag.startswith(first)}
    assert listed == offered - {"--help"}


def test_figure_names_every_layer_from_the_top() -> None:
    figure = script("layers_figure")
    names = [unit for layer in figure.layers() for unit in layer]
    assert names[:2] == ["cli", "train"] and names[-3:] == ["config", "kernels", "upstream"]
    places = [figure.content().index(f">{name}</text>") for name in names]
    assert places == sorted(places)
