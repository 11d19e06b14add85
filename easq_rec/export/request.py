"""Requests of callers: JSON or Arrow to the inputs of a program, checked column by column.

Compiled code checks nothing: a wrong type, length or id gives a score, or ends the process. So everything that it
relies on is checked here, before a request joins others.

Both forms have one list for each input of the program, by its name: `{"timestamp_ms": [...], "lengths:history": [...],
"history.video_id": [...], ...}`. In Arrow it is an IPC stream or file with one row, whose columns are lists. Slots are
not sent.

Legend: R requests, H history entries, N candidates.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from easq_rec.errors import UserError
from easq_rec.export.bad_request import BadRequestError
from easq_rec.export.inputs import (
    CANDIDATE_SLOTS,
    CANDIDATES,
    HISTORY,
    HISTORY_SLOTS,
    LEAST_SLOTS,
    REQUESTS,
    Input,
    lengths,
    weights,
)
from easq_rec.export.quick_arrow import QuickArrow
from easq_rec.export.request_arrow import columns_of_arrow
from easq_rec.export.request_json import columns_of_json


@dataclass(frozen=True, kw_only=True)
class CallLimits:
    """How much a caller may send at once."""

    requests: int = 256
    candidates: int = 5_000
    history: int = 100_000
    """Entries of all histories together."""
    items: int = 100_000
    """Items of the lists of a column together."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Checked columns of a call."""

    columns: Mapping[str, NDArray[Any]]
    """By the name of an input, without slots."""
    requests: int
    candidates: int


QuickJson = Callable[[bytes, tuple[Input, ...]], dict[str, NDArray[Any]] | None]
LONGEST = 2**31
"""Entries of a list at most; sums of more could overflow."""


def sent_of(*inputs: Iterable[Input]) -> tuple[Input, ...]:
    """What callers send for all of some inputs: those of programs, and what a log needs besides.

    Raises UserError: two have the same name and differ.
    """
    found: dict[str, Input] = {}
    for one in itertools.chain(*inputs):
        if one.name in (HISTORY_SLOTS, CANDIDATE_SLOTS):
            continue
        if found.setdefault(one.name, one) != one:
            raise UserError(
                f"{one.name}: {_words(found[one.name])} for one package and {_words(one)} for another: a call cannot "
                "be scored by both"
            )
    return tuple(found.values())


def _words(one: Input) -> str:
    return f"{one.dtype} of shape {one.shape}"


