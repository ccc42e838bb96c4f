"""What happens around every request: its id, its origin, its headers, its log line."""

import logging
import re
import time
import uuid

from flask import Flask, Response, abort, g, request

log = logging.getLogger(__name__)

HEADERS = {
    # All a page may load is our own style sheet and icon; it has no script at all.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
        " base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": browsers then send "Origin: null" with our own form.
    "Referrer-Policy": "same-origin",
}


def install(app: Flask) -> None:
    """Put the hooks of this module around every request of `app`."""
    app.before_request(_begin)
    app.before_request(_refuse_other_sites)
    app.after_request(_finish)


def _begin() -> None:
    g.started = time.perf_counter()
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII) else uuid.uuid4().hex


def _refuse_other_sites() -> None:
    """Answer 403 to a form that another web site made the browser send.

    Browsers name the sender, in Sec-Fetch-Site where the address is trustworthy (https
    or this machine) and else in Origin. A client that sends neither, such as curl, is
    no browser and acts for nobody but its user.
    """
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    if site := request.headers.get("Sec-Fetch-Site"):
        own = site in ("same-origin", "none")
    elif origin := request.headers.get("Origin"):
        own = origin in (f"http://{request.host}", f"https://{request.host}")
    else:
        own = True
    if not own:
        abort(403)


def _finish(response: Response) -> Response:
    response.headers.update(HEADERS)
    response.headers["X-Request-ID"] = g.request_id
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"  # the list may be old in a second
    fields = {
        "method": request.method,
        "path": request.path,
        "status": response.status_code,
        "duration_ms": round((time.perf_counter() - g.started) * 1000, 1),
    }
    log.info("request", extra={"fields": fields})
    return response
