"""Trains a recipe and scores held-out requests, by the easq_rec that PYTHONPATH names: this one or that of a commit.

    python -P benchmarks/train_and_score.py JOB.json

`benchmarks.worlds` starts it, as a file rather than as a module, because an older commit does not have it. So it uses
only names that older commits have, too. JOB.json has `package`, `words` (the arguments of `easq-rec train`), `held`,
`run_dir`, `scores` and `result`. The scores go to the Parquet file `scores`; the CPU seconds of training go to the JSON
file `result`. Exit code 2: an error that the user can mend; 3: this easq_rec lacks a name that is used here.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

try:
    import easq_rec
    from easq_rec import train
    from easq_rec.errors import exit_code
    from easq_rec.run_directory.config_file import load_config
    from easq_rec.run_directory.metrics_file import final_record
    from easq_rec.run_directory.paths import RunDirectory
    from easq_rec.serving.score import score
    from easq_rec.training import session  # noqa: F401 - its imports take seconds, which are not training
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(3)


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text())
    package, run_dir = Path(easq_rec.__file__).parent, Path(job["run_dir"])
    assert package.resolve() == Path(job["package"]).resolve(), f"{package} was imported, not {job['package']}"
    begin = time.process_time()
    code = train.main(job["words"])
    seconds = time.process_time() - begin
    if code == 0:
        # A signal to stop ends a training early, without an error.
        assert final_record(RunDirectory(run_dir).metrics) is not None, "the training did not reach its end"
        score(load_config(run_dir), run_dir, job["held"], Path(job["scores"]))
        Path(job["result"]).write_text(json.dumps({"cpu_seconds": seconds}))
    return code


if __name__ == "__main__":
    sys.exit(exit_code(main))
