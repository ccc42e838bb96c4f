"""Bodies and paths made to break the server: exact answers, and nothing is kept."""

import json
import socket
import time

import pytest

MAX_ID = 2**53 - 1


def user(user_id: str = "1", name: str = '"Ana"') -> str:
    return f'{{"id":{user_id},"name":{name}}}'


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        # Not JSON, or not an object.
        ("", ["body"]),
        ("{", ["body"]),
        ("null", ["body"]),
        ("[]", ["body"]),
        ("[" * 60_000, ["body"]),
        ('{"a":' * 10_000, ["body"]),
        (user() + user(), ["body"]),
        (b"\xff\xfe", ["body"]),
        (user().encode("utf-16"), ["body"]),
        (b"\xef\xbb\xbf" + user().encode(), ["body"]),
        (user(name='"\xff"').encode("latin-1"), ["body"]),
        ("id=1&name=Ana", ["body"]),
        # Ids.
        (user("0"), ["id"]),
        (user("-1"), ["id"]),
        (user(str(MAX_ID + 1)), ["id"]),
        (user(str(2**63)), ["id"]),
        (user("9" * 4_000), ["id"]),
        (user("9" * 5_000), ["body"]),
        (user("1.0"), ["id"]),
        (user("1e0"), ["id"]),
        (user('"1"'), ["id"]),
        (user("true"), ["id"]),
        (user("null"), ["id"]),
        (user("[1]"), ["id"]),
        (user("NaN"), ["id"]),
        (user("Infinity"), ["id"]),
        (user("-Infinity"), ["id"]),
        (user("01"), ["body"]),
        # Names.
        (user(name='""'), ["name"]),
        (user(name='" \\u00a0\\t "'), ["name"]),
        (user(name="1"), ["name"]),
        (user(name="null"), ["name"]),
        (user(name='["Ana"]'), ["name"]),
        (user(name=json.dumps("a" * 201)), ["name"]),
        (user(name='"a\\u0000b"'), ["name"]),
        (user(name='"a\\nb"'), ["name"]),
        (user(name='"a\\u007fb"'), ["name"]),
        (user(name='"a\\u0085b"'), ["name"]),
        (user(name='"\\u001b[31mred"'), ["name"]),
        (user(name='"a\nb"'), ["body"]),
        (user(name='"\\ud800"'), ["body"]),
        (user(name='"\\udc00\\ud800"'), ["body"]),
        # Fields.
        ("{}", ["id", "name"]),
        ('{"id":1}', ["name"]),
        ('{"name":"Ana"}', ["id"]),
        ('{"ID":1,"name":"Ana"}', ["id", "ID"]),
        ('{"id":1,"name":"Ana","admin":true}', ["admin"]),
        ('{"id":1,"name":"Ana","x":NaN}', ["x"]),
        ('{"id":1,"name":"Ana","id":2}', ["id"]),
        ('{"id":1,"name":"Ana","\\u0069d":1}', ["id"]),
        ('{"id":' + "9" * 4_200 + ',"name":"Ana","id":2}', ["id"]),
        ('{"name":[[1]],"id":1,"name":"Ana"}', ["name"]),
    ],
)
def test_a_bad_body_answers_422_naming_the_field(http, check_problem, body, fields):
    problem = check_problem(http.post("/users", content=body), 422)
    assert [error["field"] for error in problem["errors"]] == fields
    assert http.get("/users").json() == []


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("  Ana \n", "Ana"),
        ("Jose\u0301", "José"),
        ("a" * 200, "a" * 200),
        ("  " + "é" * 200 + "  ", "é" * 200),
        ("e\u0301" * 200, "é" * 200),
        ("😀" * 200, "😀" * 200),
        ("👩‍👩‍👧", "👩‍👩‍👧"),
        ("名前", "名前"),
        ("שלום", "שלום"),
        ("Robert'); DROP TABLE users;--", "Robert'); DROP TABLE users;--"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "😀"),
    ],
)
def test_an_unusual_name_is_kept_in_its_one_spelling(http, name, kept):
    response = http.post("/users", content=json.dumps({"id": 1, "name": name}))
    assert (response.status_code, response.json()["name"]) == (201, kept)
    assert http.get("/users/1").json()["name"] == kept


def test_the_largest_id_is_kept(http):
    largest = {"id": MAX_ID, "name": "Ana"}
    assert http.post("/users", json=largest).status_code == 201
    assert http.get(f"/users/{MAX_ID}").json() == largest


