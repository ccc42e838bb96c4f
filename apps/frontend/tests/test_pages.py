"""Every outcome of the form, the list and the health check, named."""

import re
import socket
import threading
import time
from typing import Any

import pytest
from markupsafe import escape
from users_frontend import pages

UNKNOWN = "The change may or may not have been made: look at the list before you try again."


def post(client: Any, user_id: str = "1", name: str = "Ana") -> Any:
    return client.post("/", data={"id": user_id, "name": name})


def problem(status: int, detail: str, **more: object) -> dict[str, object]:
    return {"type": "about:blank", "title": "T", "status": status, "detail": detail} | more


# The form


def test_a_created_user_is_answered_with_a_redirect(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 201, {"id": 1, "name": "Ana"})
    answer = post(client, " 1 ", "  Ana ")
    assert answer.status_code == 303
    assert answer.location == "/"
    assert answer.text == "User 1, Ana, was created.\n"
    # The name goes as it was typed: trimming it is a rule of the backend.
    assert stand_in.calls[0]["body"] == {"id": 1, "name": "  Ana "}


def test_the_page_after_it_says_so_once(client: Any, stand_in: Any, page_text: Any) -> None:
    stand_in.say("POST /users", 201, {"id": 1, "name": "Ana"})
    html = client.post("/", data={"id": "1", "name": "Ana"}, follow_redirects=True).text
    assert "<bdi>Ana</bdi>, was created" in html
    assert "User 1, Ana, was created." in page_text(html)
    assert 'role="status" tabindex="-1" autofocus' in html
    assert "was created" not in client.get("/").text


def test_it_says_so_while_the_backend_is_down(client: Any, stand_in: Any, page_text: Any) -> None:
    stand_in.say("POST /users", 201, {"id": 1, "name": "Ana"})
    post(client)
    stand_in.cut("GET /users")
    assert "User 1, Ana, was created." in page_text(client.get("/").text)


@pytest.mark.parametrize("typed", ["", "x", "1.0", "1e3", "1_0", "٣", "9" * 17, "1;2"])
def test_an_id_that_is_no_whole_number_is_judged_by_the_backend_with_the_name(
    client: Any, stand_in: Any, typed: str
) -> None:
    errors = [{"field": "id", "message": "x"}, {"field": "name", "message": "x"}]
    stand_in.say("POST /users", 422, problem(422, "Bad values.", errors=errors))
    answer = post(client, typed, "")
    assert answer.status_code == 422
    assert stand_in.calls[0]["body"] == {"id": typed, "name": ""}
    assert "The ID must be a whole number from 1 to 9007199254740991, such as 7." in answer.text
    assert "Type a name." in answer.text
    assert f'value="{typed}"' in answer.text
    assert answer.text.count("autofocus") == 1


def test_a_number_is_sent_as_a_number(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 422, problem(422, "Bad.", errors=[{"field": "id", "message": "x"}]))
    assert post(client, "-5").status_code == 422
    assert stand_in.calls[0]["body"]["id"] == -5


WRONG_NAMES = [
    (" ", "Type a name."),
    ("x" * 203, "The name has 203 characters; 200 is the most there can be."),
    # 200 letters "á" as the backend counts, twice as many as they were sent
    ("\u0061\u0301" * 201, "The name has 201 characters"),
    ("a\tb", "The name has a character that cannot be shown"),
]


@pytest.mark.parametrize(("name", "sentence"), WRONG_NAMES)
def test_a_refused_name_is_explained(client: Any, stand_in: Any, name: str, sentence: str) -> None:
    stand_in.say("POST /users", 422, problem(422, "Bad.", errors=[{"field": "name", "message": "x"}]))
    assert sentence in post(client, "1", name).text


