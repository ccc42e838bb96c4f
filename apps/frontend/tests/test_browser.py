"""The two real apps and a real browser: what a visitor sees."""

import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FloatRect, Page, Route, expect, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A name that the browser does not trust as it trusts "localhost", as in a LAN:
    # it then sends no Sec-Fetch-Site, and Origin has to do.
    "--host-resolver-rules=MAP *.test 127.0.0.1",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One real Chromium for the tests of this file."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Product:
    """Both apps, running; the backend can be stopped and started again."""

    url: str
    stack: ExitStack
    run: Any
    backend_environment: dict[str, str]

    def start_backend(self) -> None:
        """Start the backend on its port and its database file."""
        start = self.run("users_backend", **self.backend_environment)
        self.backend = self.stack.enter_context(start)


@pytest.fixture(scope="module")
def product(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The two real apps."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("data")
        # Nobody reads the logs while the tests run: they must not fill their pipes.
        product = Product("", stack, run, {"DATABASE_URL": f"sqlite:///{folder}/users.db", "LOG_LEVEL": "error"})
        product.start_backend()
        product.backend_environment["PORT"] = product.backend.url.rpartition(":")[2]  # also when it starts again
        settings = {"BACKEND_URL": product.backend.url, "ALLOWED_HOSTS": "localhost,users.test", "LOG_LEVEL": "ERROR"}
        product.url = stack.enter_context(run("users_frontend", **settings)).url
        yield product


@pytest.fixture
def options() -> dict[str, Any]:
    """How the browser is set up; a test can have its own."""
    return {"locale": "en-GB"}


@pytest.fixture
def page(browser: Browser, product: Product, options: dict[str, Any]) -> Iterator[Page]:
    """The form in a new browser window, with no users yet.

    Whatever the browser complains of, such as the page's own policy, is a failure.
    """
    context = browser.new_context(**options)
    users = f"{product.backend.url}/users"
    for user in context.request.get(users, params={"limit": 1000}).json():
        context.request.delete(f"{users}/{user['id']}")
    context.set_default_timeout(5_000)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda each: complaints.append(each.text))
    page.on("pageerror", lambda each: complaints.append(str(each)))
    page.on("dialog", lambda dialog: complaints.append(f"a script ran: {dialog.message}"))
    page.goto(product.url)
    yield page
    context.close()
    # A status the page means to answer with, a header that needs https or localhost, and a person at the keyboard
    # who was quicker than autofocus.
    meant = (
        "403",
        "404",
        "409",
        "412",
        "422",
        "502",
        "Cross-Origin-Opener-Policy header has been ignored",
        "Autofocus",
    )
    assert [each for each in complaints if not any(text in each for text in meant)] == []


def create(page: Page, user_id: str, name: str) -> None:
    """Fill in the form, send it with the Enter key and wait for the next page."""
    page.get_by_label("User ID").fill(user_id)
    page.get_by_label("User name").fill(name)
    with page.expect_navigation():
        page.get_by_label("User name").press("Enter")


def fill(page: Page, product: Product, *names: str) -> None:
    """Put users 1, 2, … with these names into the backend."""
    for number, name in enumerate(names, start=1):
        answer = page.request.post(f"{product.backend.url}/users", data={"id": number, "name": name})
        assert answer.status == 201
    page.goto(product.url)


def rows(page: Page) -> list[str]:
    """The users in the list, such as "1 Ana"."""
    cells = "rows => rows.map(row => row.cells[0].innerText + ' ' + row.querySelector('bdi').innerText)"
    found: list[str] = page.locator("tbody tr").evaluate_all(cells)
    return found


# Create


def test_a_user_is_created_listed_and_not_created_again_on_reload(page: Page) -> None:
    expect(page.get_by_text("No users yet.")).to_be_visible()
    create(page, "1", "  Ana ")
    expect(page.get_by_role("status")).to_have_text("User 1, Ana, was created.")
    expect(page.get_by_role("status")).to_be_focused()  # so that a screen reader reads it
    expect(page.get_by_label("User ID")).to_have_value("")
    assert rows(page) == ["1 Ana"]
    page.reload()
    expect(page.get_by_role("status")).to_have_count(0)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert rows(page) == ["1 Ana"]


