"""What surrounds every request. Pure ASGI: BaseHTTPMiddleware would halve the throughput."""

import logging
import random
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from users_backend.logs import RequestLog
from users_backend.metrics import Metrics
from users_backend.problems import Problem, explain

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

logger = logging.getLogger(__name__)


class Observed:
    """Give each request an id, one log line, its metrics, and an answer whatever happens."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self.log = RequestLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        created, start = time.time(), time.perf_counter()
        method = scope["method"]
        if method == "HEAD":
            # GET without the body, which uvicorn leaves out when it finds HEAD in its own scope.
            scope = {**scope, "method": "GET"}
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        # It only tells requests apart; nobody has to be unable to guess it.
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0  # not answered yet

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            problem = explain(error)
            if problem.status == 500:
                logger.exception("Unexpected error", extra={"fields": {"request_id": request_id}})
            if status:
                raise  # too late for another answer: let uvicorn cut the connection
            # Answered here, because uvicorn would close a kept-alive connection.
            await problem.response(scope)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - start
            # The path of the route, not of the request: labels must stay few.
            route = scope["route"].path if "route" in scope else "(none)"
            self.metrics.request(method, route, status, seconds)
            # The query stays out of the log: it may hold names.
            fields = {
                "method": method,
                "path": scope["path"][:200],
                "status": status,
                "ms": round(seconds * 1000, 2),
                "request_id": request_id,
            }
            self.log.add(created, fields)


class Guard:
    """Refuse what a page of another web site asks a browser to do here.

    Headers decide that only browsers send: curl and programs are not affected.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: frozenset[str]) -> None:
        """Know the host names, in lower case, that lead to this server; IP addresses always do."""
        self.app = app
        self._allowed_hosts = allowed_hosts
        self._is_ours = lru_cache(self._leads_here)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host = headers.get(b"host", b"localhost")
            # A page of evil.example may give that name our address ("DNS rebinding");
            # its requests then look as if they came from our own pages.
            if not self._is_ours(host):
                raise Problem(
                    421,
                    f"This server is not called {host.decode('latin-1')[:100]}. Use localhost or an IP address, "
                    "or add the name to the setting ALLOWED_HOSTS.",
                )
            if scope["method"] not in ("GET", "OPTIONS") and _from_other_site(headers, host):
                raise Problem(
                    403,
                    "Pages of other web sites may not change users. Use curl, the page at /docs "
                    "or your own server-side program.",
                )
        await self.app(scope, receive, send)

    def _leads_here(self, host: bytes) -> bool:
        name = re.sub(r":[0-9]*$", "", host.decode("latin-1").lower())
        return name in self._allowed_hosts or _is_ip_address(name)


def _is_ip_address(name: str) -> bool:
    try:
        ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True


def _from_other_site(headers: Mapping[bytes, bytes], host: bytes) -> bool:
    # Browsers send Sec-Fetch-Site to https and localhost only; Origin is the fallback.
    if site := headers.get(b"sec-fetch-site"):
        return site not in (b"same-origin", b"none")
    if origin := headers.get(b"origin"):
        return origin.partition(b"://")[2] != host
    return False