def test_an_error_stands_at_its_field_and_what_was_typed_stays(client: Any, stand_in: Any) -> None:
    errors = [{"field": "name", "message": "String should have 1 to 200 characters"}]
    stand_in.say("POST /users", 422, problem(422, "Bad values.", errors=errors))
    html = " ".join(post(client, "7", " ").text.split())
    assert 'role="alert"> <p>Please correct what is marked below. Nothing was changed.</p>' in html
    assert 'id="name-error">Type a name.</p>' in html
    assert 'aria-describedby="name-hint name-error" aria-invalid="true" autofocus' in html
    assert 'aria-describedby="id-hint">' in html
    assert 'value="7"' in html
    assert 'value=" "' in html
    assert "<title>Not created | Users</title>" in html


@pytest.mark.parametrize(
    "errors", [None, "x", ["x"], [{"field": "age", "message": "x"}], [{"name": "id"}], [{"field": []}]]
)
def test_an_invalid_answer_with_no_field_of_ours_stands_above_the_form(
    client: Any, stand_in: Any, errors: object
) -> None:
    stand_in.say("POST /users", 422, problem(422, "Send less.", errors=errors))
    answer = post(client)
    assert answer.status_code == 422
    assert "The backend does not accept this user. Nothing was changed." in answer.text


def test_a_taken_id_is_409_and_the_list_is_still_there(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 409, problem(409, "Use PUT."))
    stand_in.say("GET /users", 200, [{"id": 1, "name": "Bia"}])
    answer = post(client)
    assert answer.status_code == 409
    assert 'id="id-error">User 1 exists already: choose another ID.</p>' in answer.text
    assert "<bdi>Bia</bdi>" in answer.text


# Edit and delete


def test_the_edit_page_has_the_name_the_backend_has(client: Any, stand_in: Any) -> None:
    stand_in.say("GET /users/7", 200, {"id": 7, "name": "Ana"})
    html = client.get("/users/7/edit").text
    assert "<h1>Edit user 7</h1>" in html
    assert 'value="Ana"' in html


def test_a_renamed_user_is_announced_at_the_place_in_the_list_where_it_was(
    client: Any, stand_in: Any, page_text: Any
) -> None:
    stand_in.say("PUT /users/7", 200, {"id": 7, "name": "Bia"})
    answer = client.post("/users/7/edit?name=a&after=5", data={"name": " Bia "})
    assert answer.status_code == 303
    assert answer.location == "/?name=a&after=5"
    assert answer.text == "User 7 is now called Bia.\n"
    assert stand_in.calls[0]["body"] == {"name": " Bia "}
    assert "User 7 is now called Bia." in page_text(client.get(answer.location).text)


def test_a_wrong_name_comes_back_with_the_reason(client: Any, stand_in: Any) -> None:
    stand_in.say("PUT /users/7", 422, problem(422, "Bad.", errors=[{"field": "name", "message": "x"}]))
    answer = client.post("/users/7/edit", data={"name": "  "})
    assert answer.status_code == 422
    assert 'id="name-error">Type a name.</p>' in answer.text
    assert 'value="  "' in answer.text
    assert "<title>Not saved | Users</title>" in answer.text


def test_delete_asks_first(client: Any, stand_in: Any, page_text: Any) -> None:
    stand_in.say("GET /users/7", 200, {"id": 7, "name": "Ana"})
    html = client.get("/users/7/delete?after=5").text
    assert "Ana will be deleted for good." in page_text(html)
    assert 'href="/?after=5">Cancel</a>' in html
    assert [each["call"] for each in stand_in.calls] == ["GET /users/7"]


def test_a_deleted_user_is_announced(client: Any, stand_in: Any, page_text: Any) -> None:
    stand_in.say("DELETE /users/7", 204, raw=b"")
    answer = client.post("/users/7/delete")
    assert answer.status_code == 303
    assert answer.text == "User 7 was deleted.\n"
    assert "User 7 was deleted." in page_text(client.get("/").text)