def test_a_taken_id_is_told_at_its_field_and_the_first_user_stays(page: Page) -> None:
    create(page, "1", "Ana")
    create(page, "1", "Bia")
    expect(page.get_by_role("alert")).to_have_text("Please correct what is marked below. Nothing was changed.")
    field = page.get_by_label("User ID")
    expect(field).to_have_accessible_description("A whole number, such as 7 User 1 exists already: choose another ID.")
    expect(field).to_be_focused()
    expect(page.get_by_label("User name")).to_have_value("Bia")
    assert rows(page) == ["1 Ana"]


BAD_VALUES = [
    ("one", "Ana", ["User ID"]),
    ("0", "Ana", ["User ID"]),
    ("1", "   ", ["User name"]),
    ("1", "x" * 201, ["User name"]),
    ("one", "", ["User ID", "User name"]),
]


def test_bad_values_are_told_at_their_fields_together(page: Page) -> None:
    for user_id, name, labels in BAD_VALUES:
        create(page, user_id, name)
        expect(page.get_by_role("alert")).to_have_count(1)
        expect(page.locator("[aria-invalid=true]")).to_have_count(len(labels))
        for label in labels:
            expect(page.get_by_label(label)).to_have_attribute("aria-invalid", "true")
        expect(page.get_by_label(labels[0])).to_be_focused()
        expect(page.get_by_label("User ID")).to_have_value(user_id)
        expect(page.get_by_label("User name")).to_have_value(name)
    expect(page.get_by_text("No users yet.")).to_be_visible()


def test_a_second_click_while_the_first_is_on_its_way_sends_nothing_unless_the_form_is_another(
    page: Page, product: Product
) -> None:
    held: list[Route] = []
    page.route(
        f"{product.url}/", lambda route: held.append(route) if route.request.method == "POST" else route.fallback()
    )
    page.get_by_label("User ID").fill("1")
    page.get_by_label("User name").fill("Ana")
    name = page.get_by_label("User name").bounding_box()
    button = page.get_by_role("button", name="Create user").bounding_box()
    assert name and button

    def click(box: FloatRect) -> None:
        """By the mouse itself: a locator would wait for the answer."""
        page.mouse.click(box["x"] + 5, box["y"] + 5)
        page.wait_for_timeout(100)

    for _ in range(3):
        click(button)
    assert len(held) == 1
    click(name)
    page.keyboard.type("Mari")
    click(button)
    assert len(held) == 2
    held[1].continue_()
    expect(page.get_by_role("status")).to_have_text(re.compile("User 1, .*Mari.*, was created."))


def test_back_leads_to_a_form_that_works_and_creates_nothing_again(page: Page) -> None:
    create(page, "1", "Ana")
    page.get_by_role("link", name="Edit 1").click()
    page.go_back()
    expect(page.get_by_role("status")).to_have_count(0)
    assert rows(page) == ["1 Ana"]
    create(page, "1", "Bia")
    create(page, "2", "Bia")
    page.go_back()  # to the error, which the browser kept, with what was typed
    expect(page.get_by_label("User name")).to_have_value("Bia")
    create(page, "3", "Bia")
    assert rows(page) == ["1 Ana", "2 Bia", "3 Bia"]


NAMES = [
    "Çédille",
    "漢字",
    "👩‍🚀 🇧🇷",
    "محمد עברית (7)",
    "ẹ́ g̃ Ç",  # combining marks: sent one by one, kept as the backend keeps them
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }} &amp; %s {0}",
]


def test_any_name_survives_the_round_trip_and_is_never_run(page: Page, product: Product) -> None:
    for number, name in enumerate(NAMES, start=1):
        create(page, str(number), unicodedata.normalize("NFD", name))
        expect(page.get_by_role("status")).to_have_text(f"User {number}, {name}, was created.")
    page.get_by_role("link", name="Edit 4", exact=True).click()
    expect(page.get_by_label("User name")).to_have_value(NAMES[3])
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_have_text(f"User 4 is now called {NAMES[3]}.")
    saved = page.request.get(f"{product.backend.url}/users").json()
    assert [each["name"] for each in saved] == NAMES
    assert rows(page) == [f"{number} {name}" for number, name in enumerate(NAMES, start=1)]


