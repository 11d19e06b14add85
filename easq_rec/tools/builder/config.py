"""Configuration of the builder: location of the raw tables, meaning of their columns, and rules. No torch import.

It is one TOML file (read by `parse.py`); every class below is one of its tables. Column names are those of the log.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from easq_rec.answers.questionnaire import Questionnaire
from easq_rec.config.schema import require
from easq_rec.errors import UserError

TimeUnit = Literal["s", "ms", "us", "ns", "timestamp"]
"""`timestamp`: a Parquet timestamp column, or ISO 8601 text; in `time_zone` if it has neither offset nor zone."""
Unit = Literal["s", "ms", "us"]
IdType = Literal["integer", "text"]

ID_LISTS = ("ids", "texts", "weighted_ids")
"""Types of features that are lists of ids."""
RESERVED = (
    "video_id", "duration_ms", "watch_ms", "known_ms", "timestamp_ms", "watch_ratio", "answer", "answered_at_ms"
)  # fmt: skip
"""Names that the data contract reserves for candidate and history columns."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A column that becomes a feature or an outcome. `name = "column"` is short for a column of the default type."""

    column: str
    """The log's column."""
    type: Literal["id", "ids", "weighted_ids", "text", "texts", "float", "floats", "flag"] = "id"
    """id: an integer; ids: a list of integers; text: any text, hashed to a 63-bit id; texts: a list of texts, each
    hashed; flag: 0 or 1, or a boolean; weighted_ids: a list of structs of `id` and `weight`, as text 12:0.5|7:1;
    floats: a list of `length` numbers. As text, every list may be JSON."""
    default: float | None = None
    """Replaces a null and a bad cell, which is counted, and the feature of an unknown user or video under the rule
    `default`; None: a null or a bad cell makes the row bad, and an unknown user or video gets 0. A missing list of ids
    is an empty list; a bad one, too, if there is a default of any value. The default of `floats` is that of each
    number."""
    length: int | None = None
    """Numbers in each list of type `floats`."""

    def __post_init__(self) -> None:
        if self.type == "floats":
            given = self.length is not None and self.length >= 1
            require(given, f"{self.column}: length", self.length, "the numbers in each list, at least 1")
        else:
            require(self.length is None, f"{self.column}: length", self.length, f"none for type {self.type!r}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Location and format of a raw table."""

    path: str | None = None
    """A file, a glob, or a directory (hive partitions are columns); relative to the TOML file. Every visible file
    below a directory is read."""
    table: str | None = None
    """In place of `path`: a table or view of Spark's catalog, such as `logs.impressions`. Needs the engine `spark`."""
    format: Literal["auto", "parquet", "csv"] = "auto"
    """auto: Parquet by content, CSV by name (or a name without a suffix)."""
    delimiter: str = ","
    """Separator of the cells of a CSV file."""
    quote: str = '"'
    """Quotes a cell of a CSV file; empty: no cell is quoted."""
    escape: str | None = None
    """Stands before a quote within a quoted cell; None: the quote itself, so it is doubled."""
    header: bool | tuple[str, ...] = True
    """true: each CSV file begins with a line of column names. A list of names, or false, if none does: the columns are
    then named 1, 2, ..."""
    encoding: str = "utf-8-sig"
    """Of CSV files; a mark at the beginning is allowed."""
    nulls: tuple[str, ...] = ("\\N", "NULL", "")
    """Texts that stand for null, without the spaces around them. An empty cell of a CSV file always does."""
    list_separator: str = "|"
    """Separator of the items of a list, in CSV or in a text column; not of lists in JSON."""
    time_unit: TimeUnit = "ms"
    """Unit of all times in the table; unix time."""
    time_zone: str | None = None
    """Zone of timestamps without one, such as Asia/Shanghai; None: that of the build."""
    max_bad_share: float | None = None
    """Largest share of rows that cannot be read; None: that of the build. 1 also allows a table of which no row is
    kept."""

    def __post_init__(self) -> None:
        name = {ImpressionRules: "impressions", AnswerRules: "answers", Users: "users", Videos: "videos"}[type(self)]
        # That one of them is given is checked by `parse`, which lists it beside other problems of the table.
        both = self.path is not None and self.table is not None
        require(not both, f"{name}.table", self.table, "either path or table, not both")
        require(self.path != "", f"{name}.path", self.path, "a file, a glob or a directory")
        require(self.table != "", f"{name}.table", self.table, "the name of a table")
        lines = {"\n", "\r"}
        letters = "text without line ends"
        require(bool(self.delimiter) and not lines & {*self.delimiter}, f"{name}.delimiter", self.delimiter, letters)
        quotes = len(self.quote) <= 1 and self.quote.isascii() and not lines & {self.quote}
        require(quotes, f"{name}.quote", self.quote, "one ASCII character, or none")
        if self.escape is not None:
            right = len(self.escape) == 1 and self.escape.isascii() and bool(self.quote) and not lines & {self.escape}
            require(right, f"{name}.escape", self.escape, "one ASCII character, and only with a quote")
        require(_is_text_encoding(self.encoding), f"{name}.encoding", self.encoding, "a text encoding of Python")
        if self.max_bad_share is not None:
            share = self.max_bad_share
            require(0 <= share <= 1, f"{name}.max_bad_share", share, "between 0 and 1")

    @property
    def where(self) -> str:
        """Where the rows are, for messages."""
        return repr(self.path) if self.table is None else f"table {self.table!r}"


@dataclass(frozen=True, kw_only=True)
class ImpressionColumns:
    """Columns of the impressions (or watch events)."""

    user_id: str
    video_id: str
    timestamp: str
    """Start of the impression."""
    watch: str
    """Watch time."""
    request_id: str | None = None
    """None: requests are formed by sessions."""
    duration: str | None = None
    """Length of the video; None: the videos table has it."""
    shown: str | None = None
    """Whether the questionnaire was shown (0 or 1)."""


@dataclass(frozen=True, kw_only=True)
class ImpressionRules(Source):
    """Impressions: one row per video that was shown to a user."""

    columns: ImpressionColumns
    watch_unit: Unit = "ms"
    duration_unit: Unit = "ms"
    outcomes: dict[str, Field] = field(default_factory=dict)
    """Engagement outcomes, of type `flag` by default. Without an outcome `long_view`, it is computed by the trigger
    rule."""
    features: dict[str, Field] = field(default_factory=dict)
    """Candidate features that were known when the request was served."""


@dataclass(frozen=True, kw_only=True)
class UserColumns:
    user_id: str
    valid_from: str | None = None
    """Time from which a version of the row is valid; None: one row per user, always valid."""


@dataclass(frozen=True, kw_only=True)
class Users(Source):
    """User features, static or as versions."""

    columns: UserColumns
    features: dict[str, Field]
    missing: Literal["quarantine", "default"] = "quarantine"
    """Treatment of a request whose user has no version at its time: rejected, or built with default features."""


@dataclass(frozen=True, kw_only=True)
class VideoColumns:
    video_id: str
    duration: str | None = None
    """Length of the video."""
    valid_from: str | None = None
    """As in `Users`."""


@dataclass(frozen=True, kw_only=True)
class Videos(Source):
    """Video features, static or as versions. Held in memory."""

    columns: VideoColumns
    duration_unit: Unit = "ms"
    features: dict[str, Field] = field(default_factory=dict)
    history: tuple[str, ...] = ()
    """Features that history entries also have."""
    missing: Literal["quarantine", "default"] = "quarantine"
    """Treatment of an impression whose video has no version at the request's time; `default` needs a duration in the
    impressions."""


@dataclass(frozen=True, kw_only=True)
class AnswerColumns:
    video_id: str
    timestamp: str
    """Time of the answer."""
    answer: str
    """The chosen option."""
    user_id: str | None = None
    """None: taken from the impression, which needs request_id."""
    request_id: str | None = None
    """None: an answer belongs to the user's latest impression of the video at or before it."""


@dataclass(frozen=True, kw_only=True)
class AnswerRules(Source):
    """Replies to the questionnaire. Answers that a rule drops go to the quarantine with the reason."""

    columns: AnswerColumns
    window_h: float = 72.0
    """Attribution window after the impression, in hours; later answers are late."""
    late: Literal["drop", "keep"] = "drop"
    duplicate: Literal["first", "last"] = "first"
    """Which of several equal answers to one impression is used."""
    contradictory: Literal["drop", "first", "last"] = "drop"
    """Which of several different answers to one impression is used; drop: none."""
    untriggered: Literal["drop", "keep"] = "keep"
    """Treatment of an answer to an impression that does not meet the trigger rule."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.window_h > 0, "answers.window_h", self.window_h, "more than 0")


@dataclass(frozen=True, kw_only=True)
class Ids:
    """Key types; text is hashed to 63-bit ids. Ids that are no signed 64-bit integers are text: UUIDs, unsigned 64-bit
    integers, ids with leading zeros."""

    user: IdType = "integer"
    video: IdType = "integer"
    request: IdType = "integer"


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Formation of requests from impressions, and their histories."""

    session_gap_s: float = 1_800.0
    """Without request ids: a pause longer than this, in seconds, starts a new request."""
    max_candidates: int = 50
    """Without request ids: maximum number of impressions in a request."""
    max_history: int = 50
    """Maximum length of a history, in entries."""
    history: Literal["watched", "long_view"] = "watched"
    """Earlier impressions that form the history: those with any watch time, or those that met the trigger rule."""

    def __post_init__(self) -> None:
        require(self.session_gap_s >= 0, "requests.session_gap_s", self.session_gap_s, "0 or more")
        require(self.max_candidates >= 1, "requests.max_candidates", self.max_candidates, "at least 1")
        require(self.max_history >= 0, "requests.max_history", self.max_history, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Output:
    """Layout of the files. The defaults suit the reader, which decodes and shuffles whole row groups."""

    row_group: int = 2_048
    """Requests per row group."""
    file_row_groups: int = 64
    """Row groups per file, at most."""
    slice_h: int = 24
    """Hours per time slice, stored in a separate folder; a divisor of 24."""
    hive: bool = False
    """True: folders date=2024-01-31 (and hour=06 if slices are shorter than a day); False: 20240131T06."""

    def __post_init__(self) -> None:
        require(self.row_group >= 1, "output.row_group", self.row_group, "at least 1")
        require(self.file_row_groups >= 1, "output.file_row_groups", self.file_row_groups, "at least 1")
        require(self.slice_h >= 1 and 24 % self.slice_h == 0, "output.slice_h", self.slice_h, "a divisor of 24")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Resources; none of them changes the result."""

    memory_mb: int = 1_024
    """Memory limit of the SQL engine, which spills to `temp`."""
    threads: int = 2
    """Threads of the SQL engine."""
    temp: str | None = None
    """Directory of the engine's temporary files; None: next to the output."""
    bucket_impressions: int = 500_000
    """Impressions per bucket of users; a bucket is built in memory (about 600 bytes per impression)."""

    def __post_init__(self) -> None:
        require(self.memory_mb >= 64, "engine.memory_mb", self.memory_mb, "at least 64")
        require(self.threads >= 1, "engine.threads", self.threads, "at least 1")
        require(self.bucket_impressions >= 1, "engine.bucket_impressions", self.bucket_impressions, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Build:
    """The whole file."""

    impressions: ImpressionRules
    answers: AnswerRules | None = None
    """None: the answers dataset is empty."""
    users: Users | None = None
    """None: requests have no user features besides user_id."""
    videos: Videos | None = None
    """None: candidates have no features besides video_id and those of the impressions."""
    ids: Ids = Ids()
    questionnaire: Questionnaire = field(default_factory=Questionnaire)
    requests: Requests = Requests()
    output: Output = Output()
    engine: Engine = Engine()
    time_zone: str = "UTC"
    """Zone of timestamps without one, such as Asia/Shanghai, in tables that name no other."""
    max_bad_share: float = 0.05
    """Largest share of a table's rows that cannot be read, in tables that name no other. Beyond it, and if no row of a
    table is kept, there is no output."""

    def __post_init__(self) -> None:
        require(0 <= self.max_bad_share <= 1, "max_bad_share", self.max_bad_share, "between 0 and 1")
        problems = [*self._names(), *self._relations(), *self._options()]
        if problems:
            raise UserError("\n".join(problems))

    @property
    def video_features(self) -> dict[str, Field]:
        return self.videos.features if self.videos is not None else {}

    @property
    def user_features(self) -> dict[str, Field]:
        return self.users.features if self.users is not None else {}

    @property
    def sources(self) -> dict[str, Source]:
        """The raw tables by name."""
        tables = {name: getattr(self, name) for name in ("impressions", "answers", "users", "videos")}
        return {name: source for name, source in tables.items() if source is not None}

    def zone_of(self, source: Source) -> str:
        """Time zone of a table's timestamps without one."""
        return self.time_zone if source.time_zone is None else source.time_zone

    def bad_share_of(self, source: Source) -> float:
        """Largest share of a table's rows that cannot be read."""
        return self.max_bad_share if source.max_bad_share is None else source.max_bad_share

    def _options(self) -> Iterator[str]:
        """Options of the questionnaire that are one number, but different answers."""
        seen: dict[float, str] = {}
        for option, code in self.questionnaire.codes.items():
            number = as_number(option)
            if number is not None and self.questionnaire.codes[seen.setdefault(number, option)] != code:
                yield f"questionnaire.options: {seen[number]!r} and {option!r} are the same number: keep one"

    def _names(self) -> list[str]:
        """Problems with names of features and outcomes that are already used."""
        problems = []
        owners = dict.fromkeys(RESERVED, "the data contract")
        groups = (
            ("videos.features", self.video_features),
            ("impressions.features", self.impressions.features),
            ("impressions.outcomes", self.impressions.outcomes),
        )
        for place, fields in groups:
            for name in fields:
                if name in owners:
                    problems.append(f"{place}.{name}: the name is used by {owners[name]}: choose another")
                owners.setdefault(name, place)
        for place, fields in (*groups, ("users.features", self.user_features)):
            lower: dict[str, str] = {}
            for name in fields:
                if lower.setdefault(name.lower(), name) != name:
                    problems.append(f"{place}.{name}: differs from {lower[name.lower()]} in case only: rename one")
        if "user_id" in self.user_features:
            problems.append("users.features.user_id: every request already has a column user_id: remove it")
        return problems

    def _relations(self) -> list[str]:
        """Problems between tables."""
        problems = []
        timed = self.impressions.columns.duration is not None
        listed = self.videos is not None and self.videos.columns.duration is not None
        if not timed and not listed:
            problems.append(
                "impressions.columns.duration and videos.columns.duration are missing: one of them must name the "
                "column with the videos' length"
            )
        if self.videos is not None:
            if self.videos.missing == "default" and not timed:
                problems.append(
                    "videos.missing: 'default' leaves unknown videos without a length: set impressions.columns."
                    "duration, or use 'quarantine'"
                )
            for name in self.videos.history:
                known = [feature for feature, spec in self.videos.features.items() if spec.type not in ID_LISTS]
                if name not in known:
                    problems.append(f"videos.history: {name!r} is no feature of videos without ids in lists: {known}")
        if self.answers is not None:
            keyed = self.answers.columns.request_id is not None
            if keyed and self.impressions.columns.request_id is None:
                problems.append("answers.columns.request_id: the impressions have no request_id: remove it")
            if not keyed and self.answers.columns.user_id is None:
                problems.append("answers.columns.user_id and request_id are missing: add one of them")
        return problems


def as_number(text: str) -> float | None:
    """The finite number that a text spells, if it does."""
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _is_text_encoding(name: str) -> bool:
    try:
        return isinstance("".encode(name), bytes)
    except (LookupError, ValueError):
        return False