@pytest.mark.parametrize(("page", "call"), [("edit", "PUT"), ("delete", "DELETE")])
def test_who_was_slower_is_told_and_may_insist(
    client: Any, stand_in: Any, page_text: Any, page: str, call: str
) -> None:
    stand_in.say("GET /users/7", 200, {"id": 7, "name": "Ana"}, headers={"ETag": '"1"'})
    assert 'name="etag" value="&#34;1&#34;"' in client.get(f"/users/7/{page}").text
    stand_in.say("GET /users/7", 200, {"id": 7, "name": "Bia"}, headers={"ETag": '"2"'})
    stand_in.say(f"{call} /users/7", 412, problem(412, "x"))
    answer = client.post(f"/users/7/{page}", data={"name": "Eva", "etag": '"1"'})
    assert [each["headers"].get("If-Match") for each in stand_in.calls] == [None, '"1"', None]
    assert answer.status_code == 412
    assert "Somebody was faster: this user is now called Bia. Your change was not made" in page_text(answer.text)
    assert ('value="Eva"' in answer.text) == (page == "edit")
    assert 'name="etag" value="&#34;2&#34;"' in answer.text


def test_a_name_that_is_sent_twice_was_changed_by_nobody_else(client: Any, stand_in: Any) -> None:
    stand_in.say("GET /users/7", 200, {"id": 7, "name": "José"}, headers={"ETag": '"2"'})
    stand_in.say("PUT /users/7", 412, problem(412, "x"))
    answer = client.post("/users/7/edit", data={"name": " Jose\N{COMBINING ACUTE ACCENT} ", "etag": '"1"'})
    assert (answer.status_code, answer.text) == (303, "User 7 is now called José.\n")


@pytest.mark.parametrize("etag", ["", "*", "1", '"', '"1"\r\nx: y', '"é"', 'W/"1"'])
def test_what_is_no_etag_is_not_sent(client: Any, stand_in: Any, etag: str) -> None:
    stand_in.say("DELETE /users/7", 204, raw=b"")
    assert client.post("/users/7/delete", data={"etag": etag}).status_code == 303
    assert "If-Match" not in stand_in.calls[0]["headers"]


CHANGES = [("POST", "edit", "PUT"), ("POST", "delete", "DELETE"), ("GET", "edit", "GET"), ("GET", "delete", "GET")]


@pytest.mark.parametrize(("method", "page", "call"), CHANGES)
def test_a_user_that_does_not_exist_is_404(client: Any, stand_in: Any, method: str, page: str, call: str) -> None:
    stand_in.say(f"{call} /users/7", 404, problem(404, "x"))
    answer = client.open(f"/users/7/{page}", method=method, data={"name": "Ana"})
    assert answer.status_code == 404
    assert "There is no user 7. Look at the list for those there are." in answer.text


@pytest.mark.parametrize(("method", "page", "call"), CHANGES)
def test_a_backend_that_cannot_is_503_and_says_what_became_of_the_change(
    client: Any, stand_in: Any, method: str, page: str, call: str
) -> None:
    stand_in.say(f"{call} /users/7", 503, problem(503, "x"))
    answer = client.open(f"/users/7/{page}", method=method, data={"name": "Ana Só"})
    assert answer.status_code == 503
    assert "The backend cannot do its work at the moment." in answer.text
    assert ("Nothing was changed." in answer.text) == (method == "POST")
    assert ('value="Ana Só"' in answer.text) == (call == "PUT")
    assert 'href="/status"' in answer.text


@pytest.mark.parametrize("path", ["/users/x/edit", "/users/-1/edit", "/users/1", "/users", "/users/1.0/delete"])
def test_what_is_no_id_is_no_page(client: Any, stand_in: Any, path: str) -> None:
    assert client.get(path).status_code == 404
    assert stand_in.calls == []