# Edit and delete


def test_a_user_is_renamed(page: Page, product: Product) -> None:
    fill(page, product, "Ana", "Bia")
    page.get_by_role("link", name="Edit 2").click()
    expect(page.get_by_label("User name")).to_have_value("Bia")
    page.get_by_label("User name").fill(" ")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_label("User name")).to_have_accessible_description("1 to 200 characters Type a name.")
    page.get_by_label("User name").fill("Bea")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_have_text("User 2 is now called Bea.")
    assert rows(page) == ["1 Ana", "2 Bea"]


def test_who_edits_what_somebody_else_has_changed_is_told_before_it_is_lost(page: Page, product: Product) -> None:
    fill(page, product, "Ana")
    user = f"{product.backend.url}/users/1"
    page.get_by_role("link", name="Edit 1").click()
    page.request.put(user, data={"name": "Ana Maria"})
    page.get_by_label("User name").fill("Anna")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("Somebody was faster: this user is now called Ana Maria.")
    assert page.request.get(user).json()["name"] == "Ana Maria"
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_have_text("User 1 is now called Anna.")
    page.get_by_role("link", name="Delete 1").click()
    page.request.put(user, data={"name": "Ana Maria"})
    page.get_by_role("button", name="Delete user").click()
    expect(page.get_by_role("alert")).to_contain_text("Somebody was faster: this user is now called Ana Maria.")
    page.get_by_role("button", name="Delete user").click()
    expect(page.get_by_role("status")).to_have_text("User 1 was deleted.")


def test_a_user_is_deleted_only_after_a_question(page: Page, product: Product) -> None:
    fill(page, product, "Ana", "Bia")
    page.get_by_role("link", name="Delete 2").click()
    expect(page.get_by_role("main")).to_contain_text("Bia will be deleted for good.")
    page.get_by_role("link", name="Cancel").click()
    assert rows(page) == ["1 Ana", "2 Bia"]
    page.get_by_role("link", name="Delete 2").click()
    page.get_by_role("button", name="Delete user").click()
    expect(page.get_by_role("status")).to_have_text("User 2 was deleted.")
    assert rows(page) == ["1 Ana"]


def test_a_user_who_is_gone_is_a_readable_page(page: Page, product: Product) -> None:
    fill(page, product, "Ana")
    page.get_by_role("link", name="Edit 1").click()
    page.request.delete(f"{product.backend.url}/users/1")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("main")).to_contain_text("There is no user 1.")
    page.get_by_role("link", name="Go to the form").click()
    expect(page.get_by_text("No users yet.")).to_be_visible()


# The list


def test_the_list_has_pages_and_a_search_and_keeps_its_place(page: Page, product: Product) -> None:
    fill(page, product, *(f"User {number:03}" for number in range(1, 102)), "Zoë")
    assert len(rows(page)) == 100
    page.get_by_role("link", name="Next page").click()
    assert rows(page) == ["101 User 101", "102 Zoë"]
    expect(page.get_by_role("link", name="Next page")).to_have_count(0)
    page.get_by_role("link", name="First page").click()
    page.get_by_label("Search by name").fill("zoe")
    page.get_by_role("button", name="Search").click()
    assert rows(page) == ["102 Zoë"]
    expect(page.get_by_role("heading", name="All users")).to_be_in_viewport()
    page.get_by_role("link", name="Edit 102").click()
    page.get_by_label("User name").fill("Zoé")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_have_text("User 102 is now called Zoé.")
    assert rows(page) == ["102 Zoé"]
    page.get_by_label("Search by name").fill("nobody")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_text("No user has “nobody” in the name.")).to_be_visible()
    page.get_by_role("link", name="All users").click()
    assert len(rows(page)) == 100


# Languages


