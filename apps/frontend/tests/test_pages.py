"""Every outcome of the form, the list and the health check, named."""

from typing import Any

import pytest
from markupsafe import escape
from users_frontend import create_app
from users_frontend.settings import Settings

UNKNOWN = "may or may not have been saved: look at the list before trying again"


def post(client: Any, user_id: str = "1", name: str = "Ana") -> Any:
    return client.post("/", data={"id": user_id, "name": name})


def problem(status: int, detail: str, **more: object) -> dict[str, object]:
    return {
        "type": "about:blank",
        "title": "T",
        "status": status,
        "detail": detail,
    } | more


# The form


def test_a_created_user_is_answered_with_a_redirect(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 201, {"id": 1, "name": "Ana"})
    answer = post(client, " 1 ", "  Ana ")
    assert answer.status_code == 303
    assert answer.location == "/?created=1"
    assert answer.text == "User 1, Ana, was created.\n"
    # The name goes as it was typed: trimming it is a rule of the backend.
    assert stand_in.calls[0]["body"] == {"id": 1, "name": "  Ana "}


def test_the_page_after_it_says_so_with_the_name_the_backend_has(client: Any, stand_in: Any, page_text: Any) -> None:
    stand_in.say("GET /users/1", 200, {"id": 1, "name": "Ana"})
    answer = client.get("/?created=1")
    assert answer.status_code == 200
    assert "User 1, Ana, was created." in page_text(answer.text)
    assert 'role="status"' in answer.text


def test_a_created_user_that_is_gone_again_is_not_announced(client: Any, stand_in: Any, page_text: Any) -> None:
    stand_in.say("GET /users/1", 404, problem(404, "There is no user 1."))
    assert "There is no user 1 now." in page_text(client.get("/?created=1").text)


def test_a_created_user_is_announced_while_the_backend_is_down(lonely_client: Any, page_text: Any) -> None:
    assert "User 1 was created." in page_text(lonely_client.get("/?created=1").text)


@pytest.mark.parametrize("typed", ["", "x", "1.0", "1e3", "1_0", "٣", "9" * 17, "1;2"])
def test_an_id_that_is_no_whole_number_never_reaches_the_backend(client: Any, stand_in: Any, typed: str) -> None:
    answer = post(client, typed)
    assert answer.status_code == 422
    assert "The ID must be a whole number from 1 to" in answer.text
    assert f'value="{typed}"' in answer.text
    assert [each["call"] for each in stand_in.calls] == ["GET /users"]


def test_an_id_out_of_range_is_judged_by_the_backend(client: Any, stand_in: Any) -> None:
    errors = [{"field": "id", "message": "Too small: use 1 or more."}]
    stand_in.say("POST /users", 422, problem(422, "Bad values.", errors=errors))
    answer = post(client, "-5")
    assert answer.status_code == 422
    assert stand_in.calls[0]["body"]["id"] == -5
    assert "Too small: use 1 or more." in answer.text


def test_an_error_stands_at_its_field_and_what_was_typed_stays(client: Any, stand_in: Any) -> None:
    errors = [{"field": "name", "message": "The name is empty: type one."}]
    stand_in.say("POST /users", 422, problem(422, "Bad values.", errors=errors))
    html = " ".join(post(client, "7", " ").text.split())
    assert 'id="name-error" role="alert">The name is empty: type one.</p>' in html
    assert 'aria-describedby="name-hint name-error" aria-invalid="true" autofocus' in html
    assert 'aria-describedby="id-hint">' in html
    assert 'value="7"' in html
    assert 'value=" "' in html
    assert "<title>Not created – Users</title>" in html


@pytest.mark.parametrize("errors", [None, "x", ["x"], [{"field": "age", "message": "x"}], [{"field": "id"}]])
def test_an_invalid_answer_with_no_field_of_ours_stands_above_the_form(
    client: Any, stand_in: Any, errors: object
) -> None:
    stand_in.say("POST /users", 422, problem(422, "Send less.", errors=errors))
    answer = post(client)
    assert answer.status_code == 422
    assert '<p class="notice bad" role="alert">Send less.</p>' in answer.text


