"""Plans for hypothetical hardware: tables on the meta device, any topology, no process group."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.partitioners import GreedyPerfPartitioner
from torchrec.distributed.planner.proposers import GreedyProposer, UniformProposer
from torchrec.distributed.planner.shard_estimators import EmbeddingPerfEstimator, EmbeddingStorageEstimator
from torchrec.distributed.planner.stats import NoopEmbeddingStats
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError, ShardingOption, Storage
from torchrec.distributed.planner.utils import reset_shard_rank
from torchrec.distributed.sharding_plan import placement
from torchrec.distributed.types import (
    CacheParams,
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ParameterSharding,
    ShardingPlan,
    ShardingType,
    ShardMetadata,
)
from torchrec.modules.embedding_configs import DataType

from benchmarks.sharding.hosts import Host
from easq_rec.config.schema import Feature, FeatureSchema, Table
from easq_rec.config.sharding import COLUMN_TYPES
from easq_rec.model.embeddings import RequestEmbeddings
from easq_rec.training.sharding.constraints import NARROWEST, allowed_types
from easq_rec.training.sharding.precision import store_half
from easq_rec.upstream.torchrec_planner import best_options, proposals

TYPES = ("table_wise", "column_wise", "table_column_wise", "row_wise", "table_row_wise", "grid_shard")
"""Sharding types offered to tables that are not small, as in the trainer on CUDA."""

SMALL_SHARE = 0.01
"""Tables of at most this part of a rank's HBM are placed whole: splitting them would cost messages and save nothing.
It also keeps the planner fast: the search takes one step per table and way of sharding it."""

ADAGRAD = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.01, "eps": 1e-8}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Lookups of a step, per rank."""

    requests: int = 512
    candidates: int = 12
    """Candidates per request."""
    history: int = 50
    """History entries per request."""
    list_length: int = 3
    """Values per id list."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The hardware for the tables."""

    host: Host
    hosts: int
    gpus: int = 8
    """GPUs per host."""
    hbm_reserved: float = 0.15
    """Share of the HBM reserved for the dense network, its optimizer, activations and communication buffers."""
    ddr_share: float = 0.75
    """Share of a host's memory that tables may take."""

    @property
    def ranks(self) -> int:
        return self.hosts * self.gpus

    @property
    def hbm(self) -> int:
        """Bytes of HBM per rank that tables may take."""
        return int(self.host.hbm * (1 - self.hbm_reserved))

    @property
    def ddr(self) -> int:
        """Bytes of host memory per rank that tables may take."""
        return int(self.host.ddr * self.ddr_share / self.gpus)

    def topology(self) -> Topology:
        return self.host.topology(self.hosts, self.gpus, ddr_share=self.ddr_share)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Options of the planner for the tables."""

    types: tuple[str, ...] = TYPES
    min_partition: int | None = None
    """Narrowest column split, in columns; None: TorchRec's 128."""
    cached: frozenset[str] = frozenset()
    """Tables in host memory with a cache in HBM (kernel fused_uvm_caching)."""
    load_factor: float = 0.2
    """Fraction of a cached table's rows in its cache."""
    half: frozenset[str] = frozenset()
    """Tables stored in FP16."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan of the planner."""

    options: tuple[ShardingOption, ...]
    """One per table, its shards with ranks."""
    seconds: float
    proposals: int


@dataclass(frozen=True, kw_only=True)
class NoPlan:
    """The planner found no plan."""

    left_over: tuple[str, ...]
    """Largest first: the fewest of the largest tables without which the others can be placed, each in its most even
    split."""
    needed: Storage
    """Bytes over all ranks of these splits."""
    reason: str
    """TorchRec's name for it."""
    seconds: float