def test_an_id_that_no_user_can_have_is_404(client: Any, stand_in: Any) -> None:
    stand_in.say("GET /users/0", 422, problem(422, "x"))
    stand_in.say("DELETE /users/0", 422, problem(422, "x"))
    stand_in.say("PUT /users/0", 422, problem(422, "x", errors=[{"field": "id", "message": "x"}]))
    assert client.get("/users/0/edit").status_code == 404
    assert client.post("/users/0/edit", data={"name": "Ana"}).status_code == 404
    assert client.post("/users/0/delete").status_code == 404


@pytest.mark.parametrize(("user_id", "name", "words"), [
    ("1", "x" * 300, "The name has 300 characters"), ("1" * 300, "Ana", "ID"),
])  # fmt: skip
def test_what_is_too_long_for_the_backend_is_marked(
    client: Any, stand_in: Any, user_id: str, name: str, words: str
) -> None:
    stand_in.say("POST /users", 413, problem(413, "x"))
    answer = post(client, user_id, name)
    assert answer.status_code == 422
    [wrong] = re.findall(r'<p class="wrong"[^>]*>([^<]*)', answer.text)
    assert words in wrong
    assert "Nothing was changed." in answer.text


# The backend has a problem: 502, 503, 504


def test_no_backend_is_502_and_nothing_was_saved(lonely_client: Any) -> None:
    answer = post(lonely_client, "7", "Ana")
    assert answer.status_code == 502
    assert "The backend does not answer at http://127.0.0.1:" in answer.text
    assert "Nothing was changed." in answer.text
    assert f"Request number in the logs: {answer.headers['X-Request-ID']}" in answer.text
    assert 'value="7"' in answer.text
    assert 'value="Ana"' in answer.text


def test_a_backend_that_is_away_for_a_moment_is_asked_again(app: Any, monkeypatch: Any) -> None:
    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")

    def come_back(*_: object) -> None:
        server.listen()
        threading.Thread(target=answer, daemon=True).start()

    monkeypatch.setattr("urllib3.Retry.sleep", come_back)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # without `listen`, it refuses connections
        client = app(BACKEND_URL=f"http://127.0.0.1:{server.getsockname()[1]}").test_client()
        assert "No users yet." in client.get("/").text


def test_a_host_name_that_does_not_resolve_is_502(app: Any) -> None:
    answer = post(app(BACKEND_URL="http://no-such-host.invalid").test_client())
    assert answer.status_code == 502
    assert "Nothing was changed." in answer.text


@pytest.mark.parametrize(("status", "sentence"), [(503, "cannot do its work"), (507, "disk of the database is full")])
def test_a_backend_that_cannot_save_is_503(client: Any, stand_in: Any, status: int, sentence: str) -> None:
    stand_in.say("POST /users", status, problem(status, "Close that <program>."))
    answer = post(client)
    assert answer.status_code == 503
    assert sentence in answer.text
    assert 'In its own words: <q><span lang="en">Close that &lt;program&gt;.</span></q>' in answer.text
    assert "Nothing was changed." in answer.text


def test_a_database_that_was_lost_while_it_saved_is_504_and_leaves_the_outcome_open(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 504, problem(504, "x"))
    answer = post(client)
    assert answer.status_code == 504
    assert "broke while the change was being saved" in answer.text
    assert UNKNOWN in answer.text


def test_a_timeout_is_504_and_leaves_the_outcome_open(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 201, {"id": 1, "name": "Ana"}, pause=1.3)
    answer = post(client)
    assert answer.status_code == 504
    assert "did not answer within 1 seconds" in answer.text
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


def test_an_answer_that_is_no_tls_is_502_and_leaves_the_outcome_open(app: Any, stand_in: Any) -> None:
    answer = post(app(BACKEND_URL=stand_in.url.replace("http", "https")).test_client())
    assert answer.status_code == 502
    assert "broke before its answer came" in answer.text
    assert UNKNOWN in answer.text


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
    (500, b"Internal Server Error"),
]