def test_a_taken_id_is_409_and_the_list_is_still_there(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 409, problem(409, "Use PUT."))
    stand_in.say("GET /users", 200, [{"id": 1, "name": "Bia"}])
    answer = post(client)
    assert answer.status_code == 409
    assert 'id="id-error" role="alert">User 1 exists already. Nothing' in answer.text
    assert "<bdi>Bia</bdi>" in answer.text


# The backend has a problem: 502, 503, 504


def test_no_backend_is_502_and_nothing_was_saved(lonely_client: Any) -> None:
    answer = post(lonely_client, "7", "Ana")
    assert answer.status_code == 502
    assert "The backend does not answer at http://127.0.0.1:" in answer.text
    assert "Nothing was saved." in answer.text
    assert "systemctl status users-backend" in answer.text
    assert 'value="7"' in answer.text
    assert 'value="Ana"' in answer.text


def test_a_host_name_that_does_not_resolve_is_502() -> None:
    answer = post(create_app(Settings("http://no-such-host.invalid")).test_client())
    assert answer.status_code == 502
    assert "Nothing was saved." in answer.text


@pytest.mark.parametrize("status", [503, 507])
def test_503_passes_on_what_the_backend_says(client: Any, stand_in: Any, status: int) -> None:
    stand_in.say("POST /users", status, problem(status, "The disk is full."))
    answer = post(client)
    assert answer.status_code == 503
    assert "The backend cannot work now: The disk is full." in answer.text