class AdagradStorage(EmbeddingStorageEstimator):
    """TorchRec's estimate plus row-wise Adagrad's state, one FP32 moment per row and shard, which TorchRec only counts
    if optimizers are attached to the parameters."""

    def estimate(self, sharding_options: list[ShardingOption], sharder_data_map: object) -> None:
        super().estimate(sharding_options, sharder_data_map)
        for option in sharding_options:
            in_hbm = option.compute_kernel == EmbeddingComputeKernel.FUSED.value
            for part in option.shards:
                state = 4 * part.size[0]
                part.storage += Storage(hbm=state if in_hbm else 0, ddr=0 if in_hbm else state)


def tables_of(schema: FeatureSchema) -> tuple[Table, ...]:
    """All tables of a schema, including those that only the satisfaction tower reads."""
    return (*schema.tables, *schema.satisfaction_tables)


def find_plan(schema: FeatureSchema, cluster: Cluster, work: Workload, offer: Offer, *, timeout: int) -> Plan | NoPlan:
    """Asks TorchRec's planner, with its greedy and uniform proposers, for a plan.

    Args:
        timeout: seconds after which the best plan so far is used.
    """
    begin = time.perf_counter()
    module = on_paper(schema, offer.half)
    topology = cluster.topology()
    constraints = {table.name: _constraint(schema, table, cluster, work, offer) for table in tables_of(schema)}
    enumerator = EmbeddingEnumerator(
        topology=topology,
        batch_size=work.requests,
        constraints=constraints,
        estimator=[
            EmbeddingPerfEstimator(topology=topology, constraints=constraints),
            AdagradStorage(topology=topology, constraints=constraints),
        ],
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=work.requests,
        enumerator=enumerator,
        constraints=constraints,
        proposer=[GreedyProposer(), UniformProposer()],
        storage_reservation=FixedPercentageStorageReservation(percentage=cluster.hbm_reserved),
        stats=NoopEmbeddingStats(),
        timeout_seconds=timeout,
    )
    sharders = [EmbeddingBagCollectionSharder(fused_params=ADAGRAD), EmbeddingCollectionSharder(fused_params=ADAGRAD)]
    try:
        planner.plan(module, sharders)
    except PlannerError as error:
        left_over, needed = _left_over(enumerator.enumerate(module, sharders), cluster)
        return NoPlan(
            left_over=left_over, needed=needed, reason=error.error_type.value, seconds=time.perf_counter() - begin
        )
    options = tuple(sorted(best_options(planner), key=lambda option: -_weight(option)))
    return Plan(options=options, seconds=time.perf_counter() - begin, proposals=proposals(planner))


def on_paper(schema: FeatureSchema, half: Iterable[str] = ()) -> nn.Module:
    """The model's embeddings on the meta device, with the names of the trained model."""
    embeddings = RequestEmbeddings(schema, torch.device("meta"), satisfaction=True)
    ranker = nn.Module()
    ranker.embeddings = embeddings
    model = nn.Module()
    model.ranker = ranker
    store_half(model, half)
    return model


def sharding_plan(options: Iterable[ShardingOption], local_size: int) -> ShardingPlan:
    """The options as TorchRec's sharding plan for CUDA."""
    modules: dict[str, EmbeddingModuleShardingPlan] = {}
    for option in options:
        shards = [
            ShardMetadata(
                shard_offsets=part.offset, shard_sizes=part.size, placement=placement("cuda", part.rank, local_size)
            )
            for part in option.shards
        ]
        modules.setdefault(option.path, EmbeddingModuleShardingPlan())[option.name] = ParameterSharding(
            sharding_type=option.sharding_type,
            compute_kernel=option.compute_kernel,
            ranks=[part.rank for part in option.shards],
            sharding_spec=EnumerableShardingSpec(shards),
            cache_params=option.cache_params if "caching" in option.compute_kernel else None,
        )
    return ShardingPlan(modules)


def _constraint(
    schema: FeatureSchema, table: Table, cluster: Cluster, work: Workload, offer: Offer
) -> ParameterConstraints:
    lookups, batches = zip(*_lookups(schema, table, work), strict=True)
    cached = table.name in offer.cached
    return ParameterConstraints(
        sharding_types=_types(schema, table, cluster, offer),
        compute_kernels=["fused_uvm_caching" if cached else "fused"],
        min_partition=offer.min_partition,
        pooling_factors=list(lookups),
        batch_sizes=list(batches),
        num_poolings=[1.0] * len(lookups),
        cache_params=CacheParams(load_factor=offer.load_factor) if cached else None,
        output_dtype=DataType.FP32,
    )


