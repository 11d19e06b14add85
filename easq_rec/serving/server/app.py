"""The HTTP interface of a package: `/score`, `/live`, `/ready`, `/model`, `/metrics`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from easq_rec.export.bad_request import BadRequestError
from easq_rec.export.request import CallLimits
from easq_rec.serving.server.batcher import Batcher, LateError, OverloadedError, Score
from easq_rec.serving.server.metrics import ServerMetrics
from easq_rec.serving.server.served_package import ServedPackage, Serving

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
log = logging.getLogger("easq_rec.serve")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How a server behaves."""

    deadline_s: float = 0.5
    """A call that waited longer is answered by 504, and not scored."""
    body_bytes: int = 4 * 2**20
    """Largest body."""
    most_waiting: int = 256
    """Calls that wait at most; more are answered by 503."""
    watch_s: float = 1.0
    """Seconds between two looks at `current.json`."""
    limits: CallLimits = field(default_factory=CallLimits)


def application(directory: Path, options: ServerOptions) -> Starlette:
    """The application that serves the current package of a directory.

    Raises UserError if there is none, or it is refused.
    """
    metrics = ServerMetrics()

    def said(version: str, problem: str | None) -> None:
        metrics.version(version, accepted=problem is None)
        if problem is None:
            log.info("version %s serves", version)
        else:
            log.error("version %s is refused: %s", version, problem)

    def batcher(score: Score) -> Batcher:
        return Batcher(score, most_waiting=options.most_waiting, observe=metrics.batch)

    served = ServedPackage(directory, options.limits, batcher=batcher, said=said)
    served.load()

    async def score(request: Request) -> Response:
        begin = time.monotonic()
        assert served.serving is not None
        response = await _answer(request, served.serving, options, begin)
        metrics.answered(response.status_code, time.monotonic() - begin)
        return response

    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        return JSONResponse({"ready": True, "version": _version(served)})

    async def model(request: Request) -> Response:
        assert served.serving is not None
        manifest = served.serving.package.manifest
        shown = {"version": served.serving.version, "inputs": [asdict(one) for one in manifest.inputs]}
        for name in ("run", "recipe", "step", "created", "precision", "device", "max_history", "bounds", "gate"):
            shown[name] = getattr(manifest, name)
        return JSONResponse(shown | {"limits": asdict(options.limits)})

    async def measured(request: Request) -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(served.watch(options.watch_s))
        yield
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/score", score, methods=["POST"]),
            Route("/live", live),
            Route("/ready", ready),
            Route("/model", model),
            Route("/metrics", measured),
        ],
    )


def _version(served: ServedPackage) -> str | None:
    return None if served.serving is None else served.serving.version


async def _answer(request: Request, serving: Serving, options: ServerOptions, begin: float) -> Response:
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if kind not in (JSON, ARROW):
        return _problem(415, f"content-type {kind}: send {JSON} or {ARROW}")
    try:
        body = await _body(request, options.body_bytes)
        if body is None:
            return _problem(413, f"the body has more than {options.body_bytes:,} bytes: send fewer requests at once")
        call = serving.contract.of_json(body) if kind == JSON else serving.contract.of_arrow(body)
        scores = await serving.batcher(call, deadline=begin + options.deadline_s)
    except BadRequestError as error:
        named = {"column": error.column, "found": error.found, "expected": error.expected}
        return JSONResponse({"error": str(error), **named}, status_code=400)
    except ClientDisconnect:
        return Response(status_code=499)
    except OverloadedError:
        return _problem(503, "too many calls wait: try again", {"Retry-After": "1"})
    except LateError:
        return _problem(504, f"the call waited longer than {options.deadline_s:g} s")
    if kind == ARROW:
        return Response(_arrow(scores, serving.version), media_type=ARROW)
    return JSONResponse({"version": serving.version, "scores": scores.tolist()})


async def _body(request: Request, most: int) -> bytes | None:
    """The body; None if it has more than `most` bytes, of which no more are read."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        return None
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            return None
        parts.append(part)
    return b"".join(parts)


def _problem(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status_code=status, headers=headers)


def _arrow(scores: NDArray[Any], version: str) -> bytes:
    """An IPC stream with a column of scores, and the version among the metadata of its schema."""
    table = pa.table({"score": scores}).replace_schema_metadata({"version": version})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
