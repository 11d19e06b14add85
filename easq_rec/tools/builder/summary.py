"""Summary of a build: counts of all input rows and of the questionnaire's stages."""

from __future__ import annotations

from collections import Counter

from easq_rec.tools.builder.clean import ORPHAN
from easq_rec.tools.builder.config import Build

TABLES = ("impressions", "answers", "users", "videos")


def check_balance(counts: Counter[str]) -> None:
    """Asserts that every row was kept or quarantined."""
    for table in TABLES:
        read, kept = counts[f"{table}.read"], counts[f"{table}.kept"]
        lost = sum(reasons(counts, table).values())
        assert read == kept + lost, f"{table}: {read} rows read, {kept} kept, {lost} quarantined"


def summary(build: Build, counts: Counter[str]) -> str:
    """The summary as text; the numbers are in build.json."""
    lines = [
        f"{counts['requests.kept']:,} requests with {counts['impressions.kept']:,} candidates and "
        f"{counts['history.entries']:,} history entries; {counts['requests.answered']:,} of them answered"
    ]
    for table in TABLES:
        if (source := build.sources.get(table)) is None:
            continue
        lost = reasons(counts, table)
        lines.append(f"{table}: {counts[f'{table}.read']:,} rows = {counts[f'{table}.kept']:,} kept")
        origin = _files(counts, table) if source.table is None else f"from {source.where}"
        lines[-1] += f" + {sum(lost.values()):,} quarantined, {origin}" + (":" if lost else "")
        lines += [f"  {count:,} {reason}" for reason, count in sorted(lost.items(), key=lambda item: -item[1])]
        replaced = by_reason(counts, f"{table}.defaulted.")
        lines += [f"  {count:,} cells took their default: {reason}" for reason, count in sorted(replaced.items())]
        if orphaned(counts, table):
            lines.append("  no answer is kept, since none belongs to an impression of the log: do their ids agree?")
    lines += _notes(counts)
    lines.append(_stages(build, counts))
    return "\n".join(lines)


def reasons(counts: Counter[str], table: str) -> dict[str, int]:
    """Rows of a table that were quarantined, by reason."""
    return by_reason(counts, f"{table}.quarantined.")


def orphaned(counts: Counter[str], table: str) -> bool:
    """Whether answers were read and not one is kept, mostly because their impressions are not in the log."""
    lost = reasons(counts, table)
    return counts[f"{table}.kept"] == 0 and bool(lost) and max(lost, key=lambda reason: lost[reason]) == ORPHAN


def by_reason(counts: Counter[str], prefix: str) -> dict[str, int]:
    """The counts whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): count for name, count in counts.items() if name.startswith(prefix)}


def _files(counts: Counter[str], table: str) -> str:
    files, empty = counts[f"{table}.files"], counts[f"{table}.files.empty"]
    return f"from {files:,} file{'' if files == 1 else 's'}" + (f" ({empty:,} without content)" if empty else "")


def _notes(counts: Counter[str]) -> list[str]:
    """Lines about rows that a rule kept or left out, if any."""
    notes = {
        "requests.shared_ids": "requests with the id of another user's request: ids should be unique",
        "requests.without_candidates": "requests left out because none of their impressions was kept",
        "impressions.unknown_users": "impressions kept with default features of their user",
        "impressions.unknown_videos": "impressions kept with default features of their video",
        "answers.late": "answers later than the attribution window",
        "answers.untriggered": "answers to impressions that did not trigger",
        "answers.not_shown": "answers kept although the log says that no prompt was shown",
    }
    return [f"{counts[name]:,} {text}" for name, text in notes.items() if counts[name]]


def _stages(build: Build, counts: Counter[str]) -> str:
    """Triggered, shown and answered impressions."""
    impressions, triggered = counts["impressions.kept"], counts["impressions.triggered"]
    parts = [f"triggered {triggered:,} ({_share(triggered, impressions)} of the impressions)"]
    if build.impressions.columns.shown is not None:
        shown = counts["impressions.shown"]
        parts.append(f"shown {shown:,} ({_share(shown, triggered)} of the triggered)")
        base, name = shown, "shown"
    else:
        expected = round(triggered * build.questionnaire.exposure)
        parts.append(f"shown about {expected:,} (not in the log; declared exposure {build.questionnaire.exposure:.2%})")
        base, name = expected, "expected shown"
    answered = counts["answers.kept"]
    parts.append(f"answered {answered:,} ({_share(answered, base)} of the {name})")
    return "questionnaire: " + ", ".join(parts)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3%}" if whole else "none"
