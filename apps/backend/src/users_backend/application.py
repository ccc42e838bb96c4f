"""The ASGI application: FastAPI, with what surrounds every request."""

import logging
import random
import re
import time

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from users_backend import problems
from users_backend.guard import Guard
from users_backend.logs import RequestLog
from users_backend.metrics import Metrics
from users_backend.routing import Route

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

logger = logging.getLogger(__name__)


def new_request_id() -> str:
    """32 hexadecimal digits, which tell requests apart but are no secret."""
    return f"{random.getrandbits(128):032x}"


class Application:
    """FastAPI, around which each request gets an id, a guard, a log line, metrics, and an answer whatever happens.

    A request for one of our Routes goes straight there: FastAPI's own way (middlewares,
    matching, dependencies) takes longer than reading a user from the file.
    """

    def __init__(self, fastapi: FastAPI, guard: Guard, metrics: Metrics) -> None:
        """Serve all of `fastapi`. A path parameter of a Route may only be the last part of its path."""
        self._fastapi = fastapi
        self._guard = guard
        self._metrics = metrics
        self._log = RequestLog()
        # Routes by method, by the path, or by what comes before its one parameter.
        self._fixed: dict[str, dict[str, Route]] = {}
        self._with_parameter: dict[str, dict[str, Route]] = {}
        for route in fastapi.routes:
            if isinstance(route, Route):
                path, _, parameter = route.path.partition("{")
                table = self._with_parameter if parameter else self._fixed
                table.setdefault(path, {}).update(dict.fromkeys(route.methods or (), route))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI asks for."""
        if scope["type"] != "http":
            await self._fastapi(scope, receive, send)
            return

        created, start = time.time(), time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else new_request_id()
        scope.setdefault("state", {})["request_id"] = request_id
        method = scope["method"]
        if method == "HEAD":
            # GET without the body, which uvicorn leaves out when it finds HEAD in its own scope.
            scope = {**scope, "method": "GET"}
        status = 0  # not answered yet

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            self._guard.check(method, headers)
            await self._lead(scope)(scope, receive, send_with_id)
        except Exception as error:
            problem = problems.explain(error)
            if problem.status == 500:
                logger.exception("Unexpected error", extra={"fields": {"request_id": request_id}})
            if status:
                raise  # too late for another answer: let uvicorn cut the connection
            # Answered here, because uvicorn would close a kept-alive connection.
            await problem.response(request_id)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - start
            # The path of the route, not of the request: labels must stay few.
            route = scope["route"].path if "route" in scope else "(none)"
            self._metrics.request(method, route, status, seconds)
            self._log.add(created, method, scope["path"], status, seconds, request_id)

    def _lead(self, scope: Scope) -> ASGIApp:
        """The application that answers: a Route, or FastAPI for all that is none. Raise HTTPException for 405."""
        path: str = scope["path"]
        parameter = ""
        methods = self._fixed.get(path)
        if methods is None:
            start, slash, parameter = path.rpartition("/")
            methods = self._with_parameter.get(start + slash) if parameter else None
        if methods is None:
            return self._fastapi
        route = methods.get(scope["method"])
        if route:
            scope["app"] = self._fastapi
            scope["route"] = route
            scope["path_params"] = {name: parameter for name in route.param_convertors}
            return route.serve
        allow = ", ".join(sorted({*methods, "OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))
        if scope["method"] != "OPTIONS":
            raise HTTPException(405, headers={"Allow": allow})
        return Response(status_code=204, headers={"Allow": allow})
