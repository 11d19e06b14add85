"""Cleans raw rows in SQL: casts every column, gives every bad row a reason, and drops no row.

A cleaned row has the builder's column names and types (`FIELD` + name for features and outcomes), `reason` (null: the
row is good) and `raw` (JSON of the original cells, only for bad rows).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from easq_rec.tools.builder.config import AnswerRules, Build, Field, ImpressionRules, Users, Videos
from easq_rec.tools.builder.tables import RawTable, identifier, literal, wanted

FIELD = "field."
"""Prefix of features and outcomes."""
MOST_MS = 2**42
"""Later times (year 2109) indicate another unit."""
MOST_LENGTH_MS = 2**31 - 1
ORPHAN = "orphan: no impression for it"
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
TO_MS = {"s": "{0} * 1000", "ms": "{0}", "us": "{0} / 1000"}
"""Conversion of a DOUBLE to milliseconds, by unit."""
WHOLE_TO_MS = {
    # Wider than the result, because an overflow would end the scan.
    "s": "TRY_CAST(CAST({0} AS HUGEINT) * 1000 AS BIGINT)",
    "ms": "CAST({0} AS BIGINT)",
    "us": "CAST({0} AS BIGINT) // 1000",
}
"""Conversion of an integer to milliseconds, by unit."""


@dataclass(kw_only=True)
class Cells:
    """The typed columns of one table, and the checks that find bad rows."""

    table: RawTable
    columns: dict[str, str] = field(default_factory=dict)
    """Name: SQL expression over the raw columns."""
    checks: list[tuple[str, str]] = field(default_factory=list)
    """(condition over `typed` and `raw` names, reason); the first true condition gives the reason."""

    def add(self, name: str, column: str, expression: str, *checks: tuple[str, str]) -> None:
        """Adds a typed column; its checks refer to {typed} and {raw}."""
        self.columns[name] = expression
        for condition, reason in checks:
            condition = condition.replace("{typed}", typed(name)).replace("{raw}", raw(column))
            self.checks.append((condition, f"{column} {reason}"))

    def key(self, name: str, column: str, kind: str) -> None:
        sql, dtype = identifier(column), self.table.types[column]
        expression = hashed(sql) if kind == "text" else integer(sql, dtype)
        empty = "{raw} IS NULL OR CAST({raw} AS VARCHAR) = ''" if dtype == "VARCHAR" else "{raw} IS NULL"
        self.add(name, column, expression, (empty, "is null"), ("{typed} IS NULL", "is not an integer"))

    def time(self, name: str, column: str) -> None:
        unit = f"is not between 0 and 2**42 ms: is {self.table.name}.time_unit right?"
        self.add(
            name,
            column,
            point_in_time(identifier(column), self.table.types[column], self.table.source.time_unit),
            ("{raw} IS NULL", "is null"),
            ("{typed} IS NULL", "is not a point in time"),
            (f"{{typed}} < 0 OR {{typed}} >= {MOST_MS}", unit),
        )

    def length(self, name: str, column: str, unit: str, *, least: int) -> None:
        """Adds a duration in whole milliseconds."""
        sql, dtype = identifier(column), self.table.types[column]
        if dtype in INTEGERS and unit != "us":
            value, number = WHOLE_TO_MS[unit].format(sql), "CAST({raw} AS DOUBLE)"
        else:
            value = f"TRY_CAST(round({TO_MS[unit].format(f'TRY_CAST({sql} AS DOUBLE)')}) AS BIGINT)"
            number = "TRY_CAST({raw} AS DOUBLE)"
        self.add(
            name,
            column,
            value,
            ("{raw} IS NULL", "is null"),
            (f"{number} IS NULL OR isnan({number})", "is not a number"),
            (f"{number} < 0", "is negative"),
            (f"{{typed}} IS NULL OR {{typed}} > {MOST_LENGTH_MS}", "is more than 2**31 - 1 ms"),
            (f"{{typed}} < {least}", f"is less than {least} ms"),
        )

    def feature(self, name: str, spec: Field) -> None:
        sql, dtype = identifier(spec.column), self.table.types[spec.column]
        default = None if spec.default is None else int(spec.default) if spec.type in ("id", "text") else spec.default
        bad = "is not an integer"
        match spec.type:
            case "id":
                value, sql_type = integer(sql, dtype), "BIGINT"
            case "text":
                value, sql_type = hashed(sql), "BIGINT"
            case "float":
                value, sql_type, bad = f"TRY_CAST({sql} AS FLOAT)", "FLOAT", "is not a finite number"
            case "flag":
                value, sql_type, bad = flag(sql, dtype), "TINYINT", "is not 0 or 1"
            case "ids":
                value = id_list(sql, dtype, self.table.source.list_separator)
                self.add(FIELD + name, spec.column, value, ("list_count({typed}) < len({typed})", f"an item {bad}"))
                return
            case "weighted_ids":
                value = weighted_ids(sql, dtype, self.table.source.list_separator)
                no_id = "len([pair FOR pair IN {typed} IF pair.id IS NOT NULL]) < len({typed})"
                good = "len([pair FOR pair IN {typed} IF isfinite(pair.weight) AND pair.weight >= 0])"
                no_weight = (f"{good} < len({{typed}})", "holds a weight that is not a number of 0 or more")
                self.add(FIELD + name, spec.column, value, (no_id, f"holds an id that {bad}"), no_weight)
                return
            case "floats":
                value = float_list(sql, dtype, self.table.source.list_separator)
                if default is not None:
                    defaults = f"CAST({[default] * (spec.length or 0)} AS FLOAT[])"
                    value = f"CASE WHEN {sql} IS NULL THEN {defaults} ELSE {value} END"
                wrong = (f"len({{typed}}) <> {spec.length}", f"does not hold {spec.length} numbers")
                finite = "len([number FOR number IN {typed} IF isfinite(number)])"
                strange = (f"{finite} < len({{typed}})", "holds what is not a finite number")
                self.add(FIELD + name, spec.column, value, ("{typed} IS NULL", "is null"), wrong, strange)
                return
        null: tuple[tuple[str, str], ...] = (("{raw} IS NULL", "is null"),)
        if default is not None:
            value, null = f"CASE WHEN {sql} IS NULL THEN {default!r} ELSE {value} END", ()
        broken = "{typed} IS NULL OR NOT isfinite({typed})" if spec.type == "float" else "{typed} IS NULL"
        self.add(FIELD + name, spec.column, f"CAST({value} AS {sql_type})", *null, (broken, bad))


def typed(name: str) -> str:
    """Name of a typed column in the inner query."""
    return identifier(f"typed.{name}")


def raw(column: str) -> str:
    """Name of a raw column in the inner query; the log may use any column names."""
    return identifier(f"raw.{column}")


def integer(sql: str, dtype: str) -> str:
    """A BIGINT; null if the value is not an integer. (A plain cast would round 3.7 to 4.)"""
    if dtype in INTEGERS:
        return f"CAST({sql} AS BIGINT)"
    whole = f"TRY_CAST({sql} AS BIGINT)"
    return f"CASE WHEN TRY_CAST({sql} AS DOUBLE) = CAST({whole} AS DOUBLE) THEN {whole} END"


def hashed(sql: str) -> str:
    """A 63-bit id of a text; null for an empty one."""
    return f"CAST(md5_number_lower(nullif(CAST({sql} AS VARCHAR), '')) >> 1 AS BIGINT)"


def flag(sql: str, dtype: str) -> str:
    if dtype in ("BOOLEAN", "VARCHAR"):
        return f"CAST(TRY_CAST({sql} AS BOOLEAN) AS TINYINT)"
    return f"CASE {sql} WHEN 0 THEN 0 WHEN 1 THEN 1 END"


def point_in_time(sql: str, dtype: str, unit: str) -> str:
    """Unix milliseconds. Fractions of a millisecond are truncated; seconds with a fraction are rounded."""
    if unit == "timestamp":
        # With a zone the value is an absolute time; a cast would convert it to this machine's time zone.
        return f"epoch_ms({sql})" if "ZONE" in dtype else f"epoch_ms(TRY_CAST({sql} AS TIMESTAMP))"
    if dtype in INTEGERS:
        return WHOLE_TO_MS[unit].format(sql)
    number = f"TRY_CAST({sql} AS DOUBLE)"
    return f"TRY_CAST({'round' if unit == 's' else 'floor'}({TO_MS[unit].format(number)}) AS BIGINT)"


def id_list(sql: str, dtype: str, separator: str) -> str:
    """A BIGINT[], empty for a null; an item that is not an integer becomes null."""
    if dtype.removesuffix("[]") in INTEGERS:
        return f"coalesce(CAST({sql} AS BIGINT[]), [])"
    if dtype == "VARCHAR":
        sql = f"CASE WHEN {sql} <> '' THEN str_split({sql}, {literal(separator)}) END"
    return f"coalesce([{integer('item', 'VARCHAR')} FOR item IN {sql}], [])"


def weighted_ids(sql: str, dtype: str, separator: str) -> str:
    """A list of structs of a BIGINT id and a FLOAT weight, empty for a null; what does not parse is null."""
    identity, weight = "item.id", "item.weight"
    if dtype == "VARCHAR":
        sql = f"CASE WHEN {sql} <> '' THEN str_split({sql}, {literal(separator)}) END"
        identity, weight = "str_split(item, ':')[1]", "str_split(item, ':')[2]"
    pair = f"{{'id': {integer(identity, 'VARCHAR')}, 'weight': TRY_CAST({weight} AS FLOAT)}}"
    return f"coalesce([{pair} FOR item IN {sql}], [])"


def float_list(sql: str, dtype: str, separator: str) -> str:
    """A FLOAT[]; null for a null or an empty text, and so are numbers that do not parse."""
    if dtype == "VARCHAR":
        sql = f"CASE WHEN {sql} <> '' THEN str_split({sql}, {literal(separator)}) END"
    return f"[TRY_CAST(item AS FLOAT) FOR item IN {sql}]"


def cells(build: Build, table: RawTable) -> Cells:
    """The typed columns of one of the raw tables."""
    source, made = table.source, Cells(table=table)
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
                sql = identifier(source.columns.shown)
                value = f"CASE WHEN {sql} IS NULL THEN 0 ELSE {flag(sql, table.types[source.columns.shown])} END"
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
            sql = identifier(source.columns.answer)
            options = " ".join(f"WHEN {literal(o)} THEN {code}" for o, code in build.questionnaire.codes.items())
            value = f"CAST(CASE trim(CAST({sql} AS VARCHAR)) {options} END AS TINYINT)"
            unknown = ("{typed} IS NULL", "is not an option of the questionnaire")
            made.add("answer", source.columns.answer, value, ("{raw} IS NULL", "is null"), unknown)
    return made


def select(made: Cells, scan: str, *, owner: str | None = None) -> str:
    """The cleaning query over one scan. `owner`: a table (request_id, video_id, user_id) with the user of each
    answer."""
    source_columns = dict.fromkeys(column for _, column, _ in wanted(made.table.source))
    inner = ", ".join(
        [f"{expression} AS {typed(name)}" for name, expression in made.columns.items()]
        + [f"{identifier(column)} AS {raw(column)}" for column in source_columns]
    )
    relation, checks, names = f"(SELECT {inner} FROM {scan})", list(made.checks), list(made.columns)
    if owner is not None:
        join = f"{typed('request_id')} = o.request_id AND {typed('video_id')} = o.video_id"
        relation = f"(SELECT c.*, o.user_id AS {typed('user_id')} FROM {relation} c LEFT JOIN {owner} o ON {join})"
        checks.append((f"{typed('user_id')} IS NULL", ORPHAN))
        names.append("user_id")
    cases = " ".join(f"WHEN {condition} THEN {literal(reason)}" for condition, reason in checks)
    row = ", ".join(f"{identifier(column)} := {raw(column)}" for column in source_columns)
    return (
        f"SELECT {', '.join(f'{typed(name)} AS {identifier(name)}' for name in names)}, reason, "
        f"CASE WHEN reason IS NOT NULL THEN CAST(to_json(struct_pack({row})) AS VARCHAR) END AS raw "
        f"FROM (SELECT *, CASE {cases} END AS reason FROM {relation})"
    )
