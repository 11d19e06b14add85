"""Draws explanation/layers.svg: the rooms of easq_rec, from LAYERS in tests/test_architecture.py.

`make docs` runs it before it builds the site; tests/docs/test_generated.py holds the committed figure equal to it.
"""

from __future__ import annotations

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FILE = REPOSITORY / "docs" / "explanation" / "layers.svg"

PURPOSES = {
    "upstream": "private names of libraries",
    "config": "every setting; no torch",
    "kernels": "operators with a CPU form",
    "answers": "questionnaire, evidence",
    "data": "Parquet to batches, replay",
    "model": "embeddings, backbone, towers",
    "losses": "what is minimised",
    "evaluation": "metrics, intervals",
    "run_directory": "files that a run leaves",
    "training": "the loop, sharding, checkpoints",
    "export": "the served program and its package",
    "serving": "score, evaluate, export a run",
    "tools": "builder, inspect, simulation, studies, report",
    "cli": "easq-rec COMMAND",
    "train": "the launch script",
}

WIDTH, MARGIN, BOX, GAP = 760, 24, 50, 26
BOX_WIDTH, BOX_SPACE = 290, 24
STYLE = """\
text{fill:#1f2328;text-anchor:middle}
.name{font-weight:600;font-size:15px}
.purpose{font-size:12px;fill:#424a53}
.box{fill:#e3f1fa;stroke:#0072b2}
.tools{fill:#fdeadc;stroke:#c45500}
.arrow{fill:none;stroke:#57606a;stroke-width:1.5;marker-end:url(#head)}"""


def layers() -> list[tuple[str, ...]]:
    """LAYERS of the architecture test, highest first. It is read as text, so that pytest need not be installed."""
    tree = ast.parse((REPOSITORY / "tests" / "test_architecture.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and [target.id for target in node.targets if isinstance(target, ast.Name)] == [
            "LAYERS"
        ]:
            return list(reversed(ast.literal_eval(node.value)))
    raise AssertionError("tests/test_architecture.py has no LAYERS")


def content() -> str:
    """The SVG file."""
    rows = layers()
    height = 2 * MARGIN + len(rows) * BOX + (len(rows) - 1) * GAP
    names = "; ".join(", ".join(row) for row in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" '
        'role="img" aria-labelledby="t d">',
        '<title id="t">The layers of easq_rec</title>',
        f'<desc id="d">Every layer imports only from the layers below it. From the top: {names}.</desc>',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L8 4L0 8z" fill="#57606a"/></marker></defs>',
        f"<style>\n{STYLE}\n</style>",
        f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="14" fill="#fdfdfe" stroke="#d0d7de"/>',
    ]
    for index, row in enumerate(rows):
        top = MARGIN + index * (BOX + GAP)
        if index:
            parts.append(f'<path class="arrow" d="M{WIDTH // 2} {top - GAP + 3}V{top - 3}"/>')
        wide = len(row) * BOX_WIDTH + (len(row) - 1) * BOX_SPACE
        for place, unit in enumerate(row):
            left = (WIDTH - wide) // 2 + place * (BOX_WIDTH + BOX_SPACE)
            kind = "tools" if unit == "tools" else "box"
            middle = left + BOX_WIDTH // 2
            parts += [
                f'<rect class="{kind}" x="{left}" y="{top}" width="{BOX_WIDTH}" height="{BOX}" rx="8"/>',
                f'<text class="name" x="{middle}" y="{top + 21}">{unit}</text>',
                f'<text class="purpose" x="{middle}" y="{top + 39}">{PURPOSES[unit]}</text>',
            ]
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    FILE.write_text(content(), encoding="utf-8")
    print(f"wrote {FILE}")
