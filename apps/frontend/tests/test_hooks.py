"""What surrounds every request: who may post, the headers, the request id, the log."""

import json
import logging
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


@pytest.mark.parametrize(("headers", "welcome"), SENDERS)
def test_only_our_own_page_and_no_browser_at_all_may_post(
    client: Any, stand_in: Any, headers: dict[str, str], welcome: bool
) -> None:
    stand_in.say("POST /users", 201, {"id": 1, "name": "Ana"})
    answer = client.post(
        "/",
        data={"id": "1", "name": "Ana"},
        headers={"Host": "localhost:8000", **headers},
    )
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
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"


def test_pages_are_not_kept_but_the_style_sheet_may_be(client: Any) -> None:
    assert client.get("/").headers["Cache-Control"] == "no-store"
    with client.get("/static/style.css") as answer:
        assert answer.headers["Cache-Control"] != "no-store"


def test_no_page_needs_inline_code_or_style(client: Any) -> None:
    for html in (client.get("/").text, client.get("/nowhere").text):
        assert "<script" not in html
        assert "<style" not in html
        assert " style=" not in html
        assert '<html lang="en">' in html


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
    client.get("/nowhere%0A%7B", headers={"X-Request-ID": "abc-1"})
    (record,) = [each for each in caplog.records if each.message == "request"]
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert line["method"] == "GET"
    assert line["path"] == "/nowhere\n{"
    assert line["status"] == 404
    assert 0 <= line["duration_ms"] < 1000


def test_a_crash_is_one_line_of_json_with_its_traceback() -> None:
    try:
        raise RuntimeError("oops")
    except RuntimeError as error:
        info = (RuntimeError, error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "it failed", (), info)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert "RuntimeError: oops" in json.loads(text)["exception"]
