"""What the builder is told: where the raw tables lie, what their columns mean, and the rules. No torch import.

One TOML file holds it (`parse.py` reads it); every class below is one of its tables. Column names are the log's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from easq_rec.answers.questionnaire import Questionnaire
from easq_rec.config.schema import require
from easq_rec.errors import UserError

TimeUnit = Literal["s", "ms", "us", "timestamp"]
"""`timestamp`: a timestamp column of Parquet, or ISO 8601 text; without a zone it is UTC."""
Unit = Literal["s", "ms", "us"]
IdType = Literal["integer", "text"]

RESERVED = ("video_id", "duration_ms", "watch_ms", "timestamp_ms", "watch_ratio", "answer", "answered_at_ms")
"""Names that the data contract gives to candidate and history columns of its own."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A column that becomes a feature or an outcome. `name = "column"` is short for a column of the default type."""

    column: str
    """The log's column."""
    type: Literal["id", "ids", "text", "float", "flag"] = "id"
    """id: an integer; ids: a list of integers; text: any text, hashed to a 63-bit id; flag: 0 or 1, or a boolean."""
    default: float | None = None
    """Stands for a null, and for the feature of an unknown user or video under the rule `default`; None: a null makes
    the row a bad one, and an unknown user or video gets 0. An absent list is an empty list."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a raw table lies."""

    path: str
    """A file, a glob, or a directory (hive partitions are columns); relative to the TOML file."""
    format: Literal["auto", "parquet", "csv"] = "auto"
    """auto: by the files' names."""
    delimiter: str = ","
    """Between the cells of a CSV file, which starts with a line of names."""
    list_separator: str = "|"
    """Between the ids of a list, in CSV or where the column is text."""
    time_unit: TimeUnit = "ms"
    """Of all points in time of the table; unix time."""


@dataclass(frozen=True, kw_only=True)
class ImpressionColumns:
    """Columns of the impressions (or watch events)."""

    user_id: str
    video_id: str
    timestamp: str
    """When the impression began."""
    watch: str
    """How long it was watched."""
    request_id: str | None = None
    """None: requests are formed by sessions."""
    duration: str | None = None
    """Length of the video, if the log says so; else the videos table does."""
    shown: str | None = None
    """Whether the questionnaire was shown (0 or 1)."""


@dataclass(frozen=True, kw_only=True)
class ImpressionRules(Source):
    """One row per video that was shown to a user."""

    columns: ImpressionColumns
    watch_unit: Unit = "ms"
    duration_unit: Unit = "ms"
    outcomes: dict[str, Field] = field(default_factory=dict)
    """Engagement outcomes, type `flag` unless said otherwise. `long_view` is the trigger rule unless it is one."""
    features: dict[str, Field] = field(default_factory=dict)
    """Candidate features that were known when the request was served."""


@dataclass(frozen=True, kw_only=True)
class UserColumns:
    user_id: str
    valid_from: str | None = None
    """From when on a version of the row holds; None: the table has one row per user, which always held."""


@dataclass(frozen=True, kw_only=True)
class Users(Source):
    """User features, static or as versions."""

    columns: UserColumns
    features: dict[str, Field]
    missing: Literal["quarantine", "default"] = "quarantine"
    """What becomes of a request whose user has no version at its time: refused, or served with default features."""


@dataclass(frozen=True, kw_only=True)
class VideoColumns:
    video_id: str
    duration: str | None = None
    """Length of the video."""
    valid_from: str | None = None
    """As for users."""


@dataclass(frozen=True, kw_only=True)
class Videos(Source):
    """Video features, static or as versions. Held in memory."""

    columns: VideoColumns
    duration_unit: Unit = "ms"
    features: dict[str, Field] = field(default_factory=dict)
    history: tuple[str, ...] = ()
    """Features that history entries carry as well."""
    missing: Literal["quarantine", "default"] = "quarantine"
    """What becomes of an impression whose video has no version at the request's time; `default` needs a duration in
    the impressions."""


@dataclass(frozen=True, kw_only=True)
class AnswerColumns:
    video_id: str
    timestamp: str
    """When the answer was given."""
    answer: str
    """The chosen option."""
    user_id: str | None = None
    """None: found through the impression; needs request_id."""
    request_id: str | None = None
    """None: an answer belongs to the user's latest impression of the video at or before it."""


@dataclass(frozen=True, kw_only=True)
class AnswerRules(Source):
    """Replies to the questionnaire. What a rule drops goes to the quarantine, with the reason."""

    columns: AnswerColumns
    window_h: float = 72.0
    """An answer later than this after its impression, in hours, is late."""
    late: Literal["drop", "keep"] = "drop"
    duplicate: Literal["first", "last"] = "first"
    """Which of several equal answers to one impression counts."""
    contradictory: Literal["drop", "first", "last"] = "drop"
    """Which of several different answers to one impression counts; drop: none."""
    untriggered: Literal["drop", "keep"] = "keep"
    """Whether an answer to an impression counts that the trigger rule would not have asked about."""

    def __post_init__(self) -> None:
        require(self.window_h > 0, "answers.window_h", self.window_h, "more than 0")