@pytest.mark.parametrize(("status", "raw"), NONSENSE)
def test_nonsense_is_502_and_leaves_the_outcome_open(client: Any, stand_in: Any, status: int, raw: bytes) -> None:
    stand_in.say("POST /users", status, raw=raw)
    answer = post(client)
    assert answer.status_code == 502
    assert f"does not speak like it (status {status})" in answer.text
    assert UNKNOWN in answer.text


def test_a_redirect_is_nonsense_and_not_followed(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 302, headers={"Location": "/users"})
    assert post(client).status_code == 502
    assert [each["call"] for each in stand_in.calls] == ["POST /users"]


def test_a_crash_of_the_backend_is_502(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 500, problem(500, "An error in the program."))
    answer = post(client)
    assert answer.status_code == 502
    assert "The backend failed with status 500." in answer.text
    assert UNKNOWN in answer.text


def test_bytes_that_are_not_http_are_502(client: Any, stand_in: Any) -> None:
    stand_in.cut("POST /users", b"SSH-2.0-OpenSSH_9.6\r\n")
    assert post(client).status_code == 502


def test_while_the_backend_fails_one_visitor_waits_and_the_others_are_told_at_once(client: Any, stand_in: Any) -> None:
    stand_in.say("GET /users", 200, [], pause=1.3)
    assert "did not answer within 1 seconds" in client.get("/").text
    visitor = threading.Thread(target=client.application.test_client().get, args=("/",))
    visitor.start()
    while len(stand_in.calls) < 2:
        time.sleep(0.01)
    began = time.monotonic()
    answer = post(client)
    assert time.monotonic() - began < 0.5
    assert answer.status_code == 503
    assert "The backend does not answer at the moment. Nothing was changed." in answer.text
    assert len(stand_in.calls) == 2
    visitor.join()
    stand_in.say("GET /users", 200, [])
    assert "No users yet." in client.get("/").text


# The list


def test_the_list_is_empty_at_first(client: Any) -> None:
    assert "No users yet." in client.get("/").text


def test_the_list_turns_its_pages_and_keeps_the_search(client: Any, stand_in: Any) -> None:
    link = {"Link": '</users?limit=100&after=200&name=%C3%A1+%26>; rel="next"'}
    stand_in.say("GET /users", 200, [{"id": 200, "name": "Ana"}], headers=link)
    html = client.get("/?after=100&name=+á+%26").text
    assert stand_in.calls[0]["path"] == "/users?limit=100&after=100&name=%C3%A1+%26"
    assert 'href="/?name=%C3%A1+%26&amp;after=200#list">Next page</a>' in html
    assert 'href="/?name=%C3%A1+%26#list">First page</a>' in html
    assert 'href="/#list">All users</a>' in html
    assert 'href="/users/200/edit?name=%C3%A1+%26&amp;after=100"' in html
    assert 'value="á &amp;"' in html


@pytest.mark.parametrize("link", ["", "x", '</users>; rel="next"', '<http://[>; rel="next"', "</u?after=x>;"])
def test_the_last_page_has_no_next(client: Any, stand_in: Any, link: str) -> None:
    stand_in.say("GET /users", 200, [{"id": 1, "name": "A"}], headers={"Link": link})
    html = client.get("/").text
    assert "<bdi>A</bdi>" in html
    assert "Next page" not in html


def test_a_search_without_a_hit_says_so_and_leaves_the_way_back(client: Any, page_text: Any) -> None:
    html = client.get("/?name=<zé>").text
    assert "No user has “&lt;zé&gt;” in the name." in page_text(html)
    assert 'href="/#list">All users</a>' in html


def test_a_long_search_is_cut_to_what_a_name_can_have(client: Any, stand_in: Any) -> None:
    client.get("/?name=" + "x" * 300)
    assert stand_in.calls[0]["path"].endswith("&name=" + "x" * 200)


