"""The pages, the health check and the metrics."""

import json
import unicodedata
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlencode

from flask import Blueprint, Response, current_app, g, render_template, request, session, url_for
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from werkzeug.exceptions import HTTPException

from .backend import MAX_ID, MAX_NAME, Backend, BackendError, User, UserPage
from .language import LANGUAGES, _, bdi

blueprint = Blueprint("pages", __name__)

# What the next page says after a change.
DONE = {
    "created": _("User {id}, {name}, was created."),
    "renamed": _("User {id} is now called {name}."),
    "deleted": _("User {id} was deleted."),
}

# What error pages say.
ERRORS = {
    403: _("Another web site sent this form: nothing was changed. Open this page yourself and fill in the form."),
    404: _("There is nothing at this address. Check it, or go to the form."),
    405: _("This address does not take that kind of request. Go to the form."),
    413: _("What was sent is too long, and nothing was changed. A name has at most 200 characters."),
    415: _("What was sent is not written in UTF-8, and nothing was changed. Open this page and fill in the form."),
    421: _("This server has another name. Use localhost or its IP address, or add the name to ALLOWED_HOSTS."),
    500: _("It is an error in the program, not your fault. Look for the request number below in its log."),
}
OTHER_ERROR = _("This request cannot be answered. Go to the form, and try again.")


def _backend() -> Backend:
    return cast(Backend, current_app.extensions["backend"])


def _place() -> dict[str, Any]:
    """Where in the list the visitor is: what the query of an address says, the search `name` and `after` which id."""
    name = request.args.get("name", "").strip()[:MAX_NAME]
    after = min(max(request.args.get("after", 0, int), 0), MAX_ID)
    return {key: value for key, value in (("name", name), ("after", after)) if value}


def _done(what: str, user_id: int, name: str = "") -> Response:
    """The answer after a change: to the list, which says what was done; reloading that page does nothing again."""
    session["done"] = [what, user_id, name]
    # The sentence in the body is for curl; a browser follows the address at once.
    text = f"{DONE[what].format(id=user_id, name=name)}\n"
    headers = {"Location": url_for("pages.form", **_place())}
    return Response(text, 303, headers, content_type="text/plain; charset=utf-8")


@blueprint.app_context_processor
def _for_templates() -> dict[str, Any]:
    place = _place()
    links = [
        {"tag": tag, "title": title, "href": f"?{urlencode({**place, 'lang': tag})}"}
        for tag, title in LANGUAGES.items()
        if tag != g.language
    ]
    return {"place": place, "language_links": links}


@blueprint.get("/")
def form() -> str:
    """Show the form and the users: those with `?name=` in their name, from `?after=` on.

    200 also when the backend is down: the form stays, and a sentence takes the place
    of the list.
    """
    return _form_page({})


@blueprint.post("/")
def create() -> Response | tuple[str, int]:
    """Create a user from the fields `id` and `name`.

    303 to the page that says so; otherwise the form again with what was typed: 409 for
    a taken ID, 422 for bad values, 502, 503 or 504 when the backend has a problem.
    """
    values = {"id": request.form.get("id", "").strip(), "name": request.form.get("name", "")}
    try:
        user = _backend().create(values["id"], values["name"])
    except BackendError as error:
        return _form_page(values, error), error.status
    return _done("created", user.id, user.name)


def _form_page(values: dict[str, str], error: BackendError | None = None) -> str:
    page = failure = None
    place = _place()
    after, search = place.get("after", 0), place.get("name", "")
    # After a failed call the list would only make the visitor wait once more.
    if error is None or error.status in (409, 422):
        try:
            page = _backend().users(after, search)
        except BackendError as list_error:
            failure = list_error
    done = session.pop("done", None)
    if page and not error and not done:
        return _common_page(page, after, search, g.language)
    return render_template(
        "index.html",
        values=values,
        error=error,
        done=DONE[done[0]].format(id=done[1], name=bdi(done[2])) if done else None,
        page=page,
        failure=failure,
        after=after,
        search=search,
    )


