"""The HTTP interface of packages: `/score`, `/live`, `/ready`, `/model`, `/metrics`, `/openapi.json`."""

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
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from easq_rec import json_file
from easq_rec.export.bad_request import BadRequestError
from easq_rec.export.logged import ScoredCall
from easq_rec.export.manifest import Manifest
from easq_rec.export.request import CallLimits, Decoded
from easq_rec.serving.server.batcher import Batcher, LateError, OverloadedError, Score
from easq_rec.serving.server.experiment import SECOND
from easq_rec.serving.server.metrics import ServerMetrics
from easq_rec.serving.server.openapi import document
from easq_rec.serving.server.served_log import ServedLog
from easq_rec.serving.server.served_package import PackageSource, ServedPackages, Serving

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
SHADOW_WAITING = 16
"""Calls that wait for a second package that answers no one; more are not scored by it, so that answers come first."""
log = logging.getLogger("easq_rec.serve")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How a server behaves."""

    source: PackageSource
    deadline_s: float = 0.5
    """A call that waited longer is answered by 504, and not scored."""
    body_bytes: int = 4 * 2**20
    """Largest body."""
    most_waiting: int = 256
    """Calls that wait at most; more are answered by 503."""
    watch_s: float = 1.0
    """Seconds between two looks at `current.json`."""
    log: Path | None = None
    """Data directory that gets what was served."""
    log_s: float = 10.0
    """Seconds between two files of it."""
    limits: CallLimits = field(default_factory=CallLimits)


def application(options: ServerOptions) -> Starlette:
    """The application that serves the current packages.

    Raises UserError if there is none, one is refused, or the log cannot be written.
    """
    metrics = ServerMetrics(options.source.directories)

    def said(arm: str, version: str, problem: str | None) -> None:
        metrics.version(arm, version, accepted=problem is None)
        if problem is None:
            log.info("version %s serves as %s", version, arm)
        else:
            log.error("version %s is refused as %s: %s", version, arm, problem)

    def batcher(arm: str, score: Score) -> Batcher:
        second = arm == SECOND and options.source.experiment is not None and options.source.experiment.shadow
        return Batcher(
            score,
            most_waiting=SHADOW_WAITING if second else options.most_waiting,
            observe=lambda calls, candidates, seconds: metrics.batch(arm, calls, candidates, seconds),
        )

    served = ServedPackages(options.source, options.limits, batcher=batcher, said=said)
    served.load()
    served_log = None
    if options.log is not None:
        served_log = ServedLog(options.log, interval_s=options.log_s, counted=metrics.logged)
    afterwards: set[asyncio.Task[None]] = set()

    def serving() -> Serving:
        assert served.serving is not None
        return served.serving

    async def score(request: Request) -> Response:
        begin = time.monotonic()
        now = serving()
        response, scored = await _answer(request, now, options, begin)
        metrics.answered(response.status_code, time.monotonic() - begin)
        if scored is not None:
            shadow = now.experiment is not None and now.experiment.shadow
            if shadow:
                # After the answer: a task runs when this one waits.
                task = asyncio.create_task(_shadow(scored, now))
                afterwards.add(task)
                task.add_done_callback(afterwards.discard)
            elif served_log is not None:
                _log(scored, now)
        return response

    async def _shadow(scored: ScoredCall, now: Serving) -> None:
        second_N = await now.shadow(scored.call, deadline=time.monotonic() + options.deadline_s)
        if second_N is None:
            metrics.skipped()
        if served_log is not None:
            _log(ScoredCall(**{**vars(scored), "second_N": second_N}), now)

    def _log(scored: ScoredCall, now: Serving) -> None:
        assert served_log is not None and now.logged is not None
        served_log.add(scored, now.logged)

    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        return JSONResponse({"ready": True, "versions": serving().versions})

    async def model(request: Request) -> Response:
        now = serving()
        shown = {arm: _shown(loaded.package.manifest) for arm, loaded in now.arms.items()}
        sent = [asdict(one) for one in now.contract.sent]
        contract = {"inputs": sent, "bounds": now.contract.bounds, "limits": asdict(options.limits)}
        experiment = None if now.experiment is None else asdict(now.experiment)
        return JSONResponse({"versions": now.versions, "packages": shown, "experiment": experiment, **contract})

    async def described(request: Request) -> Response:
        return JSONResponse(document(serving(), options.limits))

    async def measured(request: Request) -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(served.watch(options.watch_s))
        yield
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await asyncio.gather(*afterwards)
        if served_log is not None:
            await asyncio.to_thread(served_log.close)

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/score", score, methods=["POST"]),
            Route("/live", live),
            Route("/ready", ready),
            Route("/model", model),
            Route("/metrics", measured),
            Route("/openapi.json", described),
        ],
    )


def _shown(manifest: Manifest) -> dict[str, Any]:
    names = ("run", "recipe", "step", "created", "precision", "device", "max_history", "gate")
    return {name: getattr(manifest, name) for name in names}


async def _answer(
    request: Request, serving: Serving, options: ServerOptions, begin: float
) -> tuple[Response, ScoredCall | None]:
    """(answer, what was scored)."""
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if kind not in (JSON, ARROW):
        return _problem(415, f"content-type {kind}: send {JSON} or {ARROW}"), None
    try:
        call = await _call(request, kind, serving, options)
        if call is None:
            text = f"the body has more than {options.body_bytes:,} bytes: send fewer requests at once"
            return _problem(413, text), None
        scored = await serving.score(call, deadline=begin + options.deadline_s)
    except BadRequestError as error:
        named = {"column": error.column, "found": error.found, "expected": error.expected}
        return JSONResponse({"error": str(error), **named}, status_code=400), None
    except ClientDisconnect:
        return Response(status_code=499), None
    except OverloadedError:
        return _problem(503, "too many calls wait: try again", {"Retry-After": "1"}), None
    except LateError:
        return _problem(504, f"the call waited longer than {options.deadline_s:g} s"), None
    said = {"versions": serving.versions, "arms": list(scored.arm_R)}
    if kind == ARROW:
        return Response(_arrow(scored, said), media_type=ARROW), scored
    return JSONResponse({**said, "scores": scored.score_N.tolist()}), scored


async def _call(request: Request, kind: str, serving: Serving, options: ServerOptions) -> Decoded | None:
    """The checked call; None if the body is too large."""
    body = await _body(request, options.body_bytes)
    if body is None:
        return None
    return serving.contract.of_json(body) if kind == JSON else serving.contract.of_arrow(body)


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


def _arrow(scored: ScoredCall, said: dict[str, Any]) -> bytes:
    """An IPC stream with a column of scores, and the rest of the answer in JSON among the metadata of its schema."""
    metadata = {name: json_file.text(value) for name, value in said.items()}
    table = pa.table({"score": scored.score_N}).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
