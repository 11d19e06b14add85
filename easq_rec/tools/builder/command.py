"""`easq-rec data build`: runs a build from its options and prints progress to standard error."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from easq_rec import outputs
from easq_rec.errors import UserError
from easq_rec.tools.builder.parse import load
from easq_rec.tools.builder.publish import EngineName, run
from easq_rec.tools.builder.raw_files import folders_read


def build(
    config: Path,
    out: Path,
    *,
    shared: bool = False,
    engine: EngineName = "local",
    resources: Mapping[str, Any] | None = None,
) -> None:
    """Builds a dataset and prints the summary.

    Args:
        shared: other processes, also on other machines, take part.
        engine: what runs the stages.
        resources: values that override the file's `engine` table; None keeps the file's value.

    Raises:
        UserError: config, columns or output cannot be used.
    """
    plan = load(config)
    given = {name: value for name, value in (resources or {}).items() if value is not None}
    if "temp" in given:
        given["temp"] = str(Path(str(given["temp"])).absolute())
    plan = dataclasses.replace(plan, engine=dataclasses.replace(plan.engine, **given))
    base = config.absolute().parent
    inputs = [folder for source in plan.sources.values() for folder in folders_read(source, base, out)]
    outputs.check_new_directory("--out", out, inputs=inputs)
    if plan.engine.temp is not None:
        outputs.check_folder("--temp" if "temp" in given else "engine.temp", Path(plan.engine.temp))
    # Arrow's threads gain little here and would exceed the requested number.
    pa.set_cpu_count(plan.engine.threads)
    try:
        text = run(plan, base=base, out=out, progress=_say, shared=shared, engine=engine)
    except duckdb.Error as error:
        raise UserError(f"{config}: the raw tables cannot be read: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise UserError(f"--out {out}: cannot be built: {error}") from error
    print(text)
    print(f"train on it with --data {out}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
