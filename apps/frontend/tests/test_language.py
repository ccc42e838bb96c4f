"""Both languages: which one a visitor gets, and that no sentence is left in English."""

import ast
import re
import string
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import pytest
import users_frontend
from jinja2 import nodes
from markupsafe import escape
from users_frontend import language, pages
from users_frontend.portuguese import BACKEND, PORTUGUESE

SOURCE = Path(users_frontend.__file__).parent

WISHES = [
    ("", "en"),
    ("pt", "pt-BR"),
    ("pt-BR", "pt-BR"),
    ("pt-PT", "pt-BR"),
    ("PT-pt", "pt-BR"),
    ("pt-AO,pt;q=0.9,en;q=0.8", "pt-BR"),
    ("pt,en-US;q=0.5", "pt-BR"),  # Werkzeug sorts en-US first, because it says more
    ("en-US,en;q=0.9,pt;q=0.8", "en"),
    ("fr,pt;q=0.5,en;q=0.4", "pt-BR"),
    ("de,fr", "en"),
    ("*", "en"),
    ("pt;q=0", "en"),
    ("ptx", "en"),
    ("q=;;,", "en"),
]


@pytest.mark.parametrize(("wish", "expected"), WISHES)
def test_the_browsers_wish_decides(client: Any, wish: str, expected: str) -> None:
    assert f'<html lang="{expected}">' in client.get("/", headers={"Accept-Language": wish}).text


def test_the_switch_is_a_link_that_is_remembered_and_stays_at_the_place(client: Any) -> None:
    wish = {"Accept-Language": "en"}
    assert 'href="?name=a&amp;lang=pt-BR"' in client.get("/?name=a", headers=wish).text
    answer = client.get("/?name=a&lang=pt-BR", headers=wish)
    assert '<html lang="pt-BR">' in answer.text
    assert "Buscar por nome" in answer.text
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("users_language=pt-BR;")
    assert "SameSite=Lax" in cookie
    assert '<html lang="pt-BR">' in client.get("/status", headers=wish).text
    assert '<html lang="pt-BR">' in client.get("/nowhere", headers=wish).text
    assert '<html lang="en">' in client.get("/?lang=en", headers=wish).text


@pytest.mark.parametrize("lang", ["", "xx", "pt", "en%0d%0aX: y", "//evil.test"])
def test_a_language_that_is_none_is_not_remembered(client: Any, lang: str) -> None:
    answer = client.get(f"/?lang={lang}")
    assert '<html lang="en">' in answer.text
    assert "Set-Cookie" not in answer.headers


def test_a_cookie_that_is_none_of_ours_is_left_out(client: Any) -> None:
    client.set_cookie("users_language", "<b>")
    assert '<html lang="en">' in client.get("/").text


def marked() -> Iterator[str]:
    """Every sentence in `_("…")`, in code and templates."""
    for file in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
                assert isinstance(node.args[0], ast.Constant), f"{file.name}:{node.lineno} must be a plain text"
                yield node.args[0].value
    environment = jinja2.Environment(autoescape=True)
    for file in SOURCE.glob("templates/*.html"):
        for call in environment.parse(file.read_text()).find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == "_":
                assert isinstance(call.args[0], nodes.Const), f"{file.name}:{call.lineno} must be a plain text"
                yield call.args[0].value


def test_every_sentence_has_a_translation_and_no_translation_is_left_over() -> None:
    assert set(marked()) == set(PORTUGUESE)


def said_by_backend() -> Iterator[str]:
    """Every sentence in the backend's code that a page may show, about the database or its own name, with {} for each value.

    Those of the commands for copies and files are met in a terminal, never in a page.
    """
    backend = SOURCE.parents[2] / "backend/src/users_backend"
    for file in {*backend.glob("*.py")} - {
        backend / f"{name}.py" for name in ("admin", "copies", "exchange", "migrate")
    }:
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name(id="StoreError" | "DiskFull" | "Damaged" | "InUse" | "Unknown"),
                    args=[ast.Constant(value=sentence)],
                ):
                    yield sentence
                case (
                    ast.Call(
                        func=ast.Name(id="StoreError" | "DiskFull" | "Damaged" | "InUse" | "Unknown"),
                        args=[ast.JoinedStr(values=parts)],
                    )
                    | ast.Call(func=ast.Name(id="Problem"), args=[ast.Constant(value=421), ast.JoinedStr(values=parts)])
                ):
                    yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in parts)


def test_what_the_backend_says_has_a_translation_and_none_is_left_over() -> None:
    assert set(said_by_backend()) == set(BACKEND)


@pytest.mark.parametrize(("english", "portuguese"), BACKEND.items())
def test_what_the_backend_says_is_read_in_portuguese(client: Any, stand_in: Any, english: str, portuguese: str) -> None:
    values = ["/data/<b>.db", "(disk I/O error)", "3"][: english.count("{}")]
    stand_in.say("GET /healthz", 200, raw=b"ok")
    stand_in.say("GET /readyz", 503, {"detail": english.format(*values, *values)})
    page = client.get("/status", headers={"Accept-Language": "pt"}).text
    assert f"<q>{escape(portuguese.format(*values, *values))}</q>" in page


