"""The package that a server scores with, and how another takes its place.

A new package is loaded and verified beside the one that serves. Then one assignment replaces it: a batch is scored by
one package from beginning to end. A package that is refused changes nothing.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from easq_rec.errors import UserError
from easq_rec.export.package import Package
from easq_rec.export.request import CallLimits, Contract, Decoded
from easq_rec.export.versions import current_of
from easq_rec.serving.server.batcher import Batcher, Score
from easq_rec.serving.server.quick_json import quick_columns


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A package, what it takes, and the calls that wait for it. So a call is scored by the package that checked it."""

    package: Package
    contract: Contract
    batcher: Batcher

    @property
    def version(self) -> str:
        return self.package.folder.name


def score_calls(package: Package, contract: Contract, calls: Sequence[Decoded]) -> list[NDArray[Any]]:
    """Scores of the candidates of each call."""
    scores = package(contract.tensors(calls)).numpy()
    ends = np.cumsum([call.candidates for call in calls])
    return np.split(scores, ends[:-1])


class ServedPackage:
    """The current package of a directory.

    Args:
        directory: what `easq-rec export` wrote: packages and `current.json`, or one package.
        limits: of a call.
        batcher: makes the batcher of a package from what scores its calls.
        said: is told of each version that it serves (None), or why it is refused.
    """

    def __init__(
        self,
        directory: Path,
        limits: CallLimits,
        *,
        batcher: Callable[[Score], Batcher] = Batcher,
        said: Callable[[str, str | None], None] = lambda version, problem: None,
    ) -> None:
        self._directory = directory
        self._limits = limits
        self._batcher = batcher
        self._said = said
        self._refused: tuple[Path, float] | None = None
        self.serving: Serving | None = None
        """None until a package is loaded."""

    def load(self) -> None:
        """Loads the current package. If that raises, what served before goes on.

        Raises UserError if the package is refused. A package that is removed meanwhile, or that another version wrote,
        may raise anything.
        """
        folder = current_of(self._directory)
        try:
            package = Package(folder)
        except Exception as error:
            self._said(folder.name, str(error) if isinstance(error, UserError) else repr(error))
            raise
        manifest = package.manifest
        contract = Contract(
            inputs=manifest.inputs,
            bounds=manifest.bounds,
            max_history=manifest.max_history,
            limits=self._limits,
            quick_json=quick_columns,
        )
        batcher = self._batcher(functools.partial(score_calls, package, contract))
        self.serving = Serving(package=package, contract=contract, batcher=batcher)
        self._said(folder.name, None)

    async def watch(self, interval_s: float) -> None:
        """Loads each package that `current.json` names, in a thread, while the current one serves. Never ends."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                folder = current_of(self._directory)
            except UserError:
                # Nothing to load: what serves goes on, and the next look may find more.
                continue
            if self.serving is not None and folder == self.serving.package.folder:
                continue
            # A refused package is not read again until it is written again.
            key = (folder, _written(folder))
            if key == self._refused:
                continue
            try:
                await asyncio.to_thread(self.load)
            except Exception:
                # `load` has said it. No package may end the watch.
                self._refused = key


def _written(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return time.time()
