"""Every outcome in the table of the HTTP contract."""

import json
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import httpx
import pytest

ANA = {"id": 1, "name": "Ana"}
MAX_ID = 2**53 - 1


def test_list_is_empty_at_first(http):
    response = http.get("/users")
    assert (response.status_code, response.json()) == (200, [])
    assert response.headers["content-type"] == "application/json"


def test_add_answers_201_the_user_and_its_address(http):
    response = http.post("/users", json=ANA)
    assert (response.status_code, response.json()) == (201, ANA)
    assert response.headers["location"] == "/users/1"
    assert http.get("/users/1").json() == ANA
    assert http.get("/users").json() == [ANA]


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_add_reads_json_whatever_the_content_type(http, content_type):
    headers = {"content-type": content_type} if content_type else {}
    response = http.post("/users", content=json.dumps(ANA), headers=headers)
    assert response.status_code == 201


def test_add_answers_409_and_keeps_the_first_user_when_the_id_exists(http, check_problem):
    http.post("/users", json=ANA)
    response = http.post("/users", json={"id": 1, "name": "Bia"})
    check_problem(response, 409, "id 1 already exists.*PUT /users/1")
    assert http.get("/users/1").json() == ANA


def test_get_answers_404_when_there_is_no_such_user(http, check_problem):
    check_problem(http.get("/users/7"), 404, "no user with id 7")


def test_put_answers_200_and_the_renamed_user(http):
    http.post("/users", json=ANA)
    response = http.put("/users/1", json={"name": "Bia"})
    assert (response.status_code, response.json()) == (200, {"id": 1, "name": "Bia"})
    assert http.get("/users/1").json()["name"] == "Bia"
    assert http.get("/users?name=ana").json() == []


def test_put_answers_404_when_there_is_no_such_user(http, check_problem):
    check_problem(http.put("/users/7", json={"name": "Bia"}), 404, "no user with id 7")
    assert http.get("/users").json() == []


def test_delete_answers_204_then_404(http, check_problem):
    http.post("/users", json=ANA)
    response = http.delete("/users/1")
    assert (response.status_code, response.content) == (204, b"")
    check_problem(http.delete("/users/1"), 404, "no user with id 1")


def test_a_change_with_if_match_is_made_only_to_what_was_read(http, check_problem):
    http.post("/users", json=ANA)
    read = {"if-match": http.get("/users/1").headers["etag"]}
    assert http.put("/users/1", json={"name": "Bia"}, headers=read).status_code == 200
    check_problem(http.put("/users/1", json={"name": "Eva"}, headers=read), 412, "no longer as you have read it")
    check_problem(http.delete("/users/1", headers=read), 412, "nothing was changed.*GET /users/1")
    assert http.get("/users/1").json()["name"] == "Bia"
    weak = {"if-match": f"W/{http.get('/users/1').headers['etag']}"}
    check_problem(http.delete("/users/1", headers=weak), 412)
    check_problem(http.delete("/users/1", headers={"if-match": ""}), 412)  # a list of none
    one_of_two = {"if-match": f'"x,y" , {http.get("/users/1").headers["etag"]}'}
    assert http.delete("/users/1", headers=one_of_two).status_code == 204
    for any_state in (read, {"if-match": "*"}):
        check_problem(http.put("/users/1", json={"name": "Eva"}, headers=any_state), 404)
        check_problem(http.delete("/users/1", headers=any_state), 404)


def test_of_many_changes_to_the_same_state_one_is_made(http):
    http.post("/users", json=ANA)
    read = {"if-match": http.get("/users/1").headers["etag"]}

    def rename(number):
        return http.put("/users/1", json={"name": f"Ana {number}"}, headers=read).status_code

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(rename, range(32)))
    assert sorted(answers) == [200] + [412] * 31
    assert http.get("/users/1").json()["name"] == f"Ana {answers.index(200)}"


@pytest.mark.parametrize("path", ["/users", "/users/1", "/healthz", "/readyz", "/metrics", "/docs"])
def test_head_answers_as_get_without_the_body(http, path):
    http.post("/users", json=ANA)
    response = http.head(path)
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) > 0


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_and_readiness_answer_ok(http, path):
    response = http.get(path)
    assert (response.status_code, response.text) == (200, "ok")
    assert response.headers["content-type"].startswith("text/plain")


def test_pages_follow_the_link_header_in_order_of_id(http):
    ids = [MAX_ID, 3, 20, 1, 100]
    for user_id in ids:
        http.post("/users", json={"id": user_id, "name": "Zoé & Léa"})
    seen = []
    url = "/users?limit=2&name=zoe+%26"
    while url:
        response = http.get(url)
        assert len(response.json()) <= 2
        seen += [user["id"] for user in response.json()]
        url = response.links.get("next", {}).get("url")
    assert seen == sorted(ids)


def test_the_last_page_has_no_link_even_when_it_is_full(http):
    for user_id in (1, 2):
        http.post("/users", json={"id": user_id, "name": "Ana"})
    assert "link" not in http.get("/users?limit=2").headers
    assert http.get("/users?limit=1").headers["link"] == '</users?limit=1&after=1>; rel="next"'


