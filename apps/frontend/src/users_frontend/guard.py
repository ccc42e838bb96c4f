"""What keeps pages of other web sites out, while curl and programs need nothing special."""

import ipaddress
import re

from flask import abort, current_app, request
from werkzeug.exceptions import HTTPException


class MisdirectedRequest(HTTPException):
    """The request is for a host name that is not ours."""

    code = 421


def check_host() -> None:
    """Answer 421 unless the Host header has an IP address or a name of the setting ALLOWED_HOSTS.

    A page of evil.example may give that name our address ("DNS rebinding"); its requests
    then look as if they came from our own pages.
    """
    name = re.sub(r":[0-9]*$", "", request.headers.get("Host", "localhost").lower())
    if name not in current_app.config["ALLOWED_HOSTS"] and not _is_ip_address(name):
        raise MisdirectedRequest


def check_sender() -> None:
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


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True
