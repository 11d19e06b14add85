"""The commands in docs/how-to/counts.md work as written, and so do its schema and its lookup."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from easq_rec.config.counts import without_counts
from easq_rec.config.recipes import quickstart
from easq_rec.config.schema_file import parse_schema, schema_to_toml
from easq_rec.data.columns import Ragged
from easq_rec.data.count_files import read_counts
from tests.conftest import Warm
from tests.docs.pages import DOCS, run_command, shown_commands

TEXT = (DOCS / "how-to" / "counts.md").read_text()


@pytest.mark.integration
def test_the_commands_and_the_lookup_work_as_written(tmp_path: Path, warm: Warm) -> None:
    commands = shown_commands(TEXT)
    assert len(commands) == 5
    for command in commands:
        run_command(command, tmp_path, warm)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    code = code.replace("counted/counts", str(tmp_path / "counted" / "counts"))
    state = read_counts(tmp_path / "counted" / "counts")
    ids: dict[str, object] = {name: np.arange(40) for name in ("video_id", "author_id", "user_id")}
    ids["duration_class"] = np.arange(40) % 5
    ids["tags"] = Ragged(offsets=np.arange(41), children={"values": np.arange(40)})
    names = {"Path": Path, "N": 40, "at_ms": state.now_ms, "ids": ids}
    exec(code, names)
    column = names["found"]["video_long_view"].column()  # type: ignore[index]
    assert column.shape == (40, 3) and column[:, 0].max() > 1


def test_the_shown_schema_is_one() -> None:
    part, answers, interval = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert interval == "bucket_minutes = 1440\n"
    part += interval + answers
    first, rest = part.split("\n", 1)
    schema = parse_schema(f"{first}\n{schema_to_toml(without_counts(quickstart().schema))}\n{rest}", "schema.toml")
    assert [count.name for count in schema.counts] == [feature.name for feature in schema.count_features]
    assert [feature.name for feature in schema.satisfaction] == ["video_answer"]