def _types(schema: FeatureSchema, table: Table, cluster: Cluster, offer: Offer) -> list[str]:
    """The offered types that are useful for a table. The search takes a step for each, on every rank."""
    cached, precision = table.name in offer.cached, 2 if table.name in offer.half else 4
    size = table.rows * (table.dim * precision + 4)
    if size <= SMALL_SHARE * cluster.hbm:
        return ["table_wise"]
    # Size of the whole table as a fraction of a rank's memory.
    full = max(size / cluster.ddr, size * offer.load_factor / cluster.hbm) if cached else size / cluster.hbm
    columns = max(1, table.dim // (offer.min_partition or NARROWEST))
    shards = {
        "table_wise": 1,
        "column_wise": columns,
        "table_column_wise": columns,
        "row_wise": cluster.ranks,
        "table_row_wise": cluster.gpus,
        "grid_shard": cluster.gpus * columns,
    }
    # Without a column split these types equal other types.
    trained = allowed_types(schema, table, torch.device("cuda"))
    useful = [kind for kind in offer.types if kind in trained and (columns > 1 or kind not in COLUMN_TYPES)]
    fitting = [kind for kind in useful if full <= shards[kind]]
    within_host = full <= cluster.gpus
    return [kind for kind in fitting if within_host or kind != "table_column_wise"] or useful or ["table_wise"]


def _lookups(schema: FeatureSchema, table: Table, work: Workload) -> list[tuple[float, int]]:
    """(ids per bag, bags per rank) of each feature that reads a table."""

    def ids(feature: Feature) -> float:
        return float(work.list_length if feature.kind in ("id_list", "weighted_id_list") else 1)

    bags = work.requests * work.candidates
    readers = [
        *((f, ids(f), work.requests) for f in schema.user),
        *((f, float(work.history), work.requests) for f in schema.history),
        *((f, float(work.candidates), work.requests) for f in schema.shared),
        *((f, ids(f), bags) for f in (*schema.pooled, *schema.satisfaction_ids)),
    ]
    return [(count, batch) for feature, count, batch in readers if feature.table == table.name]


def _left_over(space: list[ShardingOption], cluster: Cluster) -> tuple[tuple[str, ...], Storage]:
    """The largest tables that do not fit after the smaller ones are placed, and the bytes of all."""
    spread: dict[str, ShardingOption] = {}
    for option in space:
        best = spread.get(option.fqn)
        if best is None or _largest_shard(option) < _largest_shard(best):
            spread[option.fqn] = option
    chosen = sorted(spread.values(), key=_weight)
    topology = cluster.topology()
    for device in topology.devices:
        device.storage.hbm = cluster.hbm
    fits, fails = 0, len(chosen) + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if _partitions(chosen[:middle], topology):
            fits = middle
        else:
            fails = middle
    needed = sum((option.total_storage for option in chosen), Storage(hbm=0, ddr=0))
    return tuple(option.name for option in reversed(chosen[fits:])), needed


def _partitions(proposal: list[ShardingOption], topology: Topology) -> bool:
    try:
        GreedyPerfPartitioner().partition(proposal, topology)
    except PlannerError:
        return False
    finally:
        reset_shard_rank(proposal)
    return True


def _largest_shard(option: ShardingOption) -> tuple[int, int]:
    # Splits over the hosts of one group come first among equals: they reach no rank beyond it.
    uniform = option.sharding_type == ShardingType.ROW_WISE.value
    return max(part.storage.hbm + part.storage.ddr for part in option.shards), int(uniform)


def _weight(option: ShardingOption) -> int:
    return option.total_storage.hbm + option.total_storage.ddr
