"""The served program: raw columns of requests in, one score per candidate out.

It is the path of the policy score alone, in plain operators whose shapes depend only on shapes of the inputs, so that
`torch.export` can trace it. Features are encoded by the code of the reader, and the dense network is the trained one
itself, so there is no second model to keep equal.

Legend: R requests, H history entries, N candidates, V items of a list, D width of a table, P width of what only the
satisfaction tower reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from easq_rec.config import Config
from easq_rec.config.schema import SATISFACTION, Feature
from easq_rec.data import encoding
from easq_rec.export.inputs import (
    CANDIDATE_SLOTS,
    CANDIDATES,
    HISTORY,
    HISTORY_SLOTS,
    inputs_of,
    lengths,
    weights,
)
from easq_rec.export.tables import Precision, StoredTable, module_name
from easq_rec.kernels.jagged import TracedLists
from easq_rec.model.embeddings import Embedded
from easq_rec.model.floats import EncodedFloats
from easq_rec.model.network import BatchPart, recency
from easq_rec.model.ranker import Ranker


class ServedProgram(nn.Module):
    """Raw columns to served scores, (N,) float32.

    Args:
        ranker: in eval mode, with merged adapters and unsharded tables, which the program shares.
        fuse: weight of the satisfaction score in place of `model.satisfaction_weight`; None: that weight.
        precision: of the tables.
    """

    weight: Tensor | None

    def __init__(
        self, ranker: Ranker, config: Config, fuse: float | None = None, *, precision: Precision = "fp32"
    ) -> None:
        super().__init__()
        self.schema = config.schema
        self.network = ranker.network
        satisfaction = ranker.network.satisfaction is not None
        self.inputs = inputs_of(config, satisfaction=satisfaction)
        self.tables = nn.ModuleDict(
            {
                module_name(name): StoredTable(weight, precision, ranker.ids.map_of(name))
                for name, weight in _tables(ranker).items()
            }
        )
        weight = None
        if satisfaction:
            steering = ranker.network.steering
            weight = torch.zeros(()) if steering is None else ranker.network.satisfaction_weight * steering
            weight = weight if fuse is None else torch.tensor(fuse)
        self.register_buffer("weight", weight)

    def forward(self, *columns: Tensor) -> Tensor:
        """Scores of the candidates, in their order.

        Args:
            columns: in the order of `inputs`.
        """
        raw = {one.name: column for one, column in zip(self.inputs, columns, strict=True)}
        times_H, times_R = raw["history.timestamp_ms"], raw["timestamp_ms"]
        histories = TracedLists.of(raw[lengths(HISTORY)], entries=times_H, slots=raw[HISTORY_SLOTS])
        first = f"{CANDIDATES}.{self.schema.candidate[0].column}"
        entries = raw[lengths(first)] if lengths(first) in raw else raw[first]
        candidates = TracedLists.of(raw[lengths(CANDIDATES)], entries=entries, slots=raw[CANDIDATE_SLOTS])
        age_H = encoding.age_seconds(histories.spread(times_R), times_H)
        number_NF = self._numbers(raw, CANDIDATES, self.schema.floats, candidates.total)
        part = BatchPart(
            embedded=self._embedded(raw, number_NF, histories.total),
            histories=histories,
            candidates=candidates,
            context_H3=self.network.tokens.context_rows(recency(histories), age_H, raw["history.watch_ratio"]),
            age_H=age_H,
        )
        main_N, satisfaction_N = self.network.serve(part, number_NF)
        return main_N if self.weight is None or satisfaction_N is None else main_N + self.weight * satisfaction_N

    def _embedded(self, raw: Mapping[str, Tensor], number_NF: Tensor, entries: int) -> Embedded:
        """What the network reads: embeddings side by side, then encoded numbers."""
        schema, tokens, requests = self.schema, self.network.tokens, raw["timestamp_ms"].shape[0]
        history = [self._rows(raw, HISTORY, feature) for feature in schema.history_ids]
        numbers = EncodedFloats(
            user_RF=tokens.user_numbers(self._numbers(raw, "user", schema.user_floats, requests)),
            history_HF=tokens.history_numbers(self._numbers(raw, HISTORY, schema.history_floats, entries)),
            candidate_NF=tokens.candidate_numbers(number_NF),
        )
        own = []
        if self.network.own is not None:
            own += [self._rows(raw, CANDIDATES, feature) for feature in schema.satisfaction_ids]
        if self.network.answer_rates is not None:
            own.append(self._numbers(raw, CANDIDATES, schema.satisfaction, number_NF.shape[0]))
        return Embedded(
            user_RM=torch.cat([*(self._rows(raw, "user", f) for f in schema.user_ids), numbers.user_RF], dim=1),
            history_HG=torch.cat([sum(history[1:], start=history[0]), numbers.history_HF], dim=1),
            candidate_NF=torch.cat(
                [*(self._rows(raw, CANDIDATES, f) for f in schema.candidate_ids), numbers.candidate_NF], dim=1
            ),
            satisfaction_NP=torch.cat(own, dim=1) if own else None,
        )

    def _rows(self, raw: Mapping[str, Tensor], group: str, feature: Feature) -> Tensor:
        """Embeddings of a feature, (R, H or N; D): rows of its table, or their sums or means over lists."""
        name, path = str(feature.table), _path(group, feature)
        # Tables of the satisfaction tower have the rows of the main tower's tables.
        tables = {table.name: table for table in self.schema.tables}
        owner = name if name in tables else name.removeprefix(SATISFACTION)
        map_SW = self.tables[module_name(owner)].map_SW
        if isinstance(map_SW, Tensor):
            row_V = encoding.mapped_rows(raw[path], map_SW)
        else:
            row_V = encoding.table_rows(raw[path], tables[owner])
        row_VD: Tensor = self.tables[module_name(name)](row_V)
        if feature.kind == "id":
            return row_VD
        length_N = raw[lengths(path)]
        lists = TracedLists.of(length_N, entries=row_VD, slots=row_VD)
        if feature.kind == "weighted_id_list":
            weight_V = raw[weights(path)]
            if feature.pooling == "mean":
                weight_V = encoding.shares(weight_V, lists.owner_M, lists.count)
            row_VD = row_VD * weight_V[:, None]
        elif feature.pooling == "mean":
            row_VD = row_VD / lists.spread(length_N)[:, None]
        return row_VD.new_zeros(lists.count, row_VD.shape[1]).index_add(0, lists.owner_M, row_VD)

    def _numbers(self, raw: Mapping[str, Tensor], group: str, features: Sequence[Feature], rows: int) -> Tensor:
        """Numbers of some features side by side, (rows, F), transformed as the reader does."""
        columns = []
        for feature in features:
            values = raw[_path(group, feature)]
            if feature.kind == "count":
                columns.append(encoding.count_numbers(feature, values))
            else:
                values = encoding.number(feature, values)
                columns.append(values if values.ndim > 1 else values[:, None])
        return torch.cat(columns, dim=1) if columns else raw["history.watch_ratio"].new_zeros(rows, 0)


def _path(group: str, feature: Feature) -> str:
    return "user_id" if group == "user" and feature.column == "user_id" else f"{group}.{feature.column}"


def _tables(ranker: Ranker) -> dict[str, Tensor]:
    """The embedding tables of a ranker by their names."""
    embeddings = ranker.embeddings
    groups = [embeddings.user.embedding_bags, embeddings.sequence.embeddings]
    groups += [embeddings.candidate.embedding_bags] if embeddings.candidate is not None else []
    return {name: module.weight for group in groups for name, module in group.items()}
