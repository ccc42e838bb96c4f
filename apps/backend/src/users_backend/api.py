"""The HTTP API. Each handler's docstring is its reference in /docs."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from users_backend import problems
from users_backend.application import Application
from users_backend.copies import Hourly, Kept
from users_backend.database import StoreError
from users_backend.guard import Guard
from users_backend.metrics import Metrics
from users_backend.problems import Problem
from users_backend.routing import Route
from users_backend.settings import Settings
from users_backend.store import Users, open_store
from users_backend.users import MAX_ID, MAX_NAME, NewName, PlainDigits, User

UserId = Annotated[int, Path(alias="id", ge=1, le=MAX_ID), PlainDigits]

# The OpenAPI description of the header that _unchanged() reads: routing.Route serves no declared ones.
IF_MATCH = {
    "parameters": [
        {
            "name": "If-Match",
            "in": "header",
            "description": "The `ETag` of the user as you have read it: if it has changed since, the answer is 412.",
            "schema": {"type": "string"},
        }
    ]
}

router = APIRouter(route_class=Route)


def _header(status: int, name: str, description: str, *, required: bool) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of a header of a response."""
    header = {"description": description, "required": required, "schema": {"type": "string"}}
    return {status: {"headers": {name: header}}}


def _store(request: Request) -> Users:
    store: Users = request.app.state.store
    return store


def _no_such_user(user_id: int) -> Problem:
    return Problem(404, f"There is no user with id {user_id}. GET /users lists those there are.")


def _etag(user: str) -> str:
    """The name of this state of a user, which is given as JSON (RFC 9110, section 8.8.3)."""
    return f'"{hashlib.sha256(user.encode()).hexdigest()[:16]}"'


async def _unchanged(request: Request, user_id: int) -> str | None:
    """The name that the user must still have, if If-Match asks for it (RFC 9110, section 13.1.1). Raise Problem."""
    tags = ",".join(request.headers.getlist("If-Match"))
    if "If-Match" not in request.headers or tags.strip() == "*":
        return None
    user = await _store(request).get(user_id)
    if user is None:
        raise _no_such_user(user_id)
    if _etag(user) not in map(str.strip, tags.split(",")):
        raise _changed(user_id)
    return str(json.loads(user)["name"])


def _changed(user_id: int) -> Problem:
    return Problem(
        412,
        f"User {user_id} is no longer as you have read it; nothing was changed. "
        f"GET /users/{user_id} has the user as it is, and the ETag for another try (its quotes are part of it).",
    )


def _json(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(text, status, headers, media_type="application/json")


@router.get(
    "/users",
    response_model=list[User],
    responses=_header(200, "Link", 'Address of the next page, with rel="next", if there is one', required=False)
    | problems.responses(422, 503, 507),
)
async def list_users(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000), PlainDigits] = 100,
    after: Annotated[int, Query(ge=0, le=MAX_ID), PlainDigits] = 0,
    name: Annotated[str, Query(max_length=MAX_NAME)] = "",
) -> Response:
    """List users by ascending id, at most `limit` of them, with ids above `after`.

    With `name`, only those whose name contains it; case and accents do not count.
    If there are more, the `Link` header has the address of the next page.
    """
    users = await _store(request).find(limit=limit + 1, after=after, name=name.strip())
    page = users[:limit]
    headers = {}
    if len(users) > limit:
        query = {"limit": limit, "after": json.loads(page[-1])["id"]} | ({"name": name} if name else {})
        headers["Link"] = f'</users?{urlencode(query)}>; rel="next"'
    return _json(f"[{','.join(page)}]", headers=headers)


@router.post(
    "/users",
    status_code=201,
    response_model=User,
    responses=_header(201, "Location", "Address of the new user", required=True)
    | problems.responses(403, 409, 413, 422, 503, 504, 507),
)
async def add_user(request: Request, user: User) -> Response:
    """Add a user. The id is yours to choose, from 1 to 2^53-1.

    The body is read as JSON whatever its content type says. `Location` has the
    address of the new user.
    """
    if not await _store(request).add(user):
        raise Problem(
            409,
            f"A user with id {user.id} already exists. "
            f"Choose another id, or change that user with PUT /users/{user.id}.",
        )
    return _json(user.model_dump_json(), 201, {"Location": f"/users/{user.id}"})


