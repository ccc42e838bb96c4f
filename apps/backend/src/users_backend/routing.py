"""Routes that are declared as FastAPI's, and served without FastAPI's work for each request."""

from collections import Counter
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from users_backend import problems
from users_backend.problems import Problem
from users_backend.users import repeated_key

MAX_BODY = 64 * 1024


class Route(APIRoute):
    """A route as FastAPI's, which makes /docs from the handler's signature and docstring.

    The handler may take path and query parameters, one body and the `Request`, and
    returns a Response; what that holds is declared as `response_model`.
    """

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        declared = self.dependant
        unsupported = declared.dependencies + declared.header_params + declared.cookie_params
        if unsupported or len(declared.body_params) > 1 or declared.response_param_name:
            raise TypeError(f"{endpoint.__name__} declares a parameter that users_backend.routing does not serve.")
        self._body = declared.body_params[0] if declared.body_params else None
        body_annotation: Any = self._body.field_info.annotation if self._body else None
        self._body_type: TypeAdapter[Any] = TypeAdapter(body_annotation)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request as an ASGI application does. Raise Problem, ValidationError or what the handler raises."""
        arguments = self._parameters(scope)
        if self._body:
            arguments[self._body.name] = await _read(receive, self._body_type)
        if self.dependant.request_param_name:
            arguments[self.dependant.request_param_name] = Request(scope, receive)
        response = await self.endpoint(**arguments)
        await response(scope, receive, send)

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
