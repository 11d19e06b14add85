"""Ranks the requests of simulated users by calls to a server, as an app would make them."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from easq_rec.data.columns import RequestColumns
from easq_rec.errors import UserError
from easq_rec.export.inputs import Input, tensors_of
from easq_rec.tools.simulation.latents import Latents
from easq_rec.tools.simulation.requests import as_columns
from easq_rec.tools.simulation.rounds import Round

ARROW = "application/vnd.apache.arrow.stream"
TIMEOUT_S = 30.0


class RankedOverHttp:
    """`easq_rec.tools.simulation.online.Rank` by `easq-rec serve`.

    Args:
        url: of the server.
        connections: calls at the same time.
        requests_per_call: an app sends one; more make the simulation faster.
    """

    def __init__(
        self, url: str, latents: Latents, *, max_history: int, connections: int = 4, requests_per_call: int = 8
    ) -> None:
        self._host = urlsplit(url).netloc
        self._latents = latents
        self._max_history = max_history
        self._requests_per_call = requests_per_call
        self._connections = [http.client.HTTPConnection(self._host, timeout=TIMEOUT_S) for _ in range(connections)]
        self._inputs = tuple(Input(**one) for one in self.model()["inputs"])
        self.calls = 0

    def model(self) -> dict[str, Any]:
        """What the server says of the package that it serves."""
        return dict(json.loads(self._call(self._connections[0], "GET", "/model", None)))

    def __call__(self, pool: Round) -> NDArray[np.float64]:
        """Scores, [R, M]."""
        columns = as_columns(pool, self._latents, max_history=self._max_history)
        size = self._requests_per_call
        parts = [columns.slice(begin, min(begin + size, len(columns))) for begin in range(0, len(columns), size)]
        self.calls += len(parts)
        count = len(self._connections)
        with ThreadPoolExecutor(count) as pool_of_threads:
            shares = [parts[start::count] for start in range(count)]
            answers = list(pool_of_threads.map(self._score_all, self._connections, shares))
        found = [answers[index % count][index // count] for index in range(len(parts))]
        return np.concatenate(found, dtype=np.float64).reshape(pool.video.shape)

    def _score_all(self, connection: http.client.HTTPConnection, parts: list[RequestColumns]) -> list[NDArray[Any]]:
        """The scores of some calls, one after the other on one connection."""
        return [self._score(connection, part) for part in parts]

    def _score(self, connection: http.client.HTTPConnection, requests: RequestColumns) -> NDArray[Any]:
        tensors = tensors_of(self._inputs, requests, max_history=self._max_history)
        arrays = [pa.array(tensor.numpy()) for tensor in tensors]
        lists = [pa.ListArray.from_arrays([0, len(array)], array) for array in arrays]
        batch = pa.record_batch(lists, names=[one.name for one in self._inputs])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        answer = self._call(connection, "POST", "/score", sink.getvalue().to_pybytes())
        scores: NDArray[Any] = pa.ipc.open_stream(answer).read_all().column("score").to_numpy()
        return scores

    def _call(self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None) -> bytes:
        headers = {"content-type": ARROW, "accept": ARROW} if body is not None else {}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
        except (ConnectionError, http.client.RemoteDisconnected):
            # A server closes connections that were idle.
            connection.close()
            connection.request(method, path, body, headers)
            response = connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise UserError(f"http://{self._host}{path}: {response.status} {answer[:300].decode(errors='replace')}")
        return answer

    def close(self) -> None:
        """Closes the connections."""
        for connection in self._connections:
            connection.close()
