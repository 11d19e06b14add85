"""Trains a few steps of several recipes and writes the collectives of each step, by the function that calls them.

    torchrun --standalone --nproc_per_node 2 tests/distributed/worker_collectives.py DATA DIRECTORY

DATA holds requests/ and answers/. Rank 0 writes DIRECTORY/collectives.json.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import easq_rec
from easq_rec.config.command_line import parse_config
from easq_rec.training.loop import Trainer
from easq_rec.training.process import Runtime, running
from easq_rec.upstream import torch_dispatch

RECIPES = ("quickstart_main_only", "quickstart", "quickstart_paper")
OPTIONS = (
    *("--trainer.device", "cpu", "--trainer.threads", "1", "--trainer.batch-size", "16", "--trainer.max-steps", "8"),
    *("--logging.every-steps", "5", "--logging.tensorboard", "False", "--evaluation.every-steps", "0"),
    *("--checkpoint.every-steps", "0"),
)
STEPS = (3, 4, 5)
"""The counted steps. The train pipeline is full by then, `quickstart` aligns every second step, step 5 is logged."""
RUNTIME = "training/process.py"
OURS, TORCHREC = f"{Path(easq_rec.__file__).parent}/", "/torchrec/"


class Collectives(torch_dispatch.TorchDispatchMode):
    """Counts the calls of c10d operators, by operator and by the calling function of TorchRec or of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.calls[f"{torch_dispatch.name(func).strip('_')} in {_place()}"] += 1
        return func(*args, **(kwargs or {}))


def _place() -> str:
    """The innermost function of TorchRec or of this package (with its file), except the runtime's wrappers."""
    frame = sys._getframe(2)
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_qualname
        if file.startswith(OURS) and not file.endswith(RUNTIME):
            return f"{file.removeprefix(OURS)} {name}"
        if TORCHREC in file:
            return f"torchrec {name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


def collectives(recipe: str, data: Path, directory: Path, runtime: Runtime) -> list[dict[str, Any]]:
    """For each counted step: whether it aligns, whether it is logged, and its number of calls by place."""
    config = parse_config([recipe, "--data", str(data), *OPTIONS], prog="")
    run_dir = directory / recipe
    run_dir.mkdir(exist_ok=True)
    trainer = Trainer(config, runtime, directory=data, run_dir=run_dir)
    found = []
    steps = trainer.steps(max(STEPS) + 1)
    for step in range(1, max(STEPS) + 1):
        with Collectives() as mode:
            next(steps)
        if step in STEPS:
            batch = trainer.setup.train_step._batch
            assert batch is not None
            aligned = config.aligned and batch.aligned
            found.append({"aligned": aligned, "logged": step % config.logging.every_steps == 0, "calls": mode.calls})
    steps.close()
    trainer.log.close()
    return found


def main() -> None:
    data, directory = map(Path, sys.argv[1:])
    with running(parse_config(["quickstart", *OPTIONS], prog="").trainer) as runtime:
        found = {recipe: collectives(recipe, data, directory, runtime) for recipe in RECIPES}
        if runtime.leads:
            (directory / "collectives.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