@pytest.mark.parametrize("options", [{"locale": "pt-PT"}])
def test_a_portuguese_browser_gets_portuguese_until_its_visitor_switches(page: Page) -> None:
    page.get_by_label("ID do usuário").fill("1")
    page.get_by_label("Nome do usuário").fill("Ana")
    page.get_by_role("button", name="Criar usuário").click()
    expect(page.get_by_role("status")).to_have_text("O usuário 1, Ana, foi criado.")
    page.get_by_role("link", name="English").click()
    expect(page.get_by_label("User ID")).to_be_visible()
    page.get_by_role("link", name="Edit 1").click()
    expect(page.get_by_role("heading", name="Edit user 1")).to_be_visible()
    page.get_by_role("link", name="Português").click()
    expect(page.get_by_role("heading", name="Editar o usuário 1")).to_be_visible()


# The backend stops and comes back


def test_a_stopped_backend_is_told_and_works_again_when_it_is_back(page: Page, product: Product) -> None:
    create(page, "1", "Ana")
    expect(page.get_by_role("status")).to_be_visible()

    product.backend.stop()
    create(page, "2", "Bia")
    expect(page.get_by_role("alert")).to_contain_text("Nothing was changed.")
    expect(page.get_by_label("User name")).to_have_value("Bia")
    health = page.request.get(f"{product.url}/healthz")
    assert health.text() == '{"frontend_status":"ok","backend_status":"nok"}'
    axe_finds_nothing(page)
    page.get_by_role("link", name="See what to do").click()
    expect(page.get_by_role("region", name="Backend")).to_contain_text("✗ has a problem")
    axe_finds_nothing(page)
    page.goto(product.url)
    expect(page.get_by_role("alert")).to_contain_text("The backend does not answer")
    axe_finds_nothing(page)

    product.start_backend()
    create(page, "2", "Bia")
    expect(page.get_by_role("status")).to_have_text("User 2, Bia, was created.")
    assert rows(page) == ["1 Ana", "2 Bia"]
    health = page.request.get(f"{product.url}/healthz")
    assert health.text() == '{"frontend_status":"ok","backend_status":"ok"}'
    page.get_by_role("link", name="Status").click()
    expect(page.get_by_text("✓ works")).to_have_count(3)


# Other sites


def test_the_form_works_by_a_name_in_the_network(page: Page, product: Product) -> None:
    page.goto(product.url.replace("127.0.0.1", "users.test"))
    create(page, "1", "Ana")
    expect(page.get_by_role("status")).to_have_text("User 1, Ana, was created.")


@pytest.mark.parametrize("ours", ["127.0.0.1", "users.test"])
def test_a_form_on_another_site_is_refused(page: Page, product: Product, ours: str) -> None:
    target = product.url.replace("127.0.0.1", ours)
    form = f"<form method=post action={target}><input name=id value=1><button>Go</button></form>"
    page.route("http://evil.test/", lambda route: route.fulfill(body=form, content_type="text/html"))
    page.goto("http://evil.test/")
    with page.expect_response(f"{target}/") as answer:
        page.get_by_role("button").click()
    assert answer.value.status == 403
    expect(page.get_by_role("main")).to_contain_text("Another web site sent this form")


# Without this and that


@pytest.mark.parametrize("options", [{"java_script_enabled": False}])
def test_everything_works_without_javascript(page: Page) -> None:
    create(page, "1", "Ana")
    expect(page.get_by_role("status")).to_have_text("User 1, Ana, was created.")
    create(page, "1", "Bia")
    expect(page.get_by_role("alert")).to_contain_text("Nothing was changed.")
    create(page, "2", "Bia")
    page.get_by_label("Search by name").fill("bi")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name="Edit 2").click()
    page.get_by_label("User name").fill("Bea")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_have_text("User 2 is now called Bea.")
    page.get_by_role("link", name="All users").click()
    page.get_by_role("link", name="Delete 2").click()
    page.get_by_role("button", name="Delete user").click()
    expect(page.get_by_role("status")).to_have_text("User 2 was deleted.")
    page.get_by_role("link", name="Português").click()
    expect(page.get_by_label("Nome do usuário")).to_be_visible()