def tensors_of_calls(inputs: Sequence[Input], calls: Sequence[Decoded], *, max_history: int) -> tuple[Tensor, ...]:
    """The inputs of a program for the requests of some calls, one after the other."""
    found = []
    for one in inputs:
        if one.name in (HISTORY_SLOTS, CANDIDATE_SLOTS):
            group = HISTORY if one.name == HISTORY_SLOTS else CANDIDATES
            longest = max(int(call.columns[lengths(group)].max()) for call in calls)
            longest = min(longest, max_history) if group == HISTORY else longest
            found.append(torch.zeros(max(longest, LEAST_SLOTS), dtype=torch.int64))
            continue
        parts = [call.columns[one.name] for call in calls]
        found.append(torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts)))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a caller sends."""

    sent: tuple[Input, ...]
    """See `sent_of`."""
    bounds: Mapping[str, int]
    """Ids of these columns are 0 or more, and less than the number."""
    limits: CallLimits = CallLimits()
    quick_json: QuickJson = lambda body, inputs: None
    """Reads a good body in less time, and gives None for others."""

    def of_json(self, body: bytes) -> Decoded:
        """Raises BadRequestError."""
        columns = self.quick_json(body, self.sent)
        return self._checked(columns_of_json(body, self.sent) if columns is None else columns)

    def of_arrow(self, body: bytes) -> Decoded:
        """Raises BadRequestError."""
        columns = self._quick_arrow.columns(body)
        return self._checked(columns_of_arrow(body, self.sent) if columns is None else columns)

    @cached_property
    def _quick_arrow(self) -> QuickArrow:
        return QuickArrow(self.sent)

    def part(self, call: Decoded, chosen_R: NDArray[np.bool_]) -> Decoded:
        """Some requests of a call."""
        chosen = self.chosen(call, chosen_R)
        columns = {one.name: call.columns[one.name][chosen[one.axis]] for one in self.sent}
        return Decoded(columns=columns, requests=int(chosen[REQUESTS].sum()), candidates=int(chosen[CANDIDATES].sum()))

    def chosen(self, call: Decoded, chosen_R: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
        """The entries of every axis that belong to some requests."""
        chosen = {REQUESTS: chosen_R}
        for axis, owner in self._owners.items():
            chosen[axis] = np.repeat(chosen[owner.axis], call.columns[owner.name])
        return chosen

    @cached_property
    def _owners(self) -> dict[str, Input]:
        """The column of lengths of every axis but that of the requests; requests come before their lists."""
        by_name = {one.name: one for one in self.sent}
        return {one.axis: by_name[lengths(one.axis)] for one in self.sent if one.axis != REQUESTS}

    def _checked(self, columns: dict[str, NDArray[Any]]) -> Decoded:
        """Columns whose types are right, checked for lengths and values."""
        sizes = {REQUESTS: len(columns["timestamp_ms"])}
        _require(1 <= sizes[REQUESTS] <= self.limits.requests, "timestamp_ms", sizes[REQUESTS], self._upto("requests"))
        # Lengths say how long other columns are, so they are checked first; requests before their lists.
        for axis, owner in self._owners.items():
            length = columns[owner.name]
            if len(length) != sizes[owner.axis]:
                expected = f"{sizes[owner.axis]}, one for each of {owner.axis}"
                raise BadRequestError(owner.name, f"{len(length)} numbers", expected)
            if len(length) and (length.min() < 0 or length.max() > LONGEST):
                bad = np.flatnonzero((length < 0) | (length > LONGEST))
                raise BadRequestError(owner.name, f"{length[bad[0]]} at {bad[0]}", "numbers of 0 or more")
            sizes[axis] = int(length.sum())
            kind = axis if axis in (HISTORY, CANDIDATES) else "items"
            least = 1 if axis == CANDIDATES else 0
            _require(least <= sizes[axis] <= getattr(self.limits, kind), axis, sizes[axis], self._upto(kind))
        for one in self.sent:
            column = columns[one.name]
            if len(column) != sizes[one.axis]:
                what = f"{sizes[one.axis]} entries, as many as its lengths say"
                raise BadRequestError(one.name, f"{len(column)} entries", what)
        if not self._values_fit(columns):
            for one in self.sent:
                self._check_values(one, columns[one.name])
        return Decoded(columns=columns, requests=sizes[REQUESTS], candidates=sizes[CANDIDATES])

    def _values_fit(self, columns: Mapping[str, NDArray[Any]]) -> bool:
        """Whether all values are good. Columns are joined, since a call has few values and many columns; what is wrong
        with one, `_check_values` says."""
        floats, counts, positive, bounded = self._groups
        if floats and not np.isfinite(np.concatenate([columns[name].ravel() for name in floats])).all():
            return False
        if counts:
            shown, happened, prior = np.concatenate([columns[name] for name in counts]).T
            if not ((shown >= happened) & (happened >= 0) & (prior >= 0) & (prior <= 1)).all():
                return False
        if positive and (np.concatenate([columns[name] for name in positive]) < 0).any():
            return False
        return all(
            not len(ids) or (ids.min() >= 0 and ids.max() < bound)
            for name, bound in bounded.items()
            for ids in (columns[name],)
        )

    @cached_property
    def _groups(self) -> tuple[list[str], list[str], list[str], dict[str, int]]:
        """Columns that are finite, counts, weights, and ids with their bounds."""
        floats = [one for one in self.sent if one.dtype == "float32"]
        return (
            [one.name for one in floats],
            [one.name for one in floats if one.count],
            [one.name for one in floats if one.name.startswith(weights(""))],
            {one.name: self.bounds[one.name] for one in self.sent if one.name in self.bounds},
        )

    def _check_values(self, one: Input, column: NDArray[Any]) -> None:
        if one.dtype == "int64":
            bound = self.bounds.get(one.name)
            if bound is not None:
                _first_bad((column < 0) | (column >= bound), one, column, f"ids from 0 to {bound - 1}")
            return
        _first_bad(~np.isfinite(column), one, column, "finite numbers (float32)")
        if one.name.startswith(weights("")):
            _first_bad(column < 0, one, column, "weights of 0 or more")
        if one.count:
            shown, happened, prior = column.T
            _first_bad(shown < 0, one, column, "shown of 0 or more")
            _first_bad((happened < 0) | (happened > shown), one, column, "happened from 0 to shown")
            _first_bad((prior < 0) | (prior > 1), one, column, "a prior from 0 to 1")

    def _upto(self, what: str) -> str:
        least = "1 to" if what in ("requests", "candidates") else "at most"
        return f"{least} {getattr(self.limits, what)}"


def _first_bad(bad: NDArray[Any], one: Input, column: NDArray[Any], expected: str) -> None:
    if bad.any():
        place = int(np.flatnonzero(bad.reshape(len(column), -1).any(1))[0])
        raise BadRequestError(one.name, f"{column[place].tolist()} at {place}", expected)


def _require(condition: bool, column: str, found: int, expected: str) -> None:
    if not condition:
        raise BadRequestError(column, f"{found} entries", expected)
