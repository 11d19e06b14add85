"""Summary of a build: counts of all input rows and of the questionnaire's stages."""

from __future__ import annotations

from collections import Counter

from easq_rec.tools.builder.config import Build

TABLES = ("impressions", "answers", "users", "videos")


def check_balance(counts: Counter[str]) -> None:
    """Asserts that every row was kept or quarantined."""
    for table in TABLES:
        read, kept = counts[f"{table}.read"], counts[f"{table}.kept"]
        lost = sum(_reasons(counts, table).values())
        assert read == kept + lost, f"{table}: {read} rows read, {kept} kept, {lost} quarantined"


def summary(build: Build, counts: Counter[str]) -> str:
    """The summary as text; the numbers are in build.json."""
    lines = [
        f"{counts['requests.kept']:,} requests with {counts['impressions.kept']:,} candidates and "
        f"{counts['history.entries']:,} history entries; {counts['requests.answered']:,} of them answered"
    ]
    for table in TABLES:
        if getattr(build, table) is None:
            continue
        reasons = _reasons(counts, table)
        lines.append(f"{table}: {counts[f'{table}.read']:,} rows = {counts[f'{table}.kept']:,} kept")
        lines[-1] += f" + {sum(reasons.values()):,} quarantined" + (":" if reasons else "")
        lines += [f"  {count:,} {reason}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1])]
    lines += _notes(counts)
    lines.append(_stages(build, counts))
    return "\n".join(lines)


def _reasons(counts: Counter[str], table: str) -> dict[str, int]:
    prefix = f"{table}.quarantined."
    return {name.removeprefix(prefix): count for name, count in counts.items() if name.startswith(prefix)}


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