@dataclass(frozen=True, kw_only=True)
class Ids:
    """Types of the keys; text is hashed to 63-bit ids."""

    user: IdType = "integer"
    video: IdType = "integer"
    request: IdType = "integer"


@dataclass(frozen=True, kw_only=True)
class Requests:
    """How impressions become requests, and what a request remembers."""

    session_gap_s: float = 1_800.0
    """Without request ids: a pause longer than this, in seconds, starts a new request."""
    max_candidates: int = 50
    """Without request ids: so many impressions at most make one request."""
    max_history: int = 50
    """Longest history, in entries."""
    history: Literal["watched", "long_view"] = "watched"
    """Which earlier impressions are history: those watched at all, or those that met the trigger rule."""

    def __post_init__(self) -> None:
        require(self.session_gap_s >= 0, "requests.session_gap_s", self.session_gap_s, "0 or more")
        require(self.max_candidates >= 1, "requests.max_candidates", self.max_candidates, "at least 1")
        require(self.max_history >= 0, "requests.max_history", self.max_history, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Output:
    """Shape of the files. The defaults suit the reader: a row group is what it decodes and shuffles at once."""

    row_group: int = 2_048
    """Requests per row group."""
    file_row_groups: int | None = None
    """Row groups per file. None: 64, but 1 where several partitions are built: files are named by their first request's
    time, so only with one row group each do the names bring those of all partitions into order of time."""
    slice_h: int = 24
    """Hours per time slice, a folder of its own; a divisor of 24."""
    hive: bool = False
    """True: folders date=2024-01-31 (and hour=06 where a slice is shorter than a day); False: 20240131T06."""

    def __post_init__(self) -> None:
        require(self.row_group >= 1, "output.row_group", self.row_group, "at least 1")
        if self.file_row_groups is not None:
            require(self.file_row_groups >= 1, "output.file_row_groups", self.file_row_groups, "at least 1")
        require(self.slice_h >= 1 and 24 % self.slice_h == 0, "output.slice_h", self.slice_h, "a divisor of 24")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Resources; none of them changes the result."""

    memory_mb: int = 1_024
    """Bound of the SQL engine's memory; beyond it, the engine writes to `temp`."""
    threads: int = 2
    """Threads of the SQL engine."""
    temp: str | None = None
    """Directory of the engine's temporary files; None: beside the output."""
    bucket_impressions: int = 500_000
    """Impressions of a bucket of users, which is built in memory (about 600 bytes each)."""

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

    def __post_init__(self) -> None:
        problems = [*self._names(), *self._relations()]
        if problems:
            raise UserError("\n".join(problems))

    @property
    def video_features(self) -> dict[str, Field]:
        return self.videos.features if self.videos is not None else {}

    @property
    def user_features(self) -> dict[str, Field]:
        return self.users.features if self.users is not None else {}

    def _names(self) -> list[str]:
        """Features and outcomes whose name is taken."""
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
                    problems.append(f"{place}.{name}: the name belongs to {owners[name]}: choose another")
                owners.setdefault(name, place)
        if "user_id" in self.user_features:
            problems.append("users.features.user_id: user_id is a column of every request already: leave it out")
        return problems

    def _relations(self) -> list[str]:
        """Tables that do not go together."""
        problems = []
        timed = self.impressions.columns.duration is not None
        listed = self.videos is not None and self.videos.columns.duration is not None
        if not timed and not listed:
            problems.append(
                "impressions.columns.duration: missing, and videos.columns.duration too: one of them must name the "
                "column with the videos' length"
            )
        if self.videos is not None:
            if self.videos.missing == "default" and not timed:
                problems.append(
                    "videos.missing: 'default' leaves unknown videos without a length: name impressions.columns."
                    "duration, or choose 'quarantine'"
                )
            for name in self.videos.history:
                known = [feature for feature, spec in self.videos.features.items() if spec.type != "ids"]
                if name not in known:
                    problems.append(f"videos.history: {name!r} is not a single-valued feature of videos: {known}")
        if self.answers is not None:
            keyed = self.answers.columns.request_id is not None
            if keyed and self.impressions.columns.request_id is None:
                problems.append("answers.columns.request_id: the impressions have no request_id: leave it out")
            if not keyed and self.answers.columns.user_id is None:
                problems.append("answers.columns.user_id: missing, and request_id too: name one of them")
        return problems