def test_translations_have_the_same_places_and_no_markup() -> None:
    for english, portuguese in (PORTUGUESE | BACKEND).items():
        assert portuguese.strip() == portuguese != ""
        assert not re.search("[<>&]", english + portuguese)
        places = [
            sorted(name for _, name, _, _ in string.Formatter().parse(each) if name) for each in (english, portuguese)
        ]
        assert places[0] == places[1], english


class Text(HTMLParser):
    """What a person reads or hears on a page, without names, code and what is marked as another language."""

    QUIET = ("bdi", "code", "q")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._quiet = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the attributes that are heard."""
        self._quiet += tag in self.QUIET
        self._quiet += tag == "a" and "lang" in dict(attrs)  # the switch names a language in that language
        self.found += [value or "" for name, value in attrs if name in ("aria-label", "alt", "title", "placeholder")]

    def handle_endtag(self, tag: str) -> None:
        """Listen again."""
        self._quiet -= bool(self._quiet) and (tag in self.QUIET or tag == "a")

    def handle_data(self, data: str) -> None:
        """Take the text."""
        if not self._quiet:
            self.found.append(data)


class Marked(dict[str, str]):
    """Stands in for the translations: each sentence between brackets; it knows which were read."""

    def __missing__(self, english: str) -> str:
        self[english] = f"⟦{english}⟧"
        return self[english]


def every_page(app: Any, client: Any, stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each page in each of its states."""
    said = {"detail": "BACKEND WORDS", "errors": [{"field": "id", "message": "BACKEND WORDS"}]}
    user = {"id": 7, "name": "NAME"}

    def post(path: str = "/", name: str = "NAME", **more: Any) -> str:
        text: str = client.post(path, data={"id": "7", "name": name}, **more).text
        return text

    yield client.get("/").text
    yield client.get("/?name=x").text
    yield client.get("/?after=7").text
    link = {"Link": '</users?after=7>; rel="next"'}
    stand_in.say("GET /users", 200, [user], headers=link)
    yield client.get("/?after=1&name=x").text

    stand_in.say("POST /users", 201, user)
    stand_in.say("PUT /users/7", 200, user)
    stand_in.say("DELETE /users/7", 204, raw=b"")
    stand_in.say("GET /users/7", 200, user)
    for path in ("/", "/users/7/edit", "/users/7/delete"):
        post(path)
        yield client.get("/").text
    yield client.get("/users/7/edit").text
    yield client.get("/users/7/delete").text

    for status in (409, 422, 500, 503, 504, 507):
        stand_in.say("POST /users", status, said)
        yield post()
    stand_in.say("POST /users", 422, {"detail": "BACKEND WORDS"})
    yield post()
    stand_in.say("POST /users", 422, {"detail": "x", "errors": [{"field": "name", "message": "BACKEND WORDS"}]})
    for name in ("", "x" * 201, "\0"):
        yield post(name=name)
    stand_in.say("POST /users", 200, raw=b"BACKEND WORDS")
    yield post()
    stand_in.say("PUT /users/7", 422, said)
    stand_in.say("DELETE /users/7", 503, said)
    yield post("/users/7/edit")
    yield post("/users/7/delete")
    stand_in.say("PUT /users/7", 412, said)
    yield post("/users/7/edit", name="ANOTHER")
    stand_in.say("GET /users/7", 404, said)
    yield client.get("/users/7/edit").text
    stand_in.say("GET /users/7", 500, said)
    yield client.get("/users/7/edit").text

    stand_in.say("GET /healthz", 200, raw=b"ok")
    stand_in.say("GET /readyz", 200, raw=b"ok")
    yield client.get("/status").text
    stand_in.say("GET /readyz", 503, said)
    yield client.get("/status").text
    stand_in.say("GET /healthz", 500, said)
    yield client.get("/status").text

    yield client.get("/nowhere").text
    yield client.put("/").text
    yield post(headers={"Sec-Fetch-Site": "cross-site"})
    yield post(name="x" * 20_000)
    yield client.post("/", data=b"\xe3").text
    yield client.get("/", headers={"Host": "evil.test", "Accept-Language": "pt"}).text

    stand_in.cut("POST /users")
    yield post()
    stand_in.say("POST /users", 201, user, pause=1.3)
    yield post()
    backend = client.application.extensions["backend"]
    with backend._one_try:  # as if another visitor were waiting
        yield post()
    lonely = app(BACKEND_URL="http://127.0.0.1:1").test_client()
    yield lonely.get("/", headers={"Accept-Language": "pt"}).text

    def crash(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("users_frontend.backend.Backend.users", crash)
    yield client.get("/").text
    monkeypatch.setitem(pages.ERRORS, 404, pages.OTHER_ERROR)
    yield client.get("/nowhere").text


def test_no_page_shows_a_word_that_is_not_translated(
    app: Any, client: Any, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    translations = Marked()
    monkeypatch.setattr(language, "PORTUGUESE", translations)
    pages._common_page.cache_clear()
    client.set_cookie("users_language", "pt-BR")
    for html in every_page(app, client, stand_in, monkeypatch):
        assert '<html lang="pt-BR">' in html
        text = "\n".join(Text(html).found)
        assert not re.search(r"[^\W\d_]", re.sub("⟦[^⟧]*⟧", "", text)), text
        assert "BACKEND WORDS" not in text
    pages._common_page.cache_clear()
    assert set(translations) == set(PORTUGUESE), "a sentence that this test has not seen, or one without translation"