@pytest.mark.parametrize("search", ["JOSÉ", "jose", "sé", "  ndr", "Jose\u0301", "É A", ""])
def test_search_ignores_case_and_accents(http, search):
    jose = {"id": 1, "name": "José André"}
    http.post("/users", json=jose)
    http.post("/users", json={"id": 2, "name": "%_"})
    assert jose in http.get("/users", params={"name": search}).json()


def test_search_takes_wildcards_literally(http):
    http.post("/users", json={"id": 1, "name": "Ana"})
    http.post("/users", json={"id": 2, "name": "100%_"})
    assert [user["id"] for user in http.get("/users?name=%25_").json()] == [2]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "limit=1.0", "limit=", "limit=-1", "limit=%D9%A1"]
    + ["after=-1", f"after={MAX_ID + 1}", "after=01", f"name={'a' * 201}"],
)
def test_a_bad_query_answers_422_naming_the_parameter(http, check_problem, query):
    body = check_problem(http.get(f"/users?{query}"), 422)
    assert [error["field"] for error in body["errors"]] == [query.partition("=")[0]]


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/users", "GET, HEAD, OPTIONS, POST"),
        ("/users/1", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("/healthz", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_wrong_method_answers_405_with_all_that_are_allowed(http, check_problem, path, allow):
    response = http.patch(path)
    check_problem(response, 405, "/docs")
    assert response.headers["allow"] == allow


@pytest.mark.parametrize("path", ["/", "/user", "/users/", "/users/1/", "/users/1/x", "/%00"])
def test_an_unknown_path_answers_404(http, check_problem, path):
    check_problem(http.get(path), 404, "/users")


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        # The browser's own judgement comes first.
        {"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1", "host": "127.0.0.1"},
    ],
)
def test_writes_from_another_site_answer_403_and_reads_do_not(http, check_problem, headers):
    check_problem(http.post("/users", json=ANA, headers=headers), 403, "other web sites")
    check_problem(http.put("/users/1", json={"name": "x"}, headers=headers), 403)
    check_problem(http.delete("/users/1", headers=headers), 403)
    assert http.get("/users", headers=headers).json() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"origin": "http://localhost:8080", "host": "localhost:8080"},
    ],
)
def test_writes_from_our_own_pages_are_accepted(http, headers):
    assert http.post("/users", json=ANA, headers=headers).status_code == 201


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "192.168.56.10", "[::1]:8080", "[fe80::1]", "backend:8080"],
)
def test_a_host_that_leads_here_is_served(http, host):
    assert http.get("/users", headers={"host": host}).json() == []


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "localhost:80:80"]
    + ["[localhost]", "1.2.3", "", ":8080", "user@localhost", "\u0661"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_that_does_not_lead_here_answers_421(http, check_problem, method, host):
    response = http.request(method, "/users", json=ANA, headers={"host": host.encode()})
    check_problem(response, 421, "ALLOWED_HOSTS")
    assert http.get("/users").json() == []


def test_names_of_the_setting_lead_here(start_server):
    http = start_server(ALLOWED_HOSTS="users.example, Users.Intern").http
    for host, status in (("users.example", 200), ("users.intern:8080", 200), ("localhost", 421)):
        assert http.get("/healthz", headers={"host": host}).status_code == status


def test_one_of_64_concurrent_writes_of_the_same_id_wins(http):
    def add(number: int) -> tuple[int, str]:
        response = http.post("/users", json={"id": 1, "name": f"Ana {number}"})
        return response.status_code, f"Ana {number}"

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(add, range(64)))
    winners = [name for status, name in answers if status == HTTPStatus.CREATED]
    assert sorted(status for status, _ in answers) == [201] + [409] * 63
    assert http.get("/users/1").json()["name"] == winners[0]


def test_64_concurrent_writes_of_different_ids_are_all_kept(http):
    def add(user_id: int) -> int:
        return http.post("/users", json={"id": user_id, "name": "Ana"}).status_code

    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(add, range(1, 65))) == {201}
    assert [user["id"] for user in http.get("/users").json()] == list(range(1, 65))


def test_openapi_is_true_about_bodies_and_answers(http):
    document = http.get("/openapi.json").json()
    post = document["paths"]["/users"]["post"]
    reference = post["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][reference.rpartition("/")[2]]
    assert schema["required"] == ["id", "name"]
    assert schema["properties"]["id"] | {"minimum": 1, "maximum": MAX_ID} == schema["properties"]["id"]
    assert schema["properties"]["name"]["maxLength"] == 200
    assert set(post["responses"]) == {"201", "403", "409", "413", "421", "422", "503", "504", "507"}
    for status, answer in post["responses"].items():
        media_type = "application/json" if status == "201" else "application/problem+json"
        assert list(answer["content"]) == [media_type]


def test_the_api_pages_need_no_internet(http):
    page = http.get("/docs").text
    assert "://" not in page
    for file in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        address = f"/static-offline-docs/{file}"
        assert address in page
        assert http.get(address).status_code == 200


def test_a_connection_is_kept_after_errors(http, check_problem):
    with httpx.Client(base_url=http.base_url, limits=httpx.Limits(max_connections=1)) as client:
        streams = set()
        for _ in range(3):
            response = client.post("/users", content=b"{")
            check_problem(response, 422)
            streams.add(response.extensions["network_stream"].get_extra_info("client_addr"))
    assert len(streams) == 1
