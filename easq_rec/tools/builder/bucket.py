"""Second stage: builds the requests of one bucket of users in memory, by whole columns.

R requests, n impressions, in the order of `Groups`. Users and candidates are joined as of the request's time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from easq_rec.config.answer_scale import NO_ANSWER
from easq_rec.tools.builder.attribution import Impressions, Replies, attribute
from easq_rec.tools.builder.clean import FIELD
from easq_rec.tools.builder.config import ID_LISTS, Build, Field
from easq_rec.tools.builder.grouping import Groups, group
from easq_rec.tools.builder.history import HistoryRanges, histories
from easq_rec.tools.builder.layout import TYPES
from easq_rec.tools.builder.quarantine import QuarantineFile, as_json
from easq_rec.tools.builder.versions import NONE, Int, Versions, ragged

KEYS = ("user_id", "request_id", "video_id", "timestamp_ms", "watch_ms")


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A feature table with versions."""

    table: pa.Table
    versions: Versions

    @staticmethod
    def of(table: pa.Table | None, key: str, quarantine: QuarantineFile | None, counts: Counter[str]) -> Lookup | None:
        """Makes the lookup by `key`; superseded rows go to the quarantine, if there is one."""
        if table is None:
            return None
        table = table.combine_chunks()
        since = table["valid_from"].to_numpy() if "valid_from" in table.column_names else None
        versions = Versions(table[key].to_numpy(), since)
        if quarantine is not None:
            name = key.removesuffix("_id") + "s"
            rows = as_json(table, (key, "valid_from"), versions.superseded)
            quarantine.add(name, "a later row has the same key", rows)
            counts[f"{name}.kept"] += len(table) - len(versions.superseded)
        return Lookup(table=table, versions=versions)


