"""The OpenAPI document of a server: one property for each column that its packages read."""

from __future__ import annotations

from typing import Any

from easq_rec import __version__
from easq_rec.export.inputs import CANDIDATES, REQUESTS, Input, lengths, weights
from easq_rec.export.request import CallLimits
from easq_rec.serving.server.served_package import Serving

ERRORS = {
    "400": "A column is missing, unknown, of another type or length, or a value is out of bounds.",
    "413": "The body is too large.",
    "415": "The body is neither JSON nor Arrow.",
    "503": "Too many calls wait.",
    "504": "The call waited too long, and was not scored.",
}


def document(serving: Serving, limits: CallLimits) -> dict[str, Any]:
    """The document, for the packages that serve now."""
    bounds = serving.contract.bounds
    call = _object({one.name: _column(one, bounds.get(one.name), limits) for one in serving.contract.sent})
    arms = {"type": "array", "items": {"type": "string", "enum": list(serving.arms)}}
    answer = _object(
        {
            "scores": {"type": "array", "items": {"type": "number"}, "description": "One for each candidate, as sent."},
            "arms": {**arms, "description": "The package that scored each request."},
            "versions": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "The version of each package.",
            },
        }
    )
    error = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in ("error", "column", "found", "expected")},
        "required": ["error"],
    }
    arrow = {"application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}}}
    answers = {"200": {"description": "Scores.", "content": {"application/json": {"schema": answer}, **arrow}}}
    for status, what in ERRORS.items():
        answers[status] = {"description": what, "content": {"application/json": {"schema": error}}}
    score = {
        "operationId": "score",
        "summary": "Scores of the candidates of some requests",
        "description": "One list for each column. The columns of all requests lie one after the other; lengths say "
        "which entries belong together. In Arrow: one row, whose columns are lists.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": call}, **arrow}},
        "responses": answers,
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "easq-rec", "version": __version__},
        "paths": {
            "/score": {"post": score},
            **{path: {"get": _plain(path.strip("/"), what)} for path, what in PLAIN.items()},
        },
    }


PLAIN = {
    "/live": "The process answers.",
    "/ready": "Packages serve, and their versions.",
    "/model": "The packages, their inputs and bounds, and the limits of a call.",
    "/metrics": "Metrics in the format of Prometheus.",
}


def _plain(name: str, what: str) -> dict[str, Any]:
    return {"operationId": name, "summary": what, "responses": {"200": {"description": what}}}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _column(one: Input, bound: int | None, limits: CallLimits) -> dict[str, Any]:
    """The schema of a column."""
    number: dict[str, Any] = {"type": "number"}
    if one.dtype == "int64":
        number = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
        if bound is not None:
            number |= {"minimum": 0, "maximum": bound - 1}
    if one.name.startswith((lengths(""), weights(""))):
        number["minimum"] = 0
    if one.width is not None:
        number = {"type": "array", "items": number, "minItems": one.width, "maxItems": one.width}
    column: dict[str, Any] = {"type": "array", "items": number, "description": _words(one)}
    if one.axis == REQUESTS:
        column |= {"minItems": 1, "maxItems": limits.requests}
    elif one.axis == CANDIDATES:
        column |= {"minItems": 1, "maxItems": limits.candidates}
    return column


def _words(one: Input) -> str:
    if one.name.startswith(lengths("")):
        return f"Entries of {one.name.removeprefix(lengths(''))} for each entry of {one.axis}."
    counts = ": shown, happened, prior" if one.count else ""
    return f"One for each entry of {one.axis}{counts}."
