"""How much does alignment, and each of its parts, add to a training step?

Runs on the reference workload, one thread, in short turns within one process: main_only, easq, and easq with one part
changed. Prints one JSON line: CPU milliseconds of each above main_only (medians of single steps).

    python -m benchmarks.surplus [--turns 60] [--out FILE.json]

- one_answer:      one replayed request per aligned step instead of 16: shows costs that do not depend on the rows
- without_adapters: no LoRA, so that the satisfaction loss trains only its tower and no gradient enters the backbone
- feed_forward:    adapters only on the feed-forward nets, so that no gradient passes through attention
- with_embeddings: separate embeddings of the satisfaction tower
- without_evidence: no L_evidence
- aligned_always:  every step aligns, with half as many answers in each
- with_dense:      L_dense instead of adding the satisfaction score to the policy score
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from benchmarks.report import hardware, publish
from benchmarks.train_step import Step, measure, median_milliseconds, reference_config
from easq_rec.config import Config, LoRA, Replay
from easq_rec.config.variants import main_only, with_dense, with_embeddings, without_evidence
from easq_rec.training.memory import HostMemory
from easq_rec.training.process import running


def variants(config: Config) -> dict[str, Config]:
    """The configs to compare."""
    return {
        "main_only": main_only(config),
        "easq": config,
        "one_answer": dataclasses.replace(config, replay=Replay(answers_per_step=1)),
        "without_adapters": dataclasses.replace(config, model=dataclasses.replace(config.model, lora=None)),
        "feed_forward": dataclasses.replace(
            config, model=dataclasses.replace(config.model, lora=LoRA(rank=8, targets=("ffn_in", "ffn_out")))
        ),
        "with_embeddings": with_embeddings(config),
        "without_evidence": without_evidence(config),
        "aligned_always": dataclasses.replace(
            config,
            losses=dataclasses.replace(config.losses, align_every=1),
            replay=Replay(answers_per_step=config.replay.answers_per_step // 2),
        ),
        "with_dense": with_dense(config),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    config = reference_config()
    with running(config.trainer) as runtime:
        steps = {name: Step(variant, runtime) for name, variant in variants(config).items()}
        with HostMemory() as memory:
            for step in steps.values():
                measure(step, 5)
            memory.step(1)
            middle = median_milliseconds(steps, turns=args.turns)
        result = {
            "benchmark": "surplus",
            "main_only_ms": round(middle["main_only"], 2),
            "surplus_ms": {name: round(middle[name] - middle["main_only"], 2) for name in list(steps)[1:]},
            **hardware(),
        }
    publish(result, args.out)


if __name__ == "__main__":
    main()