class Bucket:
    """The requests of a bucket of users.

    Args:
        impressions, answers: cleaned rows of the bucket, in log order.
        users, videos: features; the lookup of videos covers the whole table.
    """

    def __init__(
        self,
        build: Build,
        impressions: pa.Table,
        answers: pa.Table | None,
        users: Lookup | None,
        videos: Lookup | None,
        quarantine: QuarantineFile,
        counts: Counter[str],
    ) -> None:
        self._build = build
        self._rows = impressions
        self._users = users
        self._videos = videos
        column = {name: _numpy(impressions, name) for name in impressions.column_names if not name.startswith(FIELD)}
        groups = group(
            column["user_id"], column["video_id"], column["timestamp_ms"], column.get("request_id"), build.requests
        )
        quarantine.add("impressions", "duplicate", as_json(impressions, KEYS, groups.duplicates))
        self._join(groups, column["user_id"], column["video_id"], quarantine, counts)
        column = {name: values[self._at] for name, values in column.items()}
        self._column = column
        if "duration_ms" not in column:
            assert videos is not None
            column["duration_ms"] = _numpy(videos.table, "duration_ms")[self._video]
        self._ratio = (column["watch_ms"] / column["duration_ms"]).astype(np.float32)
        self._triggered = build.questionnaire.triggered(column["watch_ms"], column["duration_ms"])
        watched = self._triggered if build.requests.history == "long_view" else column["watch_ms"] > 0
        self._histories: HistoryRanges = histories(
            user=column["user_id"],
            timestamp_ms=column["timestamp_ms"],
            watch_ms=column["watch_ms"],
            counts=watched,
            request_user=self._user_id,
            request_ms=self.timestamp_ms,
            longest=build.requests.max_history,
        )
        self._replies = self._answer(answers, quarantine, counts)
        self._count(counts)

    def _join(self, groups: Groups, user: Int, video: Int, quarantine: QuarantineFile, counts: Counter[str]) -> None:
        """Finds the versions as of the requests' times; impressions without one are dropped if the rules say so."""
        rows, lengths = groups.rows, groups.lengths
        count = len(groups.request_id)
        user_id = user[rows[groups.starts[:-1]]]
        nothing = np.full(count, NONE)
        person = self._users.versions.find(user_id, groups.timestamp_ms) if self._users is not None else nothing
        at_ms = np.repeat(groups.timestamp_ms, lengths)
        item = np.full(len(rows), NONE)
        if self._videos is not None:
            item = self._videos.versions.find(video[rows], at_ms)
        keep = np.ones(len(rows), np.bool_)
        for name, rules, found in (
            ("users", self._build.users, np.repeat(person, lengths)),
            ("videos", self._build.videos, item),
        ):
            unknown = (found == NONE) & keep
            if rules is not None and rules.missing == "quarantine":
                reason = f"its {name[:-1]} has no row at the request's time"
                quarantine.add("impressions", reason, as_json(self._rows, KEYS, rows[unknown]))
                keep &= ~unknown
            elif rules is not None:
                counts[f"impressions.unknown_{name}"] += int(unknown.sum())
        left = np.add.reduceat(keep, groups.starts[:-1]) if count else np.zeros(0, np.int64)
        whole = left > 0
        counts["requests.without_candidates"] += int((~whole).sum())
        self._at = rows[keep]
        self._video = item[keep]
        self._starts = np.append(0, np.cumsum(left[whole]))
        self._user = person[whole]
        self._user_id = user_id[whole]
        self._request_id = groups.request_id[whole]
        self.timestamp_ms: Int = groups.timestamp_ms[whole]
        """(R,) of the requests."""

    def _answer(self, answers: pa.Table | None, quarantine: QuarantineFile, counts: Counter[str]) -> Replies:
        column, rules = self._column, self._build.answers
        keyed = rules is not None and rules.columns.request_id is not None
        impressions = Impressions(
            user=column["user_id"],
            video=column["video_id"],
            request=column["request_id"] if keyed else None,
            timestamp_ms=column["timestamp_ms"],
            triggered=self._triggered,
            shown=column["shown"] == 1 if "shown" in column else None,
        )
        return attribute(impressions, answers, rules, quarantine, counts)

    def _count(self, counts: Counter[str]) -> None:
        counts["impressions.kept"] += len(self._at)
        counts["impressions.triggered"] += int(self._triggered.sum())
        if "shown" in self._column:
            counts["impressions.shown"] += int((self._column["shown"] == 1).sum())
        counts["requests.kept"] += len(self.timestamp_ms)
        counts["requests.answered"] += len(self.answered)
        counts["history.entries"] += int(self._histories.lengths.sum())

    @property
    def in_time_order(self) -> Int:
        """All requests, oldest first."""
        return np.lexsort((self._request_id, self.timestamp_ms))

    @property
    def answered(self) -> Int:
        """The requests with an answer, oldest first."""
        has = np.append(0, np.cumsum(self._replies.answer != NO_ANSWER))[self._starts]
        order = self.in_time_order
        return order[np.diff(has)[order] > 0]

    def batch(self, requests: Int, schema: pa.Schema, *, answers: bool) -> pa.RecordBatch:
        """Rows of a dataset with this schema, for requests in the given order."""
        watched = self._histories.entries(requests)
        lengths = np.diff(self._starts)[requests]
        shown = ragged(self._starts[requests], lengths)
        columns: list[pa.Array] = []
        for field in schema:
            match field.name:
                case "request_id":
                    columns.append(pa.array(self._request_id[requests]))
                case "user_id":
                    columns.append(pa.array(self._user_id[requests]))
                case "timestamp_ms":
                    columns.append(pa.array(self.timestamp_ms[requests]))
                case "user":
                    assert self._users is not None
                    features = self._build.user_features
                    children = [_feature(self._users.table, n, f, self._user[requests]) for n, f in features.items()]
                    columns.append(pa.StructArray.from_arrays(children, fields=list(field.type)))
                case "history":
                    columns.append(
                        _lists(self._histories.lengths[requests], self._entries(field.type.value_type, watched))
                    )
                case "candidates":
                    columns.append(_lists(lengths, self._entries(field.type.value_type, shown)))
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _entries(self, dtype: pa.DataType, rows: Int) -> pa.StructArray:
        """Candidates or history entries, for the impressions `rows`."""
        children = [self._entry(field.name, field.type, rows) for field in dtype]
        return pa.StructArray.from_arrays(children, fields=list(dtype))

    def _entry(self, name: str, dtype: pa.DataType, rows: Int) -> pa.Array:
        own = self._build.impressions.features | self._build.impressions.outcomes
        if name in own:
            return _feature(self._rows, name, own[name], self._at[rows])
        if name in self._build.video_features:
            assert self._videos is not None
            return _feature(self._videos.table, name, self._build.video_features[name], self._video[rows])
        match name:
            case "watch_ratio":
                return pa.array(self._ratio[rows])
            case "long_view":
                return pa.array(self._triggered[rows].astype(np.int8))
            case "known_ms":
                # When the watch has ended, as for histories.
                return pa.array(self._column["timestamp_ms"][rows] + self._column["watch_ms"][rows])
            case "answer" | "answered_at_ms":
                none = self._replies.answer[rows] == NO_ANSWER
                return pa.array(getattr(self._replies, name)[rows], dtype, mask=none)
            case _:
                return pa.array(self._column[name][rows].astype(dtype.to_pandas_dtype(), copy=False))


def _feature(table: pa.Table, name: str, field: Field, rows: Int) -> pa.Array:
    """A feature's values at the given rows; the default for a missing row."""
    column = table[FIELD + name]
    chunk = (
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
    )
    unknown = rows == NONE
    if field.type in ID_LISTS:
        # Arrow gives a null for a null row: an unknown video has no ids.
        taken = chunk.take(pa.array(rows, mask=unknown))
        lengths = np.diff(taken.offsets.to_numpy())
        return _lists(lengths, taken.flatten()).cast(TYPES[field.type]) if unknown.any() else taken
    if field.type == "floats":
        assert field.length is not None
        numbers = np.full((len(rows), field.length), field.default or 0, np.float32)
        numbers[~unknown] = chunk.flatten().to_numpy().reshape(-1, field.length)[rows[~unknown]]
        return _lists(np.full(len(rows), field.length), pa.array(numbers.reshape(-1)))
    values = chunk.to_numpy(zero_copy_only=False)
    if not len(values):
        values = np.zeros(1, values.dtype)
    taken = values[rows]
    if unknown.any():
        taken[unknown] = field.default or 0
    return pa.array(taken)


def _lists(lengths: NDArray[np.int64], values: pa.Array) -> pa.ListArray:
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _numpy(table: pa.Table, name: str) -> NDArray[np.int64]:
    return table[name].to_numpy()