@router.get(
    "/users/{id}",
    response_model=User,
    responses=_header(200, "ETag", "For the header `If-Match` of a change", required=True)
    | problems.responses(404, 422, 503, 507),
)
async def get_user(request: Request, user_id: UserId) -> Response:
    """Get one user. With its `ETag` as `If-Match`, a change is refused when somebody else was faster."""
    user = await _store(request).get(user_id)
    if user is None:
        raise _no_such_user(user_id)
    return _json(user, headers={"ETag": _etag(user)})


@router.put(
    "/users/{id}",
    response_model=User,
    responses=problems.responses(403, 404, 412, 413, 422, 503, 504, 507),
    openapi_extra=IF_MATCH,
)
async def rename_user(request: Request, user_id: UserId, change: NewName) -> Response:
    """Give a user another name."""
    was = await _unchanged(request, user_id)
    user = User.model_construct(id=user_id, name=change.name)
    if not await _store(request).rename(user, was):
        raise _no_such_user(user_id) if was is None else _changed(user_id)
    return _json(user.model_dump_json())


@router.delete(
    "/users/{id}",
    status_code=204,
    responses=problems.responses(403, 404, 412, 422, 503, 504, 507),
    openapi_extra=IF_MATCH,
)
async def remove_user(request: Request, user_id: UserId) -> Response:
    """Delete a user."""
    was = await _unchanged(request, user_id)
    if not await _store(request).remove(user_id, was):
        raise _no_such_user(user_id) if was is None else _changed(user_id)
    return Response(status_code=204)


@router.get("/healthz", response_class=PlainTextResponse, responses=problems.responses(422))
async def healthz() -> Response:
    """Answer `ok` while the process serves requests; says nothing of the database."""
    return PlainTextResponse("ok")


@router.get("/readyz", response_class=PlainTextResponse, responses=problems.responses(422, 503))
async def readyz(request: Request) -> Response:
    """Answer `ok` when the database can be used, and 503 with the reason when not."""
    try:
        await _store(request).check()
    except StoreError as error:
        raise Problem(503, str(error), headers={"Retry-After": "1"}) from error
    return PlainTextResponse("ok")


@router.get("/metrics", response_class=PlainTextResponse, responses=problems.responses(422))
async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    # In a thread: the folder of the file may not answer, and nobody else shall wait for it.
    text = await asyncio.to_thread(generate_latest, request.app.state.metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _openapi(generate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """FastAPI's document, with the media type that errors really have."""
    document = generate()
    for path in document["paths"].values():
        for call in path.values():
            for status, response in call["responses"].items():
                if int(status) >= 400:
                    _, schema = response["content"].popitem()
                    response["content"][problems.MEDIA_TYPE] = schema
    return document


def create_app(settings: Settings) -> Application:
    """The ASGI app; its store opens and closes with the server."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.store = open_store(settings.database, metrics.commit)
        metrics.watch(app.state.store)
        # Open the file now. When that fails the log has the reason, and the
        # next request tries again.
        with suppress(StoreError):
            await app.state.store.check()
        hourly = Hourly(settings.database, Kept(*settings.copies_kept))
        yield
        await asyncio.to_thread(hourly.close)
        await app.state.store.close()

    app = FastAPIOffline(
        title="Users",
        description="Users with an id and a name. Every error is an `application/problem+json`.",
        version="1.0.0",
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.metrics = metrics
    app.router.routes += router.routes
    for error in (HTTPException, Exception):
        app.add_exception_handler(error, problems.handle)
    app.openapi = partial(_openapi, app.openapi)  # type: ignore[method-assign]
    return Application(app, Guard(settings.allowed_hosts), metrics)
