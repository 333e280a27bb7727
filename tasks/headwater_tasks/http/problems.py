"""Errors as RFC 9457 problem documents: what went wrong, in which field; never a traceback, never a secret."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from headwater_schemas.errors import (
    HeadwaterError,
    IncompatibleSchema,
    InvalidValue,
    NotPermitted,
    Overloaded,
    RecordTooLarge,
    SettingError,
    Unavailable,
    UnknownTopic,
    UsageError,
)
from headwater_tasks.errors import TaskConflict, TaskNotFound

__all__ = [
    "PROBLEM",
    "RESPONSES",
    "FieldError",
    "Problem",
    "ProblemError",
    "describe",
    "install",
    "problem",
    "responses",
]

logger = logging.getLogger(__name__)

PROBLEM: Final = "application/problem+json"


class FieldError(BaseModel):
    """One field that is wrong."""

    field: str = Field(description="Where it is, such as body.payload or query.limit.")
    message: str


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field(
        description="Which problem: a stable name to decide by.", examples=["urn:headwater:problem:task-not-found"]
    )
    title: str = Field(description="The same for every problem of the type.")
    status: int
    detail: str | None = Field(default=None, description="What is wrong this time, for people.")
    errors: list[FieldError] | None = Field(default=None, description="The fields that are wrong, if fields are.")


class ProblemError(Exception):
    """Raised by a route: answer with this problem."""

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        errors: Sequence[FieldError] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.name = name
        self.errors = errors
        self.headers = headers


_TITLES: Final = {
    "bad-request": "The request cannot be understood",
    "conflict": "The task is not in a state for this",
    "no-source": "A view has no source to read anew from",
    "not-decodable": "What the cache holds there is no value that can be read",
    "forbidden": "The key does not have the scope for this",
    "internal": "Something went wrong in here",
    "invalid": "Something in the request is not as it must be",
    "method-not-allowed": "This method is not allowed here",
    "not-found": "There is nothing here",
    "overloaded": "Too much is under way: come back later",
    "task-not-found": "There is no such task",
    "too-large": "The request is too large",
    "unauthorized": "A valid API key is needed",
    "unavailable": "Something this depends on does not answer: come back later",
    "unknown-topic": "There is no such topic",
    "unsupported-media-type": "Send application/json",
}
_BY_STATUS: Final = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
    415: "unsupported-media-type",
    422: "invalid",
}
_RETRY: Final = {"Retry-After": "1"}


def responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer with, for the OpenAPI document."""
    content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {code: {"description": HTTPStatus(code).phrase, "content": content} for code in codes}


RESPONSES: Final = responses(400, 401, 403, 422, 503)
"""What every route may answer."""


def describe(app: FastAPI) -> None:
    """Put the problem document into the OpenAPI document of ``app``, for ``responses`` to refer to."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        if "Problem" not in schemas:
            schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs"))
            schemas["Problem"] = schema
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the document


def install(app: FastAPI) -> None:
    """Have every error of ``app`` answered by a problem document."""
    app.add_exception_handler(ProblemError, _of_route)  # type: ignore[arg-type]  # Starlette types them by Exception
    app.add_exception_handler(HeadwaterError, _of_ours)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _of_validation)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _of_http)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _of_anything)


def problem(
    status: int,
    name: str,
    detail: str | None,
    errors: Sequence[FieldError] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """The response."""
    document = Problem(
        type=f"urn:headwater:problem:{name}",
        title=_TITLES[name],
        status=status,
        detail=detail,
        errors=None if errors is None else list(errors),
    )
    return JSONResponse(document.model_dump(exclude_none=True), status, headers, PROBLEM)


def _of_route(_: Request, exc: ProblemError) -> JSONResponse:
    return problem(exc.status, exc.name, str(exc), exc.errors, exc.headers)


def _of_ours(request: Request, exc: HeadwaterError) -> JSONResponse:
    """The one place where our errors become statuses."""
    match exc:
        case TaskNotFound():
            return problem(404, "task-not-found", str(exc))
        case UnknownTopic():
            return problem(404, "unknown-topic", str(exc))
        case TaskConflict():
            return problem(409, "conflict", str(exc))
        case RecordTooLarge():
            return problem(413, "too-large", str(exc))
        case InvalidValue():
            errors = [FieldError(field=f"body.{exc.field}", message=str(exc))] if exc.field else None
            return problem(422, "invalid", str(exc), errors)
        case NotPermitted() | SettingError() | IncompatibleSchema():
            return _of_anything(request, exc)  # our own set-up is wrong: not the caller's business
        case UsageError():
            return problem(422, "invalid", str(exc))
        case Overloaded():
            return problem(503, "overloaded", str(exc), headers=_RETRY)
        case Unavailable():
            logger.warning("%s %s: %s", request.method, request.url.path, exc)
            return problem(503, "unavailable", str(exc), headers=_RETRY)
    return _of_anything(request, exc)


def _of_validation(_: Request, exc: RequestValidationError) -> JSONResponse:
    errors = [
        FieldError(field=".".join(str(part) for part in error["loc"]), message=error["msg"]) for error in exc.errors()
    ]
    if any(error["type"] == "json_invalid" for error in exc.errors()):
        return problem(400, "bad-request", "the body is not JSON", errors)
    return problem(422, "invalid", f"{errors[0].field}: {errors[0].message}", errors)


def _of_http(_: Request, exc: HTTPException) -> JSONResponse:
    name = _BY_STATUS.get(exc.status_code)
    if name is None:
        name = "bad-request" if exc.status_code < 500 else "internal"
    return problem(exc.status_code, name, exc.detail, headers=dict(exc.headers) if exc.headers else None)


def _of_anything(request: Request, exc: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=exc)
    return problem(500, "internal", "the log of the server says more")
