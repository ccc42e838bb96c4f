"""FastAPI's routes, served without what FastAPI does for each request.

A handler is declared as in any FastAPI application, and its signature and docstring
make /docs. But a request goes straight from the address to the handler: FastAPI's own
way there (middlewares, matching, dependencies, exit stacks) takes several times as
long as reading a user from the disk.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from users_backend import problems
from users_backend.problems import Problem
from users_backend.users import repeated_key

MAX_BODY = 64 * 1024


class Route(APIRoute):
    """A FastAPI route. Its handler may take path and query parameters, one body, `Request` and `Response`.

    It returns what its annotation says, to be sent as JSON, or a Response.
    """

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        declared = self.dependant
        unsupported = declared.dependencies + declared.header_params + declared.cookie_params
        if unsupported or len(declared.body_params) > 1:
            raise TypeError(f"{endpoint.__name__} declares a parameter that users_backend.routing does not serve.")
        self._body = declared.body_params[0] if declared.body_params else None
        body_annotation: Any = self._body.field_info.annotation if self._body else None
        self._body_type: TypeAdapter[Any] = TypeAdapter(body_annotation)
        self._answer: TypeAdapter[Any] = TypeAdapter(self.response_model)
        self.app = self.serve

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request as an ASGI application does. Raise Problem, ValidationError or what the handler raises."""
        declared = self.dependant
        arguments = self._parameters(scope)
        if self._body:
            arguments[self._body.name] = await _read(receive, self._body_type)
        if declared.request_param_name:
            arguments[declared.request_param_name] = Request(scope, receive)
        headers: list[tuple[bytes, bytes]] = []
        if declared.response_param_name:
            response = Response()
            arguments[declared.response_param_name] = response
            headers = response.raw_headers
            headers.clear()

        result = await self.endpoint(**arguments)
        if isinstance(result, Response):
            await result(scope, receive, send)
            return
        body = b""
        if result is not None:
            body = self._answer.dump_json(result)
            headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": self.status_code or 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _parameters(self, scope: Scope) -> dict[str, Any]:
        """The checked parameters of path and query, by name."""
        declared = self.dependant
        query = self._query(scope["query_string"]) if scope["query_string"] else {}
        values: dict[str, Any] = {}
        errors: list[Any] = []
        for fields, given in ((declared.path_params, scope["path_params"]), (declared.query_params, query)):
            for field in fields:
                if field.alias in given:
                    values[field.name], wrong = field.validate(given[field.alias], loc=(field.alias,))
                    errors += wrong
                else:
                    values[field.name] = field.get_default()
        if errors:
            raise problems.invalid(errors)
        return values

    def _query(self, query: bytes) -> dict[str, str]:
        """The parameters of the query; a misspelt one must not pass for none."""
        known = [field.alias for field in self.dependant.query_params]
        try:
            pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
        except UnicodeDecodeError:
            raise problems.invalid([{"loc": ("query",), "msg": "Text should be percent-encoded UTF-8"}]) from None
        for name, count in Counter(name for name, _ in pairs).items():
            if name not in known:
                message = (
                    f"Parameter is not known here, only {', '.join(known)}" if known else "No parameter is known here"
                )
                raise problems.invalid([{"loc": (name[:100],), "msg": message}])
            if count > 1:
                raise problems.invalid([{"loc": (name,), "msg": "Parameter should be there only once"}])
        return dict(pairs)


async def _read(receive: Receive, expected: TypeAdapter[Any]) -> Any:
    """Read a small JSON body, whatever content type `curl -d` says it has.

    FastAPI's own reader turns NaN and lone surrogates into a 500.
    """
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message["body"]
        more = message["more_body"]
        if len(body) > MAX_BODY:
            raise Problem(413, "The body is larger than 64 KiB. Send one user in each request.")
    value = expected.validate_json(body)
    if key := repeated_key(body):
        raise problems.invalid([{"loc": (key,), "msg": "Field should be there only once"}])
    return value


class Shortcut:
    """ASGI middleware that leads an address straight to its Route; the rest is for FastAPI."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        """Know all Routes among `routes`. A path parameter may only be the last part of a path."""
        self.app = app
        self._fixed: dict[str, dict[str, Route]] = {}  # by path, then by method
        self._with_parameter: dict[str, dict[str, Route]] = {}  # by what comes before the parameter
        for route in routes:
            if isinstance(route, Route):
                path, _, parameter = route.path.partition("{")
                table = self._with_parameter if parameter else self._fixed
                table.setdefault(path, {}).update(dict.fromkeys(route.methods or (), route))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path: str = scope["path"]
        parameter = ""
        methods = self._fixed.get(path)
        if methods is None:
            start, slash, parameter = path.rpartition("/")
            methods = self._with_parameter.get(start + slash) if parameter else None
        if methods is None:
            await self.app(scope, receive, send)
            return
        route = methods.get(scope["method"])
        if route:
            scope["route"] = route
            scope["path_params"] = {name: parameter for name in route.param_convertors}
            await route.serve(scope, receive, send)
            return
        allow = ", ".join(sorted({*methods, "OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))
        if scope["method"] != "OPTIONS":
            raise HTTPException(405, headers={"Allow": allow})
        await Response(status_code=204, headers={"Allow": allow})(scope, receive, send)
