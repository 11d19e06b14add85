"""Scores the requests of a Parquet file of the data contract: python examples/client.py FILE [--url URL] [--first N].

Needs pyarrow alone. Lists and structs become flat columns, and `lengths:` say which entries belong together. The server
says which columns it reads.
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ARROW = "application/vnd.apache.arrow.stream"


def flat(array: pa.Array, path: str) -> Iterator[tuple[str, pa.Array]]:
    """(name, column) of everything in an array."""
    names = [field.name for field in array.type] if pa.types.is_struct(array.type) else []
    if pa.types.is_list(array.type):
        yield f"lengths:{path}", pc.list_value_length(array)
        yield from flat(array.flatten(), path)
    elif names == ["id", "weight"]:
        yield from ((path, array.field("id")), (f"weights:{path}", array.field("weight")))
    elif names == ["shown", "happened", "prior"]:
        yield path, pa.array([[*count.values()] for count in array.to_pylist()], pa.list_(pa.float32(), 3))
    elif names:
        for name, child in zip(names, array.flatten(), strict=True):
            yield from flat(child, f"{path}.{name}".lstrip("."))
    else:
        yield path, array


def score(requests: pa.Table, url: str) -> list[float]:
    """Scores of all candidates of some requests, one after the other."""
    with urllib.request.urlopen(f"{url}/model") as answer:
        wanted = {one["name"] for one in json.load(answer)["inputs"]}
    columns = dict(flat(pa.concat_arrays(requests.to_struct_array().chunks), ""))
    sent = {name: pa.ListArray.from_arrays([0, len(columns[name])], columns[name]) for name in wanted}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.table(sent).schema) as writer:
        writer.write_table(pa.table(sent))
    call = urllib.request.Request(f"{url}/score", bytes(sink.getvalue()), {"content-type": ARROW})
    with urllib.request.urlopen(call) as answer:
        scores: list[float] = pa.ipc.open_stream(answer.read()).read_all()["score"].to_pylist()
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--first", type=int, default=2)
    args = parser.parse_args()
    print(score(pq.read_table(args.file)[: args.first], args.url))


if __name__ == "__main__":
    main()
