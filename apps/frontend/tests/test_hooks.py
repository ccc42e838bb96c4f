"""What surrounds every request: who may post, the headers, the request id, the log."""

import json
import logging
import re
from typing import Any

import pytest
from users_frontend.logs import JsonFormatter

SENDERS = [
    ({}, True),  # curl
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "none"}, True),
    ({"Sec-Fetch-Site": "same-site"}, False),  # another port of this machine
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "new-word"}, False),
    ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8000"}, False),
    ({"Origin": "http://localhost:8000"}, True),
    ({"Origin": "https://localhost:8000"}, True),  # behind a proxy that speaks TLS
    ({"Origin": "http://localhost:9000"}, False),
    ({"Origin": "http://localhost"}, False),
    ({"Origin": "http://localhost:8000.evil.test"}, False),
    ({"Origin": "http://evil.test"}, False),
    ({"Origin": "http://["}, False),
    ({"Origin": "null"}, False),
]


HOSTS = [
    ("localhost", True),
    ("LOCALHOST:8000", True),
    ("frontend:8000", True),  # its name for other containers
    ("127.0.0.1:8000", True),
    ("192.168.56.10", True),
    ("[::1]:8000", True),
    ("evil.test", False),
    ("localhost.evil.test", False),
    ("127.0.0.1.evil.test", False),
    ("", False),
    ("a b", False),
    ("evil[", False),
    ("<b>", False),
]


@pytest.mark.parametrize("path", ["/", "/healthz", "/nowhere"])
@pytest.mark.parametrize(("host", "ours"), HOSTS)
def test_only_ip_addresses_and_allowed_names_lead_here(client: Any, path: str, host: str, ours: bool) -> None:
    answer = client.get(path, headers={"Host": host})
    assert (answer.status_code == 421) != ours
    if not ours:
        assert "ALLOWED_HOSTS" in answer.text


def test_a_name_can_be_allowed(app: Any, stand_in: Any) -> None:
    client = app(BACKEND_URL=stand_in.url, ALLOWED_HOSTS="users.test").test_client()
    assert client.get("/", headers={"Host": "users.test:8000"}).status_code == 200
    assert client.get("/", headers={"Host": "localhost"}).status_code == 421


@pytest.mark.parametrize(("headers", "welcome"), SENDERS)
def test_only_our_own_page_and_no_browser_at_all_may_post(
    client: Any, stand_in: Any, headers: dict[str, str], welcome: bool
) -> None:
    stand_in.say("POST /users", 201, {"id": 1, "name": "Ana"})
    answer = client.post("/", data={"id": "1", "name": "Ana"}, headers={"Host": "localhost:8000", **headers})
    assert answer.status_code == (303 if welcome else 403)
    assert len(stand_in.calls) == (1 if welcome else 0)
    if not welcome:
        assert "Another web site sent this form" in answer.text


def test_a_link_on_another_site_may_lead_here(client: Any) -> None:
    answer = client.get("/", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/", "/nowhere", "/healthz", "/static/style.css"])
def test_every_answer_has_the_security_headers(client: Any, path: str) -> None:
    with client.get(path) as answer:
        policy = answer.headers["Content-Security-Policy"]
        # What the first one says counts for neither of the others.
        for part in ("default-src 'none'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"):
            assert part in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "geolocation=()" in answer.headers["Permissions-Policy"]


def test_a_notice_travels_in_a_cookie_that_nobody_else_can_write(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 201, {"id": 1, "name": "Ana"})
    cookie = client.post("/", data={"id": "1", "name": "Ana"}).headers["Set-Cookie"]
    assert cookie.startswith("users_session=")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    client.set_cookie("users_session", cookie.partition("=")[2].partition(";")[0] + "x")
    assert "was created" not in client.get("/").text


def test_pages_are_not_kept_but_the_style_sheet_may_be(client: Any) -> None:
    assert client.get("/").headers["Cache-Control"] == "no-store"
    with client.get("/static/style.css") as answer:
        assert answer.headers["Cache-Control"] != "no-store"


def test_no_page_needs_inline_code_or_style(client: Any) -> None:
    for html in (client.get("/").text, client.get("/nowhere").text):
        assert html.count("<script") == html.count('<script src="/static/form.js" defer></script>') == 1
        assert "<style" not in html
        assert " style=" not in html
        assert not re.search(r"\son\w+=", html)


def test_a_request_id_is_passed_on(client: Any, stand_in: Any) -> None:
    answer = client.get("/", headers={"X-Request-ID": "abc-1"})
    assert answer.headers["X-Request-ID"] == "abc-1"
    assert stand_in.calls[0]["headers"]["X-Request-ID"] == "abc-1"


@pytest.mark.parametrize("given", ["", "a b", "<b>", "x" * 65, "é"])
def test_a_request_id_that_is_not_sane_is_replaced(client: Any, stand_in: Any, given: str) -> None:
    answer = client.get("/", headers={"X-Request-ID": given})
    made = answer.headers["X-Request-ID"]
    assert len(made) == 32
    assert stand_in.calls[0]["headers"]["X-Request-ID"] == made


def test_each_request_is_one_line_of_json(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client.get("/nowhere%0A%7B?name=Ana", headers={"X-Request-ID": "abc-1"})
    (record,) = [each for each in caplog.records if each.message == "request"]
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert line["method"] == "GET"
    assert line["path"] == "/nowhere\n{"
    assert line["status"] == 404
    assert 0 <= line["ms"] < 1000
    assert "Ana" not in text


def test_no_log_line_has_the_name_that_was_searched_or_sent(
    lonely_client: Any, client: Any, stand_in: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "urllib3")  # as logs.configure does
    caplog.set_level(logging.INFO)
    stand_in.say("POST /users", 201, raw=b"\xff Quirino")
    stand_in.say("GET /users", 200, [{"id": None, "name": "Quirino"}])
    for visitor in (lonely_client, client):
        visitor.get("/?name=Quirino")
        visitor.post("/", data={"id": "1", "name": "Quirino"})
    stand_in.cut("GET /users", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nQuirino")
    client.get("/?name=Quirino")
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) >= 4
    assert "Quirino" not in "\n".join(JsonFormatter().format(each) for each in caplog.records)


def test_a_crash_is_one_line_of_json_with_its_traceback() -> None:
    try:
        raise RuntimeError("oops")
    except RuntimeError as error:
        info = (RuntimeError, error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "it failed", (), info)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert "RuntimeError: oops" in json.loads(text)["exception"]


def test_metrics_count_requests_by_route_and_status_not_by_path_or_any_method(app: Any, stand_in: Any) -> None:
    client = app(BACKEND_URL=stand_in.url).test_client()
    stand_in.say("GET /users/7", 404, {"detail": "?"})
    client.get("/")
    client.get("/users/7/edit")
    client.get("/nowhere")
    client.open("/", method="INVENTED")
    answer = client.get("/metrics")
    assert answer.content_type.startswith("text/plain; version=")
    for line in (
        'http_requests_total{method="GET",route="/",status="200"} 1.0',
        'http_requests_total{method="GET",route="/users/<int:user_id>/edit",status="404"} 1.0',
        'http_requests_total{method="(any)",route="(none)",status="404"} 1.0',
        'http_requests_total{method="(any)",route="(none)",status="405"} 1.0',
        'http_request_duration_seconds_count{method="GET",route="/"} 1.0',
    ):
        assert line in answer.text.splitlines()