def test_two_visitors_get_the_same_list_page_and_nothing_of_each_other(client: Any, stand_in: Any) -> None:
    stand_in.say("GET /users", 200, [{"id": 1, "name": "Ana"}])
    stand_in.say("POST /users", 201, {"id": 1, "name": "Ana"})
    pages._common_page.cache_clear()
    first = client.get("/?lang=en", headers={"X-Request-ID": "secret-number"}).text
    other = client.application.test_client()
    other.post("/", data={"id": "1", "name": "Ana"})
    assert other.get("/").text != first  # it has the notice
    assert other.get("/").text == first
    assert pages._common_page.cache_info().hits == 1
    assert "secret-number" not in first
    assert other.get("/", headers={"Accept-Language": "pt"}).text != first


@pytest.mark.parametrize("status", [404, 409, 422, 500, 503])
def test_a_list_that_fails_leaves_the_form(client: Any, stand_in: Any, status: int) -> None:
    stand_in.say("GET /users", status, problem(status, "x"))
    answer = client.get("/")
    assert answer.status_code == 200
    assert "The backend" in answer.text
    assert "Create user</button>" in answer.text
    assert 'href="/status">See what to do</a>' in answer.text


@pytest.mark.parametrize("raw", [b"{}", b"[7]", b"ok"])
def test_a_list_of_nonsense_leaves_the_form(client: Any, stand_in: Any, raw: bytes) -> None:
    stand_in.say("GET /users", 200, raw=raw)
    answer = client.get("/")
    assert answer.status_code == 200
    assert "does not speak like it" in answer.text
    assert "Create user</button>" in answer.text


def test_a_list_that_fails_does_not_hide_why_a_user_was_refused(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 409, problem(409, "Use PUT."))
    stand_in.cut("GET /users")
    answer = post(client)
    assert answer.status_code == 409
    assert "User 1 exists already" in answer.text
    assert "broke before its answer came" in answer.text


@pytest.mark.parametrize(("after", "sent"), [(-1, 0), (2**53 - 1, 2**53 - 1), (2**53, 2**53 - 1)])
def test_a_place_that_the_list_cannot_have_is_the_nearest_one(
    client: Any, stand_in: Any, after: int, sent: int
) -> None:
    client.get(f"/?after={after}")
    assert f"&after={sent}&" in stand_in.calls[0]["path"]


@pytest.mark.parametrize("query", ["after=x", "after=" + "9" * 5_000, "lang=xx", "name=%ff", "name=%00"])
def test_a_query_that_means_nothing_does_no_harm(client: Any, query: str) -> None:
    assert client.get(f"/?{query}").status_code == 200


# Names

NAMES = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "{{ 7 * 7 }}",
    "{0} {name} %s",
    "José Ñandú",
    "محمد",
    "👩‍🚀",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_only_ever_text(client: Any, stand_in: Any, name: str) -> None:
    stand_in.say("GET /users", 200, [{"id": 1, "name": name}])
    stand_in.say("GET /users/1", 200, {"id": 1, "name": name})
    stand_in.say("PUT /users/1", 200, {"id": 1, "name": name})
    stand_in.say("POST /users", 201, {"id": 1, "name": name})
    created = client.post("/", data={"id": "1", "name": name}, follow_redirects=True).text
    assert created.count(f"<bdi>{escape(name)}</bdi>") == 2
    renamed = client.post("/users/1/edit", data={"name": name}, follow_redirects=True).text
    assert renamed.count(f"<bdi>{escape(name)}</bdi>") == 2
    asked = client.get("/users/1/delete").text
    assert f"<bdi>{escape(name)}</bdi>" in asked
    stand_in.say("POST /users", 422, problem(422, f"{name} is bad."))
    again = post(client, "1", name).text
    assert f'value="{escape(name)}"' in again
    for html in (created, renamed, asked, again):
        assert "<script>" not in html
        assert "<img" not in html


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


