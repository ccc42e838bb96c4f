"""The two real apps and a real browser: what a visitor sees."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

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
def product(run: Any, free_port: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The two real apps."""
    with ExitStack() as stack:
        port = str(free_port())
        folder = tmp_path_factory.mktemp("data")
        frontend = stack.enter_context(run("users_frontend", BACKEND_URL=f"http://127.0.0.1:{port}"))
        database = {"DATABASE_URL": f"sqlite:///{folder}/users.db", "PORT": port}
        product = Product(frontend.url, stack, run, database)
        product.start_backend()
        yield product


@pytest.fixture
def page(browser: Browser, product: Product) -> Iterator[Page]:
    """The form in a new browser window, with no users yet.

    Whatever the browser complains of, such as the page's own policy, is a failure.
    """
    context = browser.new_context()
    users = f"{product.backend.url}/users"
    for user in context.request.get(users, params={"limit": 1000}).json():
        context.request.delete(f"{users}/{user['id']}")
    context.set_default_timeout(5_000)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda each: complaints.append(each.text))
    page.goto(product.url)
    yield page
    context.close()
    refusals = ("403", "409", "422", "502")
    assert [each for each in complaints if not any(code in each for code in refusals)] == []


def create(page: Page, user_id: str, name: str) -> None:
    """Fill in the form, send it with the Enter key and wait for the next page."""
    page.get_by_label("User ID").fill(user_id)
    page.get_by_label("User name").fill(name)
    with page.expect_navigation():
        page.get_by_label("User name").press("Enter")


def test_a_user_is_created_listed_and_not_created_again_on_reload(page: Page) -> None:
    expect(page.get_by_text("No users yet.")).to_be_visible()
    create(page, "1", "  Ana ")
    expect(page.get_by_role("status")).to_have_text("User 1, Ana, was created.")
    expect(page.get_by_role("row")).to_have_text(["IDName", "1Ana"])
    expect(page.get_by_label("User ID")).to_have_value("")
    page.reload()
    expect(page.get_by_role("status")).to_have_text("User 1, Ana, was created.")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_taken_id_is_told_at_its_field_and_the_first_user_stays(page: Page) -> None:
    create(page, "1", "Ana")
    create(page, "1", "Bia")
    field = page.get_by_label("User ID")
    expect(field).to_have_accessible_description(
        "A whole number, such as 7 User 1 exists already. Nothing was saved: choose another ID."
    )
    expect(field).to_be_focused()
    expect(page.get_by_label("User name")).to_have_value("Bia")
    expect(page.get_by_role("row")).to_have_text(["IDName", "1Ana"])


@pytest.mark.parametrize(
    ("user_id", "name", "label"),
    [
        ("one", "Ana", "User ID"),
        ("0", "Ana", "User ID"),
        ("1", "   ", "User name"),
        ("1", "x" * 201, "User name"),
    ],
)
def test_a_bad_value_is_told_at_its_field(page: Page, user_id: str, name: str, label: str) -> None:
    create(page, user_id, name)
    expect(page.get_by_role("alert")).to_have_count(1)
    expect(page.get_by_label(label)).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("User ID")).to_have_value(user_id)
    expect(page.get_by_text("No users yet.")).to_be_visible()


def test_a_name_is_shown_as_it_is_and_never_run(page: Page) -> None:
    names = ["<script>alert(1)</script>", "محمد", "👩‍🚀 José"]
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    for number, name in enumerate(names, start=1):
        create(page, str(number), name)
        expect(page.get_by_role("status")).to_have_text(f"User {number}, {name}, was created.")
    expect(page.get_by_role("cell")).to_have_text(
        [text for number, name in enumerate(names, start=1) for text in (str(number), name)]
    )


def test_a_stopped_backend_is_told_and_works_again_when_it_is_back(page: Page, product: Product) -> None:
    create(page, "1", "Ana")
    expect(page.get_by_role("status")).to_be_visible()

    product.backend.stop()
    create(page, "2", "Bia")
    expect(page.get_by_role("alert").first).to_contain_text("Nothing was saved.")
    expect(page.get_by_label("User name")).to_have_value("Bia")
    health = page.request.get(f"{product.url}/healthz")
    assert health.text() == '{"frontend_status":"ok","backend_status":"nok"}'

    product.start_backend()
    page.get_by_role("button", name="Create user").click()
    expect(page.get_by_role("status")).to_have_text("User 2, Bia, was created.")
    expect(page.get_by_role("row")).to_have_text(["IDName", "1Ana", "2Bia"])
    health = page.request.get(f"{product.url}/healthz")
    assert health.text() == '{"frontend_status":"ok","backend_status":"ok"}'


def test_the_list_goes_on_after_a_hundred_users(page: Page, product: Product) -> None:
    for number in range(1, 102):
        user = {"id": number, "name": f"user {number}"}
        assert page.request.post(f"{product.backend.url}/users", data=user).status == 201
    page.reload()
    expect(page.get_by_role("row")).to_have_count(101)  # with the head
    page.get_by_role("link", name="Next page").click()
    expect(page.get_by_role("row")).to_have_text(["IDName", "101user 101"])
    expect(page.get_by_role("link", name="Next page")).to_have_count(0)
    page.get_by_role("link", name="First page").click()
    expect(page.get_by_role("row")).to_have_count(101)


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read_in_the_light_and_in_the_dark(page: Page, scheme: Any) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    page.emulate_media(color_scheme=scheme)
    create(page, "9007199254740991", "W" * 200)
    create(page, "9007199254740991", "W" * 200)
    expect(page.get_by_role("alert")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    too_weak = page.evaluate(CONTRAST)
    assert too_weak == []


# The contrast of every visible text with what lies behind it, by the formula of WCAG 2.
CONTRAST = """() => {
  const luminance = ([r, g, b]) => [r, g, b]
    .map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const numbers = css => css.match(/[\\d.]+/g).map(Number);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = numbers(getComputedStyle(e).backgroundColor);
      if (color[3] !== 0) return color;
    }
  };
  const found = [];
  for (const e of document.querySelectorAll("h1,h2,label,p,input,button,a,th,td")) {
    const [a, b] = [numbers(getComputedStyle(e).color), behind(e)].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${e.tagName} ${e.className}: ${ratio.toFixed(1)}`);
  }
  return found;
}"""