@pytest.mark.parametrize("body", ['{"name":"Bia","id":1}', '{"name":"Bia","name":"Eva"}', "{}"])
def test_a_bad_change_answers_422_and_changes_nothing(http, check_problem, body):
    http.post("/users", content=user())
    check_problem(http.put("/users/1", content=body), 422)
    assert http.get("/users/1").json()["name"] == "Ana"


@pytest.mark.parametrize(
    "user_id",
    ["0", "-1", "+1", "01", "1.0", "1e0", "1_0", "%201", "%D9%A1", "x", "true", "None"]
    + [str(MAX_ID + 1), str(2**63), "9" * 5_000, "1%00", "1%0A", "%FF"],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_bad_id_in_the_path_answers_422(http, check_problem, method, user_id):
    response = http.request(method, f"/users/{user_id}", content='{"name":"Ana"}')
    problem = check_problem(response, 422)
    assert [error["field"] for error in problem["errors"]] == ["id"]


def test_a_body_of_64_kib_is_read_and_one_byte_more_answers_413(http, check_problem):
    largest = user().ljust(64 * 1024)
    assert http.post("/users", content=largest).status_code == 201
    check_problem(http.post("/users", content=largest + " "), 413, "64 KiB")
    check_problem(http.put("/users/1", content=largest + " "), 413)
    # Chunked: no Content-Length says how much will come.
    check_problem(http.post("/users", content=iter([largest.encode(), b" "])), 413)


def test_a_body_that_does_not_end_is_refused_before_its_end(http):
    head = b"POST /users HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=5) as connection:
        connection.sendall(head + b"10001\r\n" + bytes(0x10001) + b"\r\n")  # and more to come
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit", "limit"),
        ("limit=" + "9" * 5_000, "limit"),
        ("limit=1&limit=2", "limit"),
        ("after=x", "after"),
        ("nmae=Ana", "nmae"),
        ("Name=Ana", "Name"),
        ("id=1", "id"),
        ("x" * 5_000, "x" * 100),
        ("name=%FF", "query"),
        ("name=%ED%A0%80", "query"),
        ("&".join(["limit=1"] * 5_000), "limit"),
    ],
)
def test_a_hostile_query_answers_422_naming_the_parameter(http, check_problem, query, field):
    problem = check_problem(http.get(f"/users?{query}"), 422)
    assert [error["field"] for error in problem["errors"]] == [field]


def test_a_query_cannot_stand_in_for_the_path(http, check_problem):
    http.post("/users", content=user())
    check_problem(http.delete("/users/2?id=1"), 422, "No parameter is known here")
    assert http.get("/users/1").status_code == 200


def test_an_offer_of_http_2_takes_nothing_from_the_body(http):
    """As Java's HttpClient makes it: the body in a packet of its own."""
    body = b'{"id": 1, "name": "Ana"}'
    head = f"POST /users HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=5) as connection:
        connection.sendall(f"{head}Host: localhost\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c\r\n\r\n".encode())
        time.sleep(0.1)
        connection.sendall(body)
        assert connection.recv(4096).startswith(b"HTTP/1.1 201 ")
    assert http.get("/users/1").json()["name"] == "Ana"


@pytest.mark.parametrize("together", [True, False])
def test_a_body_in_chunks_is_taken_letter_by_letter(http, together):
    packets = [b"POST /users HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"]
    packets += [b"%x\r\n%s\r\n" % (len(part), part) for part in (b'{"id": 1, "name": "an ', b'upgrade: yes"}', b"")]
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=5) as connection:
        for packet in [b"".join(packets)] if together else packets:
            connection.sendall(packet)
            time.sleep(0.1)
        assert connection.recv(4096).startswith(b"HTTP/1.1 201 ")
    assert http.get("/users/1").json()["name"] == "an upgrade: yes"


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),  # https:// to this port
        b"GET /users HTTP/9.9\r\n\r\n",
        b"GET /users HTTP/1.1\r\nhost: localhost\r\nbad header: x\r\n\r\n",
        b"POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    ],
)
def test_what_is_no_http_answers_400_and_closes(http, sent):
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=5) as connection:
        connection.sendall(sent)
        answer = b""
        while part := connection.recv(4096):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"content-length: %d" % len(body) in head
    assert "Send HTTP/1.1" in json.loads(body)["detail"]
    assert f"x-request-id: {json.loads(body)['request_id']}".encode() in head