def test_health_is_nok_soon_however_long_other_calls_may_take(app: Any, stand_in: Any) -> None:
    stand_in.say("GET /healthz", 200, raw=b"ok", pause=3)
    answer = app(BACKEND_URL=stand_in.url, BACKEND_TIMEOUT="60").test_client().get("/healthz")
    assert answer.json == {"frontend_status": "ok", "backend_status": "nok"}


def test_health_is_nok_when_the_backend_is_down(lonely_client: Any) -> None:
    answer = lonely_client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json == {"frontend_status": "ok", "backend_status": "nok"}


# The status page


def test_all_is_well(client: Any, stand_in: Any, page_text: Any) -> None:
    stand_in.say("GET /healthz", 200, raw=b"ok")
    stand_in.say("GET /readyz", 200, raw=b"ok")
    answer = client.get("/status")
    assert answer.status_code == 200
    assert answer.text.count("✓ works") == 3
    assert "Open data/users.db only to read while the VM runs" in page_text(answer.text)


def test_a_database_that_cannot_be_used_is_told_with_the_reason(client: Any, stand_in: Any, page_text: Any) -> None:
    stand_in.say("GET /healthz", 200, raw=b"ok")
    stand_in.say("GET /readyz", 503, problem(503, "The file <x> is damaged."))
    html = client.get("/status").text
    assert html.count("✓ works") == 2
    assert "Database ✗ has a problem" in page_text(html)
    assert '<q><span lang="en">The file &lt;x&gt; is damaged.</span></q>' in html
    assert "journalctl --no-pager --unit users-backend" in html


def test_a_backend_that_is_down_is_told_with_what_to_do(lonely_client: Any, page_text: Any) -> None:
    answer = lonely_client.get("/status")
    assert answer.status_code == 200
    text = page_text(answer.text)
    assert "Frontend ✓ works" in text
    assert "Backend ✗ has a problem" in text
    assert "Database ✗ unknown" in text
    assert "systemctl status --no-pager users-backend" in text


# Error pages


def test_an_unknown_page_is_a_readable_404(client: Any) -> None:
    answer = client.get("/nowhere")
    assert answer.status_code == 404
    assert "There is nothing at this address." in answer.text
    assert 'href="/">Go to the form</a>' in answer.text


def test_a_wrong_method_is_a_readable_405(client: Any) -> None:
    answer = client.put("/")
    assert answer.status_code == 405
    assert "Go to the form" in answer.text
    assert {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))


def test_a_huge_form_is_a_readable_413(client: Any, stand_in: Any) -> None:
    answer = post(client, "1", "x" * 20_000)
    assert answer.status_code == 413
    assert "nothing was changed" in answer.text
    assert stand_in.calls == []


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("application/x-www-form-urlencoded", b"id=1&name=Jo\xe3o"),
        ("application/x-www-form-urlencoded", b"id=1&name=Jo%E3o"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nJo\xe3o\r\n--x--\r\n',
        ),
    ],
)
def test_a_form_that_is_not_utf8_is_a_readable_415(client: Any, stand_in: Any, content_type: str, form: bytes) -> None:
    answer = client.post("/", data=form, content_type=content_type)
    assert answer.status_code == 415
    assert "nothing was changed" in answer.text
    assert stand_in.calls == []


def test_a_name_may_look_like_percent_encoding(client: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 201, {"id": 1, "name": "Jo%E3o"})
    for content_type in ("application/x-www-form-urlencoded", "multipart/form-data"):
        assert client.post("/", data={"id": "1", "name": "Jo%E3o"}, content_type=content_type).status_code == 303
        assert stand_in.calls[-1]["body"]["name"] == "Jo%E3o"


def test_a_crash_is_a_readable_500_with_the_number_to_look_for(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("users_frontend.backend.Backend.users", crash)
    answer = client.get("/", headers={"X-Request-ID": "look-for-me"})
    assert answer.status_code == 500
    assert "Request number in the logs: look-for-me" in answer.text
    assert "secret" not in answer.text
    assert "secret detail" in caplog.text
