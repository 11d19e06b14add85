"""The packages that a server scores with, and how others take their places.

A new package is loaded and verified beside the one that serves. Then one assignment replaces it: a call is checked and
scored by the same packages from beginning to end. A package that is refused changes nothing.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from easq_rec.config import Config
from easq_rec.errors import UserError
from easq_rec.export.inputs import Input
from easq_rec.export.logged import ScoredCall, logged_bounds, logged_inputs
from easq_rec.export.package import Package
from easq_rec.export.request import CallLimits, Contract, Decoded, sent_of, tensors_of_calls
from easq_rec.export.versions import current_of
from easq_rec.run_directory.config_file import load_config
from easq_rec.serving.server.batcher import Batcher, LateError, OverloadedError, Score
from easq_rec.serving.server.experiment import FIRST, SECOND, ServingExperiment
from easq_rec.serving.server.quick_json import quick_columns

USER = Input(name="user_id", dtype="int64", axis="requests")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A package, and the calls that wait for it."""

    package: Package
    batcher: Batcher

    @property
    def version(self) -> str:
        return self.package.folder.name


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The packages at one time, by arm, and what callers send for them."""

    arms: Mapping[str, Loaded]
    contract: Contract
    experiment: ServingExperiment | None
    logged: Config | None
    """Config of the first package, if answers are logged."""

    @property
    def versions(self) -> dict[str, str]:
        """By arm."""
        return {arm: loaded.version for arm, loaded in self.arms.items()}

    async def score(self, call: Decoded, *, deadline: float) -> ScoredCall:
        """What a caller gets.

        Raises OverloadedError, LateError.
        """
        first = self.arms[FIRST].batcher
        if self.experiment is None or self.experiment.shadow:
            return self._scored(call, await first(call, deadline=deadline), [FIRST] * call.requests)
        second_R = self.experiment.second_R(call.columns[USER.name])
        arm_R = [SECOND if second else FIRST for second in second_R]
        if len(set(arm_R)) == 1:
            return self._scored(call, await self.arms[arm_R[0]].batcher(call, deadline=deadline), arm_R)
        score_N = np.zeros(call.candidates, np.float32)
        parts = {arm: np.array([one == arm for one in arm_R]) for arm in (FIRST, SECOND)}
        scoring = [
            self.arms[arm].batcher(self.contract.part(call, chosen_R), deadline=deadline)
            for arm, chosen_R in parts.items()
        ]
        for chosen_R, found in zip(parts.values(), await asyncio.gather(*scoring), strict=True):
            score_N[self.contract.chosen(call, chosen_R)["candidates"]] = found
        return self._scored(call, score_N, arm_R)

    def _scored(self, call: Decoded, score_N: NDArray[Any], arm_R: Sequence[str]) -> ScoredCall:
        return ScoredCall(call=call, score_N=score_N, arm_R=arm_R, versions=self.versions)

    async def shadow(self, call: Decoded, *, deadline: float) -> NDArray[Any] | None:
        """Scores of the second package, which no caller gets; None if it has no time for them."""
        try:
            return await self.arms[SECOND].batcher(call, deadline=deadline)
        except (OverloadedError, LateError):
            return None


def score_calls(package: Package, calls: Sequence[Decoded]) -> list[NDArray[Any]]:
    """Scores of the candidates of each call."""
    manifest = package.manifest
    scores = package(tensors_of_calls(manifest.inputs, calls, max_history=manifest.max_history)).numpy()
    ends = np.cumsum([call.candidates for call in calls])
    return np.split(scores, ends[:-1])


@dataclass(frozen=True, kw_only=True)
class PackageSource:
    """Where the packages of a server are."""

    first: Path
    """What `easq-rec export` wrote: packages and `current.json`, or one package."""
    second: Path | None = None
    """The same, of the package that is compared."""
    experiment: ServingExperiment | None = None
    logged: bool = False
    """Whether callers send all columns of a training request."""
    accepted: Path | None = None
    """Folder in which processes of one server note the packages that they took. A process that is started again while
    `current.json` names a bad package takes what the others serve; None: it fails."""

    @property
    def directories(self) -> dict[str, Path]:
        """By arm."""
        return {FIRST: self.first, **({SECOND: self.second} if self.second is not None else {})}


class ServedPackages:
    """The current packages.

    Args:
        batcher: makes the batcher of an arm's package from what scores its calls.
        said: is told of each arm and version that it serves (None), or why it is refused.
    """

    def __init__(
        self,
        source: PackageSource,
        limits: CallLimits,
        *,
        batcher: Callable[[str, Score], Batcher] = lambda arm, score: Batcher(score),
        said: Callable[[str, str, str | None], None] = lambda arm, version, problem: None,
    ) -> None:
        self._source = source
        self._limits = limits
        self._batcher = batcher
        self._said = said
        self._refused: dict[str, tuple[Path, float]] = {}
        self.serving: Serving | None = None
        """None until all packages are loaded."""

    def load(self) -> None:
        """Loads the current packages.

        Raises UserError if one is refused. A package that is removed meanwhile, or that another version wrote, may
        raise anything.
        """
        arms = {}
        for arm, directory in self._source.directories.items():
            try:
                arms[arm] = self._loaded(arm, current_of(directory))
            except Exception:
                earlier = self._accepted(arm)
                if earlier is None:
                    raise
                arms[arm] = self._loaded(arm, earlier)
        self._serve(arms)

    def replace(self, arm: str, folder: Path) -> None:
        """Loads another package of an arm. If that raises, what served before goes on."""
        assert self.serving is not None
        loaded = self._loaded(arm, folder)
        try:
            self._serve({**self.serving.arms, arm: loaded})
        except UserError as error:
            self._said(arm, folder.name, str(error))
            raise

    def _loaded(self, arm: str, folder: Path) -> Loaded:
        try:
            package = Package(folder)
        except Exception as error:
            self._said(arm, folder.name, str(error) if isinstance(error, UserError) else repr(error))
            raise
        return Loaded(package=package, batcher=self._batcher(arm, functools.partial(score_calls, package)))

    def _serve(self, arms: Mapping[str, Loaded]) -> None:
        """Takes packages, all at once."""
        manifests = [loaded.package.manifest for loaded in arms.values()]
        config = load_config(arms[FIRST].package.folder) if self._source.logged else None
        further = () if config is None else logged_inputs(config)
        sent = sent_of(*(manifest.inputs for manifest in manifests), [USER] if len(arms) > 1 else [], further)
        bounds = {} if config is None else logged_bounds(config)
        for manifest in manifests:
            for name, bound in manifest.bounds.items():
                bounds[name] = min(bound, bounds.get(name, bound))
        contract = Contract(sent=sent, bounds=bounds, limits=self._limits, quick_json=quick_columns)
        before = {} if self.serving is None else self.serving.arms
        self.serving = Serving(
            arms=arms, contract=contract, experiment=self._source.experiment if len(arms) > 1 else None, logged=config
        )
        for arm, loaded in arms.items():
            if before.get(arm) is not loaded:
                self._accept(arm, loaded.package.folder)
                self._said(arm, loaded.version, None)

    def _accept(self, arm: str, folder: Path) -> None:
        if self._source.accepted is not None:
            note = self._source.accepted / f"{arm}.{time.time_ns()}"
            note.write_text(str(folder.absolute()))
            note.rename(self._source.accepted / arm)

    def _accepted(self, arm: str) -> Path | None:
        note = self._source.accepted / arm if self._source.accepted is not None else None
        return Path(note.read_text()) if note is not None and note.is_file() else None

    async def watch(self, interval_s: float) -> None:
        """Loads each package that a `current.json` names, in a thread, while the others serve. Never ends."""
        while True:
            await asyncio.sleep(interval_s)
            for arm, directory in self._source.directories.items():
                await self._look(arm, directory)

    async def _look(self, arm: str, directory: Path) -> None:
        try:
            folder = current_of(directory)
        except UserError:
            # Nothing to load: what serves goes on, and the next look may find more.
            return
        if self.serving is not None and folder == self.serving.arms[arm].package.folder:
            return
        # A refused package is not read again until it is written again.
        key = (folder, _written(folder))
        if key == self._refused.get(arm):
            return
        try:
            await asyncio.to_thread(self.replace, arm, folder)
        except Exception:
            # It has been said. No package may end the watch.
            self._refused[arm] = key


def _written(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return time.time()
