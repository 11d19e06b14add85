"""A loss outside the package: every pair of a request by a margin, trained together with the losses of `quickstart`.

    python examples/own_loss.py --requests 4000 --max-steps 60 --run-dir runs/hinge

docs/how-to/own-loss.md explains it, and says how such a loss moves into the package.

Legend: G requests (or users, with `losses.groups=user`), C candidates (padded).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass

from torch import Tensor

from easq_rec.config import Config, Losses
from easq_rec.config.losses import POLICY, Loss
from easq_rec.config.recipes import recipe
from easq_rec.config.schema import require
from easq_rec.errors import exit_code
from easq_rec.losses.pairs import RequestPairs
from easq_rec.losses.term import LossInputs, RequestTerm
from easq_rec.tools.simulation.default_data import prepare_data
from easq_rec.training import session


@dataclass(frozen=True, kw_only=True)
class Hinge(Loss):
    """Pairwise hinge loss of the policy score within a request (Herbrich et al. 2000)."""

    margin: float = 1.0
    """A pair costs nothing from this difference of scores on."""

    term = f"{__name__}:HingeTerm"
    label = "L_hinge"
    description = "The policy orders pairs of a request's candidates by engagement utility, by a margin."
    moves = POLICY
    every_step = True

    def __post_init__(self) -> None:
        require(self.margin > 0, "losses.hinge.margin", self.margin, "more than 0")


class HingeTerm(RequestTerm):
    """max(0, margin - (s_i - s_j)) of the pairs with utility_i > utility_j."""

    def __init__(self, config: Hinge) -> None:
        self.margin = config.margin

    def count(self, pairs: RequestPairs) -> Tensor:
        return pairs.better_GCC.sum()

    def total(self, inputs: LossInputs) -> Tensor:
        score_GC = inputs.policy_GC
        missing_GCC = (self.margin - (score_GC[:, :, None] - score_GC[:, None, :])).clamp(min=0)
        return (missing_GCC * inputs.pairs.better_GCC).sum()


@dataclass(frozen=True, kw_only=True)
class LossesWithHinge(Losses):
    """The losses of the package and one more."""

    hinge: Hinge = Hinge()


def with_hinge(config: Config, hinge: Hinge) -> Config:
    """The same run with one more loss."""
    given = {field.name: getattr(config.losses, field.name) for field in dataclasses.fields(config.losses)}
    return dataclasses.replace(config, losses=LossesWithHinge(**given, hinge=hinge))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weight", type=float, default=0.5, help="of the hinge loss")
    parser.add_argument("--margin", type=float, default=1.0)
    parser.add_argument("--requests", type=int, default=40_000, help="of the synthetic world")
    parser.add_argument("--max-steps", type=int, help="all of the data if it is left out")
    parser.add_argument("--run-dir", help="runs/quickstart-TIME if it is left out")
    args = parser.parse_args()
    config = with_hinge(recipe("quickstart"), Hinge(weight=args.weight, margin=args.margin))
    config = dataclasses.replace(
        config,
        world=dataclasses.replace(config.world, requests=args.requests),
        trainer=dataclasses.replace(config.trainer, max_steps=args.max_steps),
        run_dir=args.run_dir,
    )
    return session.train(config, prepare_data)


if __name__ == "__main__":
    sys.exit(exit_code(main))
