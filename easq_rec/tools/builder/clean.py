"""Cleans raw rows in SQL: casts every column, gives every bad row a reason, and drops no row.

A cleaned row has the builder's column names and types (`FIELD` + name for features and outcomes), `reason` (null: the
row is good), `defaulted` (null: no cell of the row was replaced by a default because it was bad), and for bad rows
`raw` (JSON of the original cells) and `place` (the file, and in Parquet the row).

The query has three levels. The innermost reads nulls: `raw.COLUMN` is the cell in the file, `cell.COLUMN` is null if
its text stands for null. The next one casts: `typed.NAME`. The outermost checks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from easq_rec.tools.builder.casts import (
    FLOATS,
    TEXTS,
    flag,
    float_list,
    hashed,
    id_list,
    integer,
    length_in_ms,
    number,
    option,
    point_in_time,
    weighted_ids,
)
from easq_rec.tools.builder.config import AnswerRules, Build, Field, ImpressionRules, Unit, Users, Videos
from easq_rec.tools.builder.sql import identifier, literal
from easq_rec.tools.builder.tables import FILE_PLACE, ROW, RawColumn, Scan

FIELD = "field."
"""Prefix of features and outcomes."""
MOST_MS = 2**42
"""Later times (year 2109) indicate another unit."""
MOST_LENGTH_MS = 2**31 - 1
ORPHAN = "orphan: no impression for it"
LOG_ORDER = '"place in the log"'
"""Column with the number of a row."""
PLACES = ("place.file", "place.row", "place.content")
"""Columns of cleaned rows that say where they belong in the log, if that is not the order in which they were read."""
SEPARATOR = "\n"
"""Between the reasons in `defaulted`."""

Check = tuple[str, str]
"""(condition for a bad cell, in SQL; reason)."""


@dataclass(kw_only=True)
class Cells:
    """The typed columns of one scan, and the checks that find bad rows."""

    table: str
    scan: Scan
    zone: str
    """Of timestamps without one."""
    columns: dict[str, str] = field(default_factory=dict)
    """Name: SQL expression over the cells."""
    checks: list[Check] = field(default_factory=list)
    """(condition over typed, raw and cell names, reason); the first true condition gives the reason."""
    defaults: dict[str, str] = field(default_factory=dict)
    """By name of a feature with a default: SQL of that, for a cell with a true condition."""
    replaced: dict[str, list[Check]] = field(default_factory=dict)
    """By name of a feature with a default: (condition, reason)."""

    def cell(self, column: str) -> tuple[str, str]:
        """(SQL name of a column's cells, their type). Binary cells are texts."""
        dtype = self.scan.columns[column].dtype
        return identifier(f"cell.{column}"), "VARCHAR" if dtype in ("BLOB", '"NULL"') else dtype

    def add(
        self, name: str, column: str, expression: str, *checks: tuple[str, str], default: str | None = None
    ) -> None:
        """Adds a typed column. Its checks refer to {typed}, {raw} and {cell}.

        Args:
            default: SQL of the value of a cell for which a check is true; None: such a cell makes the row bad.
        """
        self.columns[name] = expression
        if self.scan.columns[column].dtype == "BLOB":
            checks = (("{raw} IS NOT NULL AND TRY(decode({raw})) IS NULL", "is binary, and no text in UTF-8"), *checks)
        names = {"typed": typed(name), "raw": raw(column), "cell": identifier(f"cell.{column}")}
        made = [(_named(condition, names), f"{column} {reason}") for condition, reason in checks]
        if default is None:
            self.checks += made
        else:
            self.defaults[name], self.replaced[name] = default, made

    def key(self, name: str, column: str, kind: str) -> None:
        sql, dtype = self.cell(column)
        null = ("{cell} IS NULL" + (" OR {cell} = ''" if dtype in TEXTS else ""), "is null")
        if kind == "text":
            expression, wrong = hashed(sql, dtype), "is not a text"
        else:
            declared = f"ids.{name.removesuffix('_id')} = 'text'"
            expression, wrong = integer(sql, dtype), _not_integer(dtype, declared)
        self.add(name, column, expression, null, *_inexact(dtype), ("{typed} IS NULL", wrong))

    def time(self, name: str, column: str) -> None:
        source = self.scan.source
        sql, dtype = self.cell(column)
        unit = f"is not between 0 and 2**42 ms: is {self.table}.time_unit right?"
        local = source.time_unit == "timestamp" and self.zone != "UTC"
        clock = f", or one that the clocks of {self.zone} skip or repeat: such a time needs an offset" if local else ""
        self.add(
            name,
            column,
            point_in_time(sql, dtype, source.time_unit, self.zone),
            ("{cell} IS NULL", "is null"),
            ("{typed} IS NULL", f"is not a point in time{clock}"),
            (f"{{typed}} < 0 OR {{typed}} >= {MOST_MS}", unit),
        )

    def length(self, name: str, column: str, unit: Unit, *, least: int) -> None:
        """Adds a duration in whole milliseconds."""
        sql, dtype = self.cell(column)
        value = number(sql, dtype)
        self.add(
            name,
            column,
            length_in_ms(sql, dtype, unit),
            ("{cell} IS NULL", "is null"),
            (f"{value} IS NULL OR isnan({value})", "is not a number"),
            (f"{value} < 0", "is negative"),
            (f"{{typed}} IS NULL OR {{typed}} > {MOST_LENGTH_MS}", "is more than 2**31 - 1 ms"),
            (f"{{typed}} < {least}", f"is less than {least} ms"),
        )

    def feature(self, name: str, spec: Field) -> None:
        """Adds a feature or an outcome."""
        sql, dtype = self.cell(spec.column)
        separator = self.scan.source.list_separator
        null, missing = ("{cell} IS NULL", "is null"), ("{typed} IS NULL", "is not a list")
        checks: tuple[Check, ...]
        match spec.type:
            case "id":
                value, checks = (
                    integer(sql, dtype),
                    (*_inexact(dtype), ("{typed} IS NULL", _not_integer(dtype, "type = 'text'"))),
                )
                sql_type = "BIGINT"
            case "text":
                value, checks, sql_type = hashed(sql, dtype), (("{typed} IS NULL", "is not a text"),), "BIGINT"
                checks = (*_inexact(dtype), *checks)
            case "float":
                value, sql_type = f"TRY_CAST({number(sql, dtype)} AS FLOAT)", "FLOAT"
                checks = (("{typed} IS NULL OR NOT isfinite({typed})", "is not a finite number"),)
            case "flag":
                value, checks, sql_type = flag(sql, dtype), (("{typed} IS NULL", "is not 0 or 1"),), "TINYINT"
            case "ids" | "texts":
                texts = spec.type == "texts"
                value, sql_type = id_list(sql, dtype, separator, texts=texts), "BIGINT[]"
                what = "an item is not a text" if texts else "an item is not an integer"
                checks = (missing, ("list_count({typed}) < len({typed})", what))
            case "weighted_ids":
                value, sql_type = weighted_ids(sql, dtype, separator), "STRUCT(id BIGINT, weight FLOAT)[]"
                no_id = "len([pair FOR pair IN {typed} IF pair.id IS NOT NULL]) < len({typed})"
                good = "len([pair FOR pair IN {typed} IF isfinite(pair.weight) AND pair.weight >= 0])"
                checks = (
                    missing,
                    (no_id, "holds an id that is not an integer"),
                    (f"{good} < len({{typed}})", "holds a weight that is not a number of 0 or more"),
                )
            case "floats":
                value, sql_type = float_list(sql, dtype, separator), "FLOAT[]"
                finite = "len([number FOR number IN {typed} IF isfinite(number)])"
                checks = (
                    missing,
                    (f"len({{typed}}) <> {spec.length}", f"does not hold {spec.length} numbers"),
                    (f"{finite} < len({{typed}})", "holds what is not a finite number"),
                )
        default = _default(spec, sql_type)
        if spec.type in ("ids", "texts", "weighted_ids"):
            self.add(FIELD + name, spec.column, f"CAST({value} AS {sql_type})", *checks, default=default)
            return
        if default is None:
            checks = (null, *checks)
        else:
            value = f"CASE WHEN {sql} IS NULL THEN {default} ELSE {value} END"
        self.add(FIELD + name, spec.column, f"CAST({value} AS {sql_type})", *checks, default=default)


def typed(name: str) -> str:
    """Name of a typed column in the inner query."""
    return identifier(f"typed.{name}")


def raw(column: str) -> str:
    """Name of a raw column in the inner query; the log may use any column names."""
    return identifier(f"raw.{column}")


def cells(build: Build, table: str, scan: Scan) -> Cells:
    """The typed columns of a scan of one of the raw tables."""
    source, made = scan.source, Cells(table=table, scan=scan, zone=build.zone_of(scan.source))
    columns = vars(source)["columns"]
    for name, kind in vars(build.ids).items():
        column = getattr(columns, f"{name}_id", None)
        if column is not None:
            made.key(f"{name}_id", column, kind)
    match source:
        case ImpressionRules():
            made.time("timestamp_ms", source.columns.timestamp)
            made.length("watch_ms", source.columns.watch, source.watch_unit, least=0)
            if source.columns.duration is not None:
                made.length("duration_ms", source.columns.duration, source.duration_unit, least=1)
            if source.columns.shown is not None:
                sql, dtype = made.cell(source.columns.shown)
                value = f"CASE WHEN {sql} IS NULL THEN 0 ELSE {flag(sql, dtype)} END"
                made.add("shown", source.columns.shown, value, ("{typed} IS NULL", "is not 0 or 1"))
            for name, spec in (source.features | source.outcomes).items():
                made.feature(name, spec)
        case Users() | Videos():
            if source.columns.valid_from is not None:
                made.time("valid_from", source.columns.valid_from)
            if isinstance(source, Videos) and source.columns.duration is not None:
                made.length("duration_ms", source.columns.duration, source.duration_unit, least=1)
            for name, spec in source.features.items():
                made.feature(name, spec)
        case AnswerRules():
            made.time("timestamp_ms", source.columns.timestamp)
            sql, dtype = made.cell(source.columns.answer)
            value = f"CAST({option(sql, dtype, build.questionnaire.codes)} AS TINYINT)"
            unknown = ("{typed} IS NULL", "is not an option of the questionnaire")
            made.add("answer", source.columns.answer, value, ("{cell} IS NULL", "is null"), unknown)
    return made


def select(made: Cells, relation: str, *, owner: str | None = None) -> str:
    """The cleaning query over the relation of a scan.

    Args:
        owner: a table (request_id, video_id, user_id) with the user of each answer.
    """
    columns = made.scan.columns
    innermost = [f"{column.sql} AS {raw(name)}" for name, column in columns.items()]
    innermost += [
        f"{_cell(column, made.scan.source.nulls)} AS {identifier(f'cell.{name}')}" for name, column in columns.items()
    ]
    place, place_columns = made.scan.place
    stored = (FILE_PLACE, ROW) if made.scan.order == "stored" else ()
    read = f"(SELECT {', '.join([*innermost, *dict.fromkeys([*place_columns, *stored])])} FROM {relation})"
    casts = ", ".join(f"{expression} AS {typed(name)}" for name, expression in made.columns.items())
    rows, checks, names = f"(SELECT *, {casts} FROM {read})", list(made.checks), list(made.columns)
    if owner is not None:
        join = f"{typed('request_id')} = o.request_id AND {typed('video_id')} = o.video_id"
        # A join may change the order of the log, which decides between duplicates.
        numbered = f"(SELECT *, row_number() OVER () AS {LOG_ORDER} FROM {rows})"
        joined = f"SELECT c.*, o.user_id AS {typed('user_id')} FROM {numbered} c LEFT JOIN {owner} o ON {join}"
        rows = f"({joined} ORDER BY {LOG_ORDER})"
        checks.append((f"{typed('user_id')} IS NULL", ORPHAN))
        names.append("user_id")
    cases = " ".join(f"WHEN {condition} THEN {literal(reason)}" for condition, reason in checks)
    row = ", ".join(f"{literal(name)}, {_as_json(raw(name), column.dtype)}" for name, column in columns.items())
    bad = "reason IS NOT NULL"
    content = (f"CAST(json_object({row}) AS VARCHAR)",) if made.scan.order == "content" else ()
    places = zip((*stored, *content), PLACES[:2] if stored else PLACES[2:], strict=True) if stored or content else ()
    kept = [*((_or_default(made, name), name) for name in names), *places]
    return (
        f"SELECT {', '.join(f'{value} AS {identifier(name)}' for value, name in kept)}, reason, "
        f"CASE WHEN reason IS NULL THEN {_defaulted(made)} END AS defaulted, "
        f"CASE WHEN {bad} THEN CAST(json_object({row}) AS VARCHAR) END AS raw, "
        f"CASE WHEN {bad} THEN {place} END AS place "
        f"FROM (SELECT *, CASE {cases} END AS reason FROM {rows})"
    )


def _cell(column: RawColumn, nulls: tuple[str, ...]) -> str:
    """SQL of a cell, null if its text stands for null."""
    text = column.sql
    if column.dtype == "BLOB":
        text = f"TRY(decode({text}))"
    elif column.dtype == '"NULL"':
        return f"CAST({text} AS VARCHAR)"
    elif column.dtype not in TEXTS:
        return text
    if not nulls:
        return text
    return f"CASE WHEN trim({text}) NOT IN ({', '.join(map(literal, nulls))}) THEN {text} END"


def _or_default(made: Cells, name: str) -> str:
    if name not in made.replaced:
        return typed(name)
    wrong = " OR ".join(f"({condition})" for condition, _ in made.replaced[name])
    return f"CASE WHEN {wrong} THEN {made.defaults[name]} ELSE {typed(name)} END"


def _defaulted(made: Cells) -> str:
    """SQL of the reasons why cells of a row were replaced by defaults; null if there are none."""
    reasons = []
    for conditions in made.replaced.values():
        cases = " ".join(f"WHEN {condition} THEN {literal(reason)}" for condition, reason in conditions)
        reasons.append(f"CASE {cases} END")
    if not reasons:
        return "CAST(NULL AS VARCHAR)"
    return f"nullif(concat_ws({literal(SEPARATOR)}, {', '.join(reasons)}), '')"


def _default(spec: Field, sql_type: str) -> str | None:
    """SQL of a feature's default, or None."""
    if spec.default is None:
        return None
    match spec.type:
        case "ids" | "texts" | "weighted_ids":
            value = "[]"
        case "floats":
            value = repr([spec.default] * (spec.length or 0))
        case "float":
            value = repr(spec.default)
        case _:
            value = str(int(spec.default))
    return f"CAST({value} AS {sql_type})"


def _inexact(dtype: str) -> tuple[Check, ...]:
    """A check that floats are exact integers, where each may stand for several."""
    if dtype not in FLOATS:
        return ()
    most = f"2**{FLOATS[dtype].bit_length() - 1}"
    return ((f"abs({{cell}}) >= {FLOATS[dtype]}", f"is a float of {most} or more, which several ids may have become"),)


def _not_integer(dtype: str, declared: str) -> str:
    return (
        "is not an integer"
        if dtype in FLOATS
        else f"is not an integer of 64 bits with a sign: {declared} reads any text"
    )


def _as_json(sql: str, dtype: str) -> str:
    """SQL of a value in JSON, which has no NaN."""
    if dtype in FLOATS:
        return f"CASE WHEN isfinite({sql}) THEN to_json({sql}) ELSE to_json(CAST({sql} AS VARCHAR)) END"
    return f"CAST({sql} AS VARCHAR)" if any(name in dtype for name in FLOATS) else sql


def _named(condition: str, names: dict[str, str]) -> str:
    return re.sub(r"\{(typed|raw|cell)\}", lambda found: names[found[1]], condition)
