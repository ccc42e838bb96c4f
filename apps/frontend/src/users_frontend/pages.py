"""The pages: the form with the list below it, the health check, the error page."""

import json
import re
from typing import cast

from flask import Blueprint, Response, current_app, g, render_template, request, url_for
from werkzeug.exceptions import HTTPException

from .backend import Backend, BackendError, UserPage

blueprint = Blueprint("pages", __name__)

ID_RULE = "The ID must be a whole number from 1 to 9007199254740991, such as 7."

ERROR_TEXTS = {
    403: "Another web site sent this form, so it was refused and nothing was saved."
    " Open this page yourself and fill in the form here.",
    404: "There is no such page. Check the address, or go to the form.",
    405: "This address does not take that kind of request. Go to the form.",
    413: "What was sent is too long: nothing was saved."
    " A user name has at most 200 characters. Go back and shorten it.",
    500: "This page has failed because of an error in the program, not because of you."
    " Look at its log for the request number below, and try again.",
}


def _backend() -> Backend:
    return cast(Backend, current_app.extensions["backend"])


@blueprint.get("/")
def form() -> str:
    """Show the form and the users; `?created=ID` says so, `?after=ID` turns the page.

    200 also when the backend is down: the form stays, and a sentence takes the place
    of the list.
    """
    created = request.args.get("created", type=int)
    user = page = failure = None
    try:
        if created is not None:
            user = _backend().user(created, request_id=g.request_id)
        page = _list()
    except BackendError as error:
        failure = str(error)
    return render_template("index.html", values={}, created=created, user=user, page=page, failure=failure)


@blueprint.post("/")
def create() -> Response | tuple[str, int]:
    """Create a user from the fields `id` and `name`.

    303 to the page that says so; otherwise the form again with what was typed: 409 for
    a taken ID, 422 for bad values, 502, 503 or 504 when the backend has a problem.
    """
    values = {
        "id": request.form.get("id", "").strip(),
        "name": request.form.get("name", ""),
    }
    try:
        # The backend knows what is a good ID; here it only has to be a number that can
        # be sent. 16 digits hold every good one.
        if not re.fullmatch(r"-?[0-9]{1,16}", values["id"]):
            raise BackendError(422, ID_RULE, {"id": ID_RULE})
        user = _backend().create(int(values["id"]), values["name"], request_id=g.request_id)
    except BackendError as error:
        return _form_again(values, error), error.status
    # The sentence in the body is for curl; a browser follows the address at once, and
    # reloading the page it lands on creates nothing.
    return Response(
        f"User {user.id}, {user.name}, was created.\n",
        303,
        {"Location": url_for("pages.form", created=user.id)},
        content_type="text/plain; charset=utf-8",
    )


@blueprint.get("/healthz")
def health() -> Response:
    """Say whether this app and the backend answer: 200 with "ok" or "nok" for each."""
    up = _backend().is_up(request_id=g.request_id)
    status = {"frontend_status": "ok", "backend_status": "ok" if up else "nok"}
    # Not jsonify: it would sort the keys and break the exact text that is documented.
    return Response(json.dumps(status, separators=(",", ":")), content_type="application/json")


@blueprint.app_errorhandler(HTTPException)
def error_page(error: HTTPException) -> tuple[str, int, list[tuple[str, str]]]:
    """Show any HTTP error, a crash of ours (500) included, as a readable page."""
    status = error.code or 500
    text = ERROR_TEXTS.get(status, error.description)
    headers = [each for each in error.get_headers() if each[0] == "Allow"]
    page = render_template("error.html", status=status, title=error.name, text=text)
    return page, status, headers


def _list() -> UserPage:
    return _backend().users(request.args.get("after", type=int), request_id=g.request_id)


def _form_again(values: dict[str, str], error: BackendError) -> str:
    page = None
    failure = "The list is not loaded, because the backend has a problem."
    if error.status in (409, 422):  # else it would only make the visitor wait once more
        try:
            page = _list()
        except BackendError as list_error:
            failure = str(list_error)
    return render_template("index.html", values=values, error=error, page=page, failure=failure)
