"""The config that a study varies: `easq` at the size of a budget."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from easq_rec.config import Config, Logging, Tower, Transformer, World
from easq_rec.config.recipes import BASES, counted_world_schema, quickstart, with_world

Budget = Literal["small", "full", "large"]
"""small: seconds per cell; tests the machinery and says nothing about the method. full: the size of recipe
`quickstart`, half a minute to a minute per cell. large: as full, with a finer grid, in the studies that have one."""
SEEDS: dict[Budget, int] = {"small": 2, "full": 5, "large": 5}
"""Default number of seeds."""
SMALL_STEPS = 20
WORTH_VERSION: Literal[2] = 2
"""Version of the generated world of study worth: that which is calibrated to public logs."""


def base_config(
    budget: Budget, *, recipe: str | None = None, data: str | None = None, world_version: Literal[1, 2] | None = None
) -> Config:
    """`easq` at the size of the budget, for one thread, without parts that metrics do not need.

    Args:
        recipe: recipe to use instead of `quickstart`, for a data set that needs another; the small budget then keeps
            its sizes and reduces its steps.
        data: directory of requests/ and answers/; None: generated worlds.
        world_version: version of the generated worlds; None: that of the recipe.
    """
    config = quickstart() if recipe is None else BASES[recipe]()
    if budget == "small":
        config = _small(config) if data is None else _cut(config)
    if world_version is not None:
        config = with_world(config, world_version)
    return dataclasses.replace(
        config,
        # A prefetching thread competes with the trainer if a cell has one core.
        data=dataclasses.replace(config.data, path=data, workers=0, prefetch=0),
        trainer=dataclasses.replace(config.trainer, threads=1),
        evaluation=dataclasses.replace(config.evaluation, every_steps=0),
        checkpoint=dataclasses.replace(config.checkpoint, every_steps=0, keep=1),
        logging=Logging(every_steps=100, tensorboard=False),
    )


def _small(config: Config) -> Config:
    world = World(requests=1_000, users=200, videos=300, history=10, density=1_000.0)
    return dataclasses.replace(
        _cut(config),
        world=world,
        schema=counted_world_schema(world, dim=8),
        data=dataclasses.replace(config.data, max_history=10),
        model=dataclasses.replace(
            config.model,
            dim=16,
            backbone=Transformer(heads=config.model.backbone.heads, layers=1, ffn=16),
            main=Tower(hidden=8, out=8),
            satisfaction=Tower(hidden=8, out=8),
        ),
        trainer=dataclasses.replace(config.trainer, batch_size=32, epochs=1, max_steps=SMALL_STEPS),
    )


def _cut(config: Config) -> Config:
    return dataclasses.replace(
        config,
        losses=dataclasses.replace(config.losses, warmup_steps=SMALL_STEPS // 4),
        optim=dataclasses.replace(config.optim, warmup_steps=SMALL_STEPS // 4),
        trainer=dataclasses.replace(config.trainer, max_steps=SMALL_STEPS),
    )


def with_model(config: Config, **changes: Any) -> Config:
    """The config with changed fields of `model`."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **changes))


def with_losses(config: Config, **changes: Any) -> Config:
    """The config with changed fields of `losses`."""
    return dataclasses.replace(config, losses=dataclasses.replace(config.losses, **changes))


def with_experts(config: Config, *, main: int, satisfaction: int) -> Config:
    """The config with K1 and K2 experts; it must have a satisfaction tower."""
    counts = {"main": main, "satisfaction": satisfaction}
    towers = config.model.towers
    return with_model(config, **{name: dataclasses.replace(towers[name], experts=k) for name, k in counts.items()})
