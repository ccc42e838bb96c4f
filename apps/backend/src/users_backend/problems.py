"""Errors, all in one shape: RFC 9457 `application/problem+json`."""

import http
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from users_backend.database import DiskFull, StoreError, Unknown

MEDIA_TYPE = "application/problem+json"


class FieldError(BaseModel):
    """What is wrong with one field of the request."""

    field: str
    message: str


class ProblemBody(BaseModel):
    """The body of every error."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldError] | None = None


class Problem(Exception):
    """An error for the caller, with a `detail` sentence that says what to do."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: list[FieldError] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers

    def response(self, request_id: str) -> Response:
        """The answer to send for this request."""
        body = ProblemBody(
            title=http.HTTPStatus(self.status).phrase,
            status=self.status,
            detail=self.detail,
            request_id=request_id,
            errors=self.errors,
        )
        return Response(body.model_dump_json(exclude_none=True), self.status, self.headers, MEDIA_TYPE)


def invalid(errors: Iterable[Any]) -> Problem:
    """A 422 made of Pydantic's errors, each with the field it is about."""
    fields = [
        # Without a location the whole body is wrong: it is not JSON at all.
        FieldError(field=str(error["loc"][-1]) if error["loc"] else "body", message=error["msg"])
        for error in errors
    ]
    sentences = " ".join(f"{error.field}: {error.message}." for error in fields)
    return Problem(422, f"Correct the request and send it again. {sentences}", errors=fields)


def explain(error: Exception) -> Problem:
    """The problem that stands for an exception of ours, FastAPI's or Starlette's."""
    match error:
        case Problem():
            return error
        case RequestValidationError() | ValidationError():
            return invalid(error.errors())
        case DiskFull():
            return Problem(507, str(error))
        case Unknown():
            return Problem(504, str(error))
        case StoreError():
            return Problem(503, str(error), headers={"Retry-After": "1"})
        case HTTPException(status_code=404):
            return Problem(404, "Nothing is at this address. /users has the users; see /docs.")
        case HTTPException(status_code=405):
            return Problem(
                405, "This address does not answer this method. See /docs for those it does.", headers=error.headers
            )
        case HTTPException():
            return Problem(error.status_code, f"{error.detail}. See /docs.", headers=error.headers)
        case ClientDisconnect():
            return Problem(400, "The connection closed before the whole request had arrived.")
    return Problem(500, "The server made a mistake. Look for this request_id in its log.")


async def handle(request: Request, error: Exception) -> Response:
    """FastAPI's exception handler."""
    return explain(error).response(request.state.request_id)


_WHEN = {
    403: "The request comes from a page of another web site",
    404: "No user has this id",
    409: "Another user has this id",
    412: "The user has changed since the state that `If-Match` names",
    413: "The body is larger than 64 KiB",
    421: "The request calls this server by a name that is not its own",
    422: "The request is not valid; `errors` names the fields",
    503: "The database cannot be used, or too many requests wait; try again later",
    504: "The database went out of reach while the change was being saved; it is not known whether it was saved",
    507: "The disk is full; nothing was saved",
}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of the problems that a call may answer, with the one that any may."""
    described: dict[int | str, dict[str, Any]] = {
        status: {"description": _WHEN[status], "model": ProblemBody} for status in (*statuses, 421)
    }
    if 503 in described:
        described[503]["headers"] = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}
    return described
