"""SQL that casts one cell: null for what is not of the wanted kind, never another value.

A cell is an SQL expression with its type: that of a Parquet column, or VARCHAR for a text, as every cell of a CSV file.
Spellings of one value are equal in both: the flags 1, 1.0, ` 1` and TRUE. Plain casts of the engine are not used where
they change a value: 3.7 to 4, a timestamp with an offset to one without, 1_000 to 1000.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from easq_rec.tools.builder.config import TimeUnit, Unit, as_number
from easq_rec.tools.builder.parquet_file import HALF, UTC_TIMESTAMP
from easq_rec.tools.builder.sql import literal

INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
"""Types whose values all are signed 64-bit integers."""
WIDE_INTEGERS = ("UBIGINT", "HUGEINT", "UHUGEINT")
FLOATS = {"DOUBLE": 2**53, "FLOAT": 2**24, HALF: 2**11}
"""Types, and the smallest whole number that several integers are rounded to."""
TEXTS = ("VARCHAR", "JSON")
TO_MS = {"s": "{0} * 1000", "ms": "{0}", "us": "{0} / 1000", "ns": "{0} / 1000000"}
"""Conversion of a DOUBLE to milliseconds, by unit."""
WHOLE_TO_MS = {
    # Wider than the result, because an overflow would end the scan.
    "s": "TRY_CAST(CAST({0} AS HUGEINT) * 1000 AS BIGINT)",
    "ms": "CAST({0} AS BIGINT)",
    "us": "CAST({0} AS BIGINT) // 1000",
    "ns": "CAST({0} AS BIGINT) // 1000000",
}
"""Conversion of an integer to milliseconds, by unit."""
INTEGER_TEXT = r"^ *(-?(?:0|[1-9][0-9]*))(?:\.0*)? *$"
"""An integer as text; its first group has no fraction. Leading zeros may tell two ids apart, so they are none."""
CLOCK = r"[0-9]{1,2}:[0-9]{1,2}(?::[0-9]{1,2}(?:\.[0-9]+)?)?"
DAY = r"[0-9]{4}([-/])[0-9]{1,2}[-/][0-9]{1,2}"
LOCAL_TEXT = rf" *{DAY}(?:(?:T| +){CLOCK})? *"
OFFSET_TEXT = rf" *{DAY}(?:T| +){CLOCK} *(?:[zZ]|UTC|GMT|[+-][0-9]{{2}}(?::?[0-9]{{2}}(?::?[0-9]{{2}})?)?) *"
NAMED_TEXT = rf" *{DAY}(?:T| +){CLOCK} +[A-Za-z]+(?:/[A-Za-z0-9_+-]+)+ *"
"""Times without a zone, with an offset, and with the name of a zone. What matches none of them, such as a time with PM,
would be read as another time."""
TRUE, FALSE = ("true", "t", "yes", "y"), ("false", "f", "no", "n")


def integer(sql: str, dtype: str) -> str:
    """A BIGINT; null for what is not an integer, or a float that may stand for several."""
    if dtype in INTEGERS:
        return f"CAST({sql} AS BIGINT)"
    if dtype in FLOATS:
        exact = f"{sql} = trunc({sql}) AND abs({sql}) < {FLOATS[dtype]}"
        return f"CASE WHEN {exact} THEN CAST({sql} AS BIGINT) END"
    text = sql if dtype in TEXTS else f"CAST({sql} AS VARCHAR)"
    # Most texts are equal to what their integer prints as, which is faster to see than by a regular expression.
    whole = f"TRY_CAST({text} AS BIGINT)"
    matched = f"TRY_CAST(regexp_extract({text}, {literal(INTEGER_TEXT)}, 1) AS BIGINT)"
    return f"CASE WHEN CAST({whole} AS VARCHAR) = {text} THEN {whole} ELSE {matched} END"


def hashed(sql: str, dtype: str) -> str:
    """A 63-bit id of a text; null for an empty one. A number counts as its shortest text."""
    if dtype in FLOATS:
        whole = f"WHEN {sql} = trunc({sql}) THEN CAST(CAST({sql} AS BIGINT) AS VARCHAR)"
        exact = f"isfinite({sql}) AND abs({sql}) < {FLOATS[dtype]}"
        sql = f"CASE WHEN NOT ({exact}) THEN NULL {whole} ELSE CAST({sql} AS VARCHAR) END"
    elif dtype.startswith("DECIMAL"):
        sql = rf"regexp_replace(CAST({sql} AS VARCHAR), '\.0*$', '')"
    return f"CAST(md5_number_lower(nullif(CAST({sql} AS VARCHAR), '')) >> 1 AS BIGINT)"


def number(sql: str, dtype: str) -> str:
    """A DOUBLE; null for what is not a number."""
    if dtype in TEXTS:
        return f"CASE WHEN NOT contains({sql}, '_') THEN TRY_CAST({sql} AS DOUBLE) END"
    return f"TRY_CAST({sql} AS DOUBLE)"


def flag(sql: str, dtype: str) -> str:
    """A TINYINT 0 or 1; null for all else."""
    if dtype == "BOOLEAN":
        return f"CAST({sql} AS TINYINT)"
    if dtype not in TEXTS:
        return f"CASE {sql} WHEN 0 THEN 0 WHEN 1 THEN 1 END"
    word = f"lower(trim({sql}))"
    value = f"CASE {number(sql, dtype)} WHEN 0 THEN 0 WHEN 1 THEN 1 END"
    other = f"CASE WHEN {word} IN {TRUE} THEN 1 WHEN {word} IN {FALSE} THEN 0 ELSE {value} END"
    return f"CASE {sql} WHEN '0' THEN 0 WHEN '1' THEN 1 ELSE {other} END"


def option(sql: str, dtype: str, codes: Mapping[str, int]) -> str:
    """The code of an option by its text, or by the number or truth value that it spells; null for all else."""
    text = f"trim(CAST({sql} AS VARCHAR))"
    value = f"CASE {text} {_cases(codes)}"
    numbers = {repr(known): code for text_, code in codes.items() if (known := as_number(text_)) is not None}
    if dtype == "BOOLEAN":
        words = {literal(text_.lower()): code for text_, code in codes.items() if text_.lower() in ("true", "false")}
        value += f" ELSE CASE {text} {_when(words)}" if words else ""
        value += f" ELSE CASE CAST({sql} AS INTEGER) {_when(numbers)} END" if numbers else ""
        return value + (" END" if words else "") + " END"
    return value + (f" ELSE CASE {number(sql, dtype)} {_when(numbers)} END END" if numbers else " END")


def length_in_ms(sql: str, dtype: str, unit: Unit) -> str:
    """A duration as a BIGINT of milliseconds, rounded."""
    if dtype in INTEGERS and unit != "us":
        return WHOLE_TO_MS[unit].format(sql)
    return f"TRY_CAST(round({TO_MS[unit].format(number(sql, dtype))}) AS BIGINT)"


def point_in_time(sql: str, dtype: str, unit: TimeUnit, zone: str) -> str:
    """Unix milliseconds. Fractions of a millisecond are truncated (the engine's epoch_ms rounds them); seconds with a
    fraction are rounded.

    Args:
        zone: of timestamps without a zone.
    """
    if unit == "timestamp":
        if dtype in TEXTS:
            return time_of_text(sql, zone)
        if dtype == UTC_TIMESTAMP:
            return f"epoch_us({sql}) // 1000"
        if dtype == "TIMESTAMPTZ_NS":
            return f"epoch_ns({sql}) // 1000000"
        if "ZONE" in dtype:
            return f"epoch_us({sql}) // 1000"
        # A cast would round nanoseconds.
        local = f"make_timestamp(epoch_ns({sql}) // 1000)" if dtype == "TIMESTAMP_NS" else f"CAST({sql} AS TIMESTAMP)"
        return local_time(local, zone)
    if dtype in INTEGERS:
        return WHOLE_TO_MS[unit].format(sql)
    value = f"TRY_CAST({'round' if unit == 's' else 'floor'}({TO_MS[unit].format(number(sql, dtype))}) AS BIGINT)"
    if dtype not in TEXTS or unit != "ns":
        return value
    # A DOUBLE does not hold nanoseconds.
    whole = integer(sql, dtype)
    return f"coalesce({whole} // 1000000, {value})"


def time_of_text(sql: str, zone: str) -> str:
    """Unix milliseconds of ISO 8601 text, with an offset, the name of a zone, or neither."""
    local = f"TRY_CAST({sql} AS TIMESTAMP)"
    # The engine's cast takes offsets only right behind the time, and Z only in upper case.
    absolute = f"epoch_us(TRY_CAST(replace(replace(upper({sql}), ' +', '+'), ' -', '-') AS TIMESTAMPTZ)) // 1000"
    name = f"regexp_extract({sql}, '([A-Za-z]+/[^ ]+) *$', 1)"
    # The engine's function fails on an unknown zone, and its cast gives null.
    known = f"TRY_CAST({sql} AS TIMESTAMPTZ) IS NOT NULL"
    named = local_time(f"TRY_CAST({_without_name(sql)} AS TIMESTAMP)", name, quoted=False)
    return (
        f"CASE WHEN regexp_full_match({sql}, {literal(LOCAL_TEXT)}) THEN {local_time(local, zone)} "
        f"WHEN regexp_full_match({sql}, {literal(OFFSET_TEXT)}) THEN {absolute} "
        f"WHEN regexp_full_match({sql}, {literal(NAMED_TEXT)}) AND {known} THEN {named} END"
    )


def local_time(sql: str, zone: str, *, quoted: bool = True) -> str:
    """Unix milliseconds of a TIMESTAMP in a zone; null where the zone's clock skips or repeats it.

    Args:
        zone: its name, or an SQL expression if not `quoted`.
    """
    if quoted and zone == "UTC":
        return f"epoch_us({sql}) // 1000"
    where = literal(zone) if quoted else zone
    at = f"timezone({where}, {sql})"
    back = f"timezone({where}, {at})"
    twice = " OR ".join(
        f"timezone({where}, {at} {sign} INTERVAL {minutes} MINUTE) = {sql}"
        for minutes in (30, 60, 120)
        for sign in "+-"
    )
    return f"CASE WHEN {back} = {sql} AND NOT ({twice}) THEN epoch_us({at}) // 1000 END"


def items(sql: str, dtype: str, separator: str) -> tuple[str, str]:
    """(the items of a list, their type); null for what is not a list. Texts are JSON or separated items."""
    if dtype not in TEXTS:
        inner = re.sub(r"\[\d*\]$", "", dtype)
        if inner == "BLOB":
            return f"[TRY(decode(item)) FOR item IN {sql}]", "VARCHAR"
        return f"CAST({sql} AS {inner}[])", inner
    listed = f"from_json(CASE WHEN json_valid({sql}) THEN {sql} END, '[\"VARCHAR\"]')"
    return (
        f"CASE WHEN starts_with(ltrim({sql}), '[') THEN {listed} ELSE str_split({sql}, {literal(separator)}) END",
        "VARCHAR",
    )


def id_list(sql: str, dtype: str, separator: str, *, texts: bool = False) -> str:
    """A BIGINT[], empty for a null; an item that is not an id becomes null, and what is not a list does."""
    listed, inner = items(sql, dtype, separator)
    if inner in INTEGERS and not texts:
        return f"coalesce(CAST({sql} AS BIGINT[]), [])"
    one = hashed("item", inner) if texts else integer("item", inner)
    return f"CASE WHEN {sql} IS NULL THEN [] ELSE [{one} FOR item IN {listed}] END"


def weighted_ids(sql: str, dtype: str, separator: str) -> str:
    """A list of structs of a BIGINT id and a FLOAT weight, empty for a null; what does not parse is null."""
    if dtype in TEXTS:
        ident, weight = "item.id", number("item.weight", "VARCHAR")
        as_json = '\'[{"id": "VARCHAR", "weight": "VARCHAR"}]\''
        parts = "{'id': str_split(item, ':')[1], 'weight': str_split(item, ':')[2]}"
        plain = f"[{parts} FOR item IN str_split({sql}, {literal(separator)})]"
        listed = (
            f"CASE WHEN starts_with(ltrim({sql}), '[') THEN "
            f"TRY(from_json(CASE WHEN json_valid({sql}) THEN {sql} END, {as_json})) ELSE {plain} END"
        )
        kind = "VARCHAR"
    else:
        listed, ident, weight = sql, "item.id", "item.weight"
        found = re.search(r'\bid"? (\w+(?:\([\d,]+\))?)', dtype)
        assert found is not None, dtype
        kind = found[1]
    pair = f"{{'id': {integer(ident, kind)}, 'weight': TRY_CAST({weight} AS FLOAT)}}"
    return f"CASE WHEN {sql} IS NULL THEN [] ELSE [{pair} FOR item IN {listed}] END"


def float_list(sql: str, dtype: str, separator: str) -> str:
    """A FLOAT[]; null for a null or what is not a list, and so are numbers that do not parse."""
    listed, inner = items(sql, dtype, separator)
    return f"[TRY_CAST({number('item', inner)} AS FLOAT) FOR item IN {listed}]"


def _without_name(sql: str) -> str:
    return f"regexp_replace({sql}, ' +[A-Za-z]+/[^ ]+ *$', '')"


def _cases(codes: Mapping[str, int]) -> str:
    return _when({literal(text): code for text, code in codes.items()})


def _when(codes: Mapping[str, int]) -> str:
    return " ".join(f"WHEN {value} THEN {code}" for value, code in codes.items())
