"""Request ids, metrics, and the answer to a mistake of our own."""

import asyncio
import re
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import FastAPI, Header, Response
from prometheus_client import generate_latest
from users_backend.application import Application
from users_backend.guard import Guard
from users_backend.metrics import Metrics
from users_backend.routing import Route
from users_backend.store import Store


def test_a_sane_request_id_is_kept(http):
    response = http.get("/healthz", headers={"x-request-id": "a-B_1.9"})
    assert response.headers["x-request-id"] == "a-B_1.9"


@pytest.mark.parametrize("request_id", ["", "a b", "a" * 65, '"', "é".encode()])
def test_any_other_request_id_is_replaced(http, request_id):
    response = http.get("/healthz", headers={"x-request-id": request_id})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


def test_metrics_count_requests_commits_and_bytes(http, server):
    def metrics():
        response = http.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=")
        pairs = re.findall(r"^(\w\S*) (\S+)$", response.text, re.MULTILINE)
        return {name: float(value) for name, value in pairs}

    before = metrics()
    http.post("/users", json={"id": 1, "name": "Ana"})
    http.get("/users/1")
    http.get("/no/such/path")
    after = metrics()

    def grown(name):
        return after[name] - before.get(name, 0)

    assert grown('http_requests_total{method="POST",route="/users",status="201"}') == 1
    assert grown('http_requests_total{method="GET",route="/users/{id}",status="200"}') == 1
    assert grown('http_requests_total{method="GET",route="(none)",status="404"}') == 1
    assert grown('http_request_duration_seconds_count{method="POST",route="/users"}') == 1
    assert grown("users_commits_total") == 1
    assert grown("users_commit_batch_size_sum") == 1
    assert after["users_queue_length"] == 0
    if isinstance(server.database, Path):
        assert after["users_database_bytes"] == server.database.stat().st_size
    assert not any("/no/such/path" in name for name in after)


def test_metrics_are_shown_without_a_database_file(tmp_path):
    store = Store(tmp_path / "users.db")
    metrics = Metrics()
    metrics.watch(store)
    assert b"\nusers_database_bytes 0.0\n" in generate_latest(metrics.registry)
    asyncio.run(store.close())


def test_a_mistake_of_ours_answers_500_and_is_logged(caplog, check_problem):
    async def broken() -> Response:
        raise RuntimeError("secret detail")

    async def get():
        fastapi = FastAPI()
        fastapi.router.routes.append(Route("/", broken))
        app = Application(fastapi, Guard(frozenset({"test"})), Metrics())
        transport = httpx.ASGITransport(app)  # which raises what the app lets through
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/")

    response = asyncio.run(get())
    check_problem(response, 500, "request_id")
    assert "secret" not in response.text
    assert "secret detail" in caplog.text


def test_a_route_with_a_parameter_that_it_would_not_serve_is_refused():
    async def handler(agent: Annotated[str, Header()]) -> Response:
        return Response(agent)

    with pytest.raises(TypeError, match="handler declares a parameter"):
        Route("/", handler)
