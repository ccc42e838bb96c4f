"""What happens around every request: its id, its language, its headers, its log line."""

import logging
import re
import time
import uuid
from urllib.parse import unquote_to_bytes

from flask import Flask, Response, abort, g, request

from . import guard, language
from .metrics import Metrics

log = logging.getLogger(__name__)

HEADERS = {
    # All a page may load is our own style sheet, script and icon; nothing is inline.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self';"
        " base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    # Not "no-referrer": browsers then send "Origin: null" with our own form.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def install(app: Flask, metrics: Metrics) -> None:
    """Put the hooks of this module around every request of `app`."""

    def finish(response: Response) -> Response:
        response.headers.update(HEADERS)
        response.headers["X-Request-ID"] = g.request_id
        if request.method == "POST":
            # The browser may keep it for its Back button alone, which then need not send the form again.
            response.headers["Cache-Control"] = "private, no-cache"
        elif request.endpoint != "static":
            response.headers["Cache-Control"] = "no-store"  # the list may be old in a second
        if request.args.get("lang") == g.language:
            year = 365 * 24 * 60 * 60
            response.set_cookie(language.COOKIE, g.language, max_age=year, httponly=True, samesite="Lax")
        seconds = time.perf_counter() - g.started
        # The rule of the route, not the path: labels must stay few.
        method, route = (request.method, request.url_rule.rule) if request.url_rule else ("(any)", "(none)")
        metrics.request(method, route, response.status_code, seconds)
        _log(response.status_code, seconds)
        return response

    app.before_request(_begin)
    app.before_request(guard.check_host)
    app.before_request(guard.check_sender)
    app.before_request(_check_form)
    app.after_request(finish)


def _begin() -> None:
    g.started = time.perf_counter()
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII) else uuid.uuid4().hex
    g.language = language.choose()


def _check_form() -> None:
    """Answer 400 to a form that was cut off, and 415 to one that is not UTF-8, such as Windows' curl sends.

    Flask would take the first for whole, as it cannot see the end under gunicorn, and put other letters into the second.
    """
    form = request.get_data()
    if len(form) < (request.content_length or 0):
        abort(400)
    if request.mimetype == "application/x-www-form-urlencoded":
        form = unquote_to_bytes(form)
    try:
        form.decode()
    except UnicodeDecodeError:
        abort(415)


def _log(status: int, seconds: float) -> None:
    fields = {
        "method": request.method,
        "path": request.path[:200],  # without the query: it may hold names
        "status": status,
        "ms": round(seconds * 1000, 2),
    }
    log.info("request", extra={"fields": fields})