def test_a_timeout_is_504_and_leaves_the_outcome_open(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 201, {"id": 1, "name": "Ana"}, pause=1.3)
    answer = post(client)
    assert answer.status_code == 504
    assert "took longer than 1 seconds" in answer.text
    assert UNKNOWN in answer.text
    assert len(stand_in.calls) == 1, "sent once, and no list that waits once more"


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{"])
def test_a_cut_connection_is_502_and_leaves_the_outcome_open(client: Any, stand_in: Any, sent: bytes) -> None:
    stand_in.cut("POST /users", sent)
    answer = post(client)
    assert answer.status_code == 502
    assert "broke before its answer came" in answer.text
    assert UNKNOWN in answer.text
    assert len(stand_in.calls) == 1, "a request that was sent is never repeated"


NONSENSE = [
    (201, b"<html>hello</html>"),
    (201, b'{"id": 1}'),
    (201, b'{"id": true, "name": "Ana"}'),
    (201, b'{"id": 1, "name": "\\ud800"}'),
    (201, b"[" * 100_000),
    (201, b"9" * 5_000),
    (201, b"\xff\xfe"),
    (200, b"ok"),
    (302, b""),
    (404, b"not found"),
    (503, b'{"detail": 7}'),
    (422, b'["x"]'),
    (500, b"Internal Server Error"),
]


@pytest.mark.parametrize(("status", "raw"), NONSENSE)
def test_nonsense_is_502_and_leaves_the_outcome_open(client: Any, stand_in: Any, status: int, raw: bytes) -> None:
    stand_in.say("POST /users", status, raw=raw)
    answer = post(client)
    assert answer.status_code == 502
    assert f"does not speak like the backend (status {status})" in answer.text
    assert UNKNOWN in answer.text


def test_a_redirect_is_nonsense_and_not_followed(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 302, headers={"Location": "/users"})
    assert post(client).status_code == 502
    assert [each["call"] for each in stand_in.calls] == ["POST /users"]


def test_a_crash_of_the_backend_is_502_with_its_own_words(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 500, problem(500, "An error in the program."))
    answer = post(client)
    assert answer.status_code == 502
    assert "failed (status 500): An error in the program." in answer.text
    assert UNKNOWN in answer.text


def test_bytes_that_are_not_http_are_502(client: Any, stand_in: Any) -> None:
    stand_in.cut("POST /users", b"SSH-2.0-OpenSSH_9.6\r\n")
    assert post(client).status_code == 502


# The list


def test_the_list_is_empty_at_first(client: Any) -> None:
    assert "No users yet." in client.get("/").text


def test_the_list_turns_its_pages(client: Any, stand_in: Any) -> None:
    link = {"Link": '</users?limit=100&after=200>; rel="next"'}
    stand_in.say("GET /users", 200, [{"id": 200, "name": "Ana"}], headers=link)
    html = client.get("/?after=100").text
    assert stand_in.calls[0]["path"] == "/users?limit=100&after=100"
    assert 'href="/?after=200">Next page</a>' in html
    assert 'href="/">First page</a>' in html


@pytest.mark.parametrize("link", ["", "x", '</users>; rel="next"', '<http://[>; rel="next"', "</u?after=x>;"])
def test_the_last_page_has_no_next(client: Any, stand_in: Any, link: str) -> None:
    stand_in.say("GET /users", 200, [{"id": 1, "name": "A"}], headers={"Link": link})
    html = client.get("/").text
    assert "<bdi>A</bdi>" in html
    assert "Next page" not in html


def test_a_list_that_fails_leaves_the_form(client: Any, stand_in: Any) -> None:
    stand_in.say("GET /users", 503, problem(503, "The disk is full."))
    answer = client.get("/")
    assert answer.status_code == 200
    assert "The disk is full." in answer.text
    assert "Create user</button>" in answer.text


@pytest.mark.parametrize("raw", [b"{}", b"[7]", b"ok"])
def test_a_list_of_nonsense_leaves_the_form(client: Any, stand_in: Any, raw: bytes) -> None:
    stand_in.say("GET /users", 200, raw=raw)
    answer = client.get("/")
    assert answer.status_code == 200
    assert "does not speak like the backend" in answer.text
    assert "Create user</button>" in answer.text


def test_a_list_that_fails_does_not_hide_why_a_user_was_refused(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 409, problem(409, "Use PUT."))
    stand_in.cut("GET /users")
    answer = post(client)
    assert answer.status_code == 409
    assert "User 1 exists already." in answer.text
    assert "broke before its answer came" in answer.text


@pytest.mark.parametrize("query", ["after=x", "created=x", "after=" + "9" * 5_000])
def test_a_bad_number_in_the_address_is_left_out(client: Any, query: str) -> None:
    assert client.get(f"/?{query}").status_code == 200


# Names

NAMES = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "{{ 7 * 7 }}",
    "José Ñandú",
    "محمد",
    "👩‍🚀",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_only_ever_text(client: Any, stand_in: Any, name: str) -> None:
    stand_in.say("GET /users", 200, [{"id": 1, "name": name}])
    stand_in.say("GET /users/1", 200, {"id": 1, "name": name})
    stand_in.say("POST /users", 422, problem(422, f"{name} is bad."))
    page = client.get("/?created=1").text
    assert page.count(f"<bdi>{escape(name)}</bdi>") == 2
    again = post(client, "1", name).text
    assert f'value="{escape(name)}"' in again
    assert f"{escape(name)} is bad." in again
    assert "<script" not in page + again
    assert "<img" not in page + again


# Health and error pages


def test_health_is_ok_when_the_backend_answers(client: Any, stand_in: Any) -> None:
    stand_in.say("GET /healthz", 200, raw=b"ok")
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    assert answer.text == '{"frontend_status":"ok","backend_status":"ok"}'


def test_health_is_nok_when_the_backend_fails(client: Any, stand_in: Any) -> None:
    stand_in.say("GET /healthz", 500, raw=b"oops")
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.text == '{"frontend_status":"ok","backend_status":"nok"}'


def test_health_is_nok_when_the_backend_is_down(lonely_client: Any) -> None:
    answer = lonely_client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json == {"frontend_status": "ok", "backend_status": "nok"}


def test_an_unknown_page_is_a_readable_404(client: Any) -> None:
    answer = client.get("/nowhere")
    assert answer.status_code == 404
    assert "There is no such page." in answer.text
    assert 'href="/">Go to the form</a>' in answer.text


def test_a_wrong_method_is_a_readable_405(client: Any) -> None:
    answer = client.put("/")
    assert answer.status_code == 405
    assert "Go to the form" in answer.text
    assert {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))


def test_a_huge_form_is_a_readable_413(client: Any, stand_in: Any) -> None:
    answer = post(client, "1", "x" * 20_000)
    assert answer.status_code == 413
    assert "nothing was saved" in answer.text
    assert stand_in.calls == []


def test_a_crash_is_a_readable_500_with_the_number_to_look_for(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("users_frontend.pages._list", crash)
    answer = client.get("/", headers={"X-Request-ID": "look-for-me"})
    assert answer.status_code == 500
    assert "request look-for-me" in answer.text
    assert "secret" not in answer.text
    assert "secret detail" in caplog.text