def test_everything_works_with_the_keyboard_alone(page: Page) -> None:
    def tab_to(name: str) -> None:
        """Press Tab until what has this accessible name has the focus, and can be seen."""
        for _ in range(20):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            if focused.count() and focused.evaluate("e => (e.labels?.[0] ?? e).textContent") == name:
                expect(focused).to_be_in_viewport()
                assert focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
                return
        pytest.fail(f"Tab does not lead to {name!r}")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("User ID")).to_be_focused()
    page.keyboard.type("1")
    tab_to("User name")
    page.keyboard.type("Ana")
    tab_to("Create user")
    page.keyboard.press("Space")
    expect(page.get_by_role("status")).to_be_visible()
    tab_to("Search by name")
    tab_to("Edit 1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Edit user 1")).to_be_visible()
    tab_to("User name")
    page.keyboard.type("Bia")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("User 1 is now called Bia.")
    tab_to("Delete 1")
    page.keyboard.press("Enter")
    tab_to("Delete user")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No users yet.")).to_be_visible()


# Look

PAGES = ["/", "/?name=x", "/users/1/edit", "/users/1/delete", "/status", "/nowhere", "/users/3/edit"]


AXE = Axe().axe_script
AXE_RUN = """() => axe.run({resultTypes: ["violations"], rules: {"target-size": {enabled: true}}}).then(
    result => result.violations.map(each => [each.help, ...each.nodes.map(node => node.html)]))"""


def axe_finds_nothing(page: Page) -> None:
    """Check the page in the light and in the dark by all of axe's rules for WCAG 2.2 AA and good practice."""
    page.wait_for_load_state()  # with its styles
    page.evaluate(AXE)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert page.evaluate(AXE_RUN) == [], f"{page.url} in {scheme} colors"


@pytest.mark.parametrize("language", ["en", "pt-BR"])
def test_axe_finds_nothing_on_any_page(page: Page, product: Product, language: str) -> None:
    fill(page, product, "Ana", "محمد")
    for path in PAGES:
        page.goto(f"{product.url}{path}{'&' if '?' in path else '?'}lang={language}")
        axe_finds_nothing(page)
    page.goto(product.url)
    page.locator("#id").fill("1")
    page.locator("form button").first.click()
    expect(page.locator("[aria-invalid]")).to_have_count(1)
    axe_finds_nothing(page)
    page.locator("#id").fill("3")
    page.locator("#name").fill("Bia")
    page.locator("form button").first.click()
    expect(page.get_by_role("status")).to_be_visible()
    axe_finds_nothing(page)


# 320 px is also what is left of a window of 1280 px at 400 % zoom.
@pytest.mark.parametrize("options", [{"viewport": {"width": 320, "height": 640}, "locale": "pt-BR"}])
def test_it_fits_a_phone(page: Page, product: Product) -> None:
    page.request.post(f"{product.backend.url}/users", data={"id": 2**53 - 1, "name": "W" * 200})
    page.request.post(f"{product.backend.url}/users", data={"id": 1, "name": "Ana"})
    for path in (*PAGES, "/?after=1", f"/users/{2**53 - 1}/delete", f"/users/{2**53 - 1}/edit"):
        page.goto(product.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, path


def test_the_screenshots_for_readme(browser: Browser, page: Page, product: Product, tmp_path: Path) -> None:
    """Makes them in the folder SCREENSHOTS, if that is set."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    fill(page, product, "Ana Souza", "Çelma Nuñez", "محمد", "Zoë 👩‍🚀")
    looks: dict[str, dict[str, Any]] = {
        "form": {"locale": "en-GB", "viewport": {"width": 800, "height": 820}},
        "list-dark": {"locale": "pt-BR", "color_scheme": "dark", "viewport": {"width": 800, "height": 560}},
        "phone": {"locale": "en-GB", "viewport": {"width": 360, "height": 820}},
    }
    for name, look in looks.items():
        context = browser.new_context(**look)
        shown = context.new_page()
        shown.goto(f"{product.url}{'/#list' if name == 'list-dark' else '/'}")
        shown.screenshot(path=folder / f"{name}.png")
        context.close()
        assert (folder / f"{name}.png").stat().st_size > 5_000
