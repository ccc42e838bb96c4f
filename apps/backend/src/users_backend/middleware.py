"""What surrounds every request. Pure ASGI: BaseHTTPMiddleware would halve the throughput."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from users_backend.metrics import Metrics
from users_backend.problems import Problem, explain

logger = logging.getLogger(__name__)


class Observed:
    """Give each request an id, one log line, its metrics, and an answer whatever happens."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        start = time.perf_counter()
        method = scope["method"]
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", request_id):
            request_id = uuid.uuid4().hex
        scope = {
            **scope,
            "state": {**scope.get("state", {}), "request_id": request_id},
            # HEAD is GET without the body, which uvicorn leaves out.
            "method": "GET" if method == "HEAD" else method,
        }
        status = 0  # not answered yet

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            logger.exception("Unexpected error", extra={"fields": {"request_id": request_id}})
            if status:
                raise  # too late for another answer: let uvicorn cut the connection
            # Answered here, because uvicorn would close a kept-alive connection.
            await explain(error).response(scope)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - start
            # The path of the route, not of the request: labels must stay few.
            route = getattr(scope.get("route"), "path", "(none)")
            self.metrics.request(method, route, status, seconds)
            # The query stays out of the log: it may hold names.
            fields = {
                "method": method,
                "path": scope["path"][:200],
                "status": status,
                "ms": round(seconds * 1000, 2),
                "request_id": request_id,
            }
            logger.info("request", extra={"fields": fields})


class SameOriginWrites:
    """Refuse changes that a page of another web site asks a browser to make.

    Headers decide, and only browsers send them: curl and programs are not affected.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["method"] not in ("GET", "OPTIONS")
            and _from_other_site(Headers(scope=scope))
        ):
            problem = Problem(
                403,
                "Pages of other web sites may not change users. Use curl, the page at /docs "
                "or your own server-side program.",
            )
            await problem.response(scope)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _from_other_site(headers: Headers) -> bool:
    # Browsers send Sec-Fetch-Site to https and localhost only; Origin is the fallback.
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    if origin := headers.get("origin"):
        return origin.partition("://")[2] != headers.get("host")
    return False