@lru_cache(maxsize=32)  # of up to 100 kB
def _common_page(page: UserPage, after: int, search: str, _language: str) -> str:
    """The form and a list, made once for all visitors who see the same: a hundred rows are most of the work.

    What is shown must follow from the arguments alone; a test compares the pages of two visitors.
    """
    return render_template("index.html", values={}, page=page, after=after, search=search)


@blueprint.get("/users/<int:user_id>/edit")
def edit(user_id: int) -> str:
    """Show a form with the name of a user; 404 when there is none."""
    user, etag = _backend().user(user_id)
    return render_template("edit.html", user_id=user_id, values={"name": user.name}, etag=etag)


@blueprint.post("/users/<int:user_id>/edit")
def rename(user_id: int) -> Response | tuple[str, int]:
    """Give the user the name of the field `name`: 303, 404, 422, 502, 503 or 504.

    412 when the user is no longer as the field `etag` says: somebody else was faster.
    """
    name, etag = request.form.get("name", ""), request.form.get("etag", "")
    try:
        user = _backend().rename(user_id, name, etag)
    except BackendError as error:
        if error.status == 404:
            raise
        if error.status == 412:
            user, etag = _now(user_id, error)
            if user.name == unicodedata.normalize("NFC", name).strip():  # sent twice: it was made the first time
                return _done("renamed", user.id, user.name)
        page = render_template("edit.html", user_id=user_id, values={"name": name}, etag=etag, error=error)
        return page, error.status
    return _done("renamed", user.id, user.name)


def _now(user_id: int, error: BackendError) -> tuple[User, str]:
    """The user as somebody else has made it, which the error then tells, and the ETag of that."""
    user, etag = _backend().user(user_id)
    error.sentence = error.sentence.format(name=bdi(user.name))
    return user, etag


@blueprint.get("/users/<int:user_id>/delete")
def confirm(user_id: int) -> str:
    """Ask whether the user shall be deleted; 404 when there is none."""
    user, etag = _backend().user(user_id)
    return render_template("delete.html", user=user, etag=etag)


@blueprint.post("/users/<int:user_id>/delete")
def delete(user_id: int) -> Response | tuple[str, int]:
    """Delete the user: 303, 404, 412 as for a new name, 502, 503 or 504."""
    user, etag = User(user_id, ""), request.form.get("etag", "")
    try:
        _backend().delete(user_id, etag)
    except BackendError as error:
        if error.status == 404:
            raise
        if error.status == 412:
            user, etag = _now(user_id, error)
        return render_template("delete.html", user=user, etag=etag, error=error), error.status
    return _done("deleted", user_id)


@blueprint.get("/status")
def status() -> str:
    """Show how frontend, backend and database are, and what to do."""
    backend_error = database_error = None
    try:
        _backend().check()
        try:
            _backend().check_database()
        except BackendError as error:
            database_error = error
    except BackendError as error:
        backend_error = error
    return render_template("status.html", backend_error=backend_error, database_error=database_error)


@blueprint.get("/healthz")
def health() -> Response:
    """Say whether this app and the backend answer: 200 with "ok" or "nok" for each."""
    try:
        _backend().check()
        backend = "ok"
    except BackendError:
        backend = "nok"
    # Not jsonify: it would sort the keys and break the exact text that is documented.
    text = json.dumps({"frontend_status": "ok", "backend_status": backend}, separators=(",", ":"))
    return Response(text, content_type="application/json")


@blueprint.get("/metrics")
def metrics() -> Response:
    """Show the counters for Prometheus."""
    registry = current_app.extensions["metrics"].registry
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


@blueprint.app_errorhandler(BackendError)
def backend_error_page(error: BackendError) -> tuple[str, int]:
    """Show why a page that needs the backend cannot be shown."""
    return render_template("error.html", status=error.status, text=error.sentence), error.status


@blueprint.app_errorhandler(HTTPException)
def error_page(error: HTTPException) -> tuple[str, int, list[tuple[str, str]]]:
    """Show any HTTP error, a crash of ours (500) included, as a readable page."""
    status = error.code or 500
    headers = [each for each in error.get_headers() if each[0] == "Allow"]
    return render_template("error.html", status=status, text=ERRORS.get(status, OTHER_ERROR)), status, headers
