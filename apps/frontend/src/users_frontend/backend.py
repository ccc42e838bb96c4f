"""The one client of the backend API: every call, and every way in which it can fail."""

import json
import logging
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError
from urllib3.util import Retry

PAGE_SIZE = 100
LOOK = "Look at it with: systemctl status users-backend (in the VM), and try again."
UNKNOWN = "The user may or may not have been saved: look at the list before trying again."

log = logging.getLogger(__name__)


class BackendError(Exception):
    """A failed call, told for people: `str(error)` is the sentence to show.

    `status` is the HTTP status for the browser: 409 or 422 when the backend refused the
    values, 502, 503 or 504 when it is the backend that has a problem.
    `fields` maps "id" or "name" to a sentence, where the backend said what is wrong.
    """

    def __init__(self, status: int, message: str, fields: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.fields = fields or {}


@dataclass(frozen=True)
class User:
    """A user as the backend keeps it."""

    id: int
    name: str


@dataclass(frozen=True)
class UserPage:
    """Up to PAGE_SIZE users by id; `next_after` is where to go on, None at the end."""

    users: list[User]
    next_after: int | None


class _Connection(threading.local):
    """A session for each thread: requests does not promise that one can be shared."""

    def __init__(self) -> None:
        # Two more tries to connect bridge a quick restart. Nothing else is repeated: a
        # request that was sent may have done its work.
        retry = Retry(total=None, connect=2, read=False, other=0, backoff_factor=0.2)
        self.session = requests.Session()
        self.session.trust_env = False  # a proxy meant for the internet must not see our calls
        self.session.headers["Accept"] = "application/json"
        self.session.mount("http://", HTTPAdapter(max_retries=retry))
        self.session.mount("https://", HTTPAdapter(max_retries=retry))


class Backend:
    """The backend at `url`, which has `timeout` seconds to answer; threads can share it.

    Every method raises BackendError when there is no good answer.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self._timeout = timeout
        self._connection = _Connection()

    def create(self, user_id: int, name: str, *, request_id: str) -> User:
        """Create a user and return it as saved."""
        body = {"id": user_id, "name": name}
        response = self._call("POST", "/users", request_id, json=body)
        if response.status_code == 409:
            taken = f"User {user_id} exists already. Nothing was saved: choose another ID."
            raise BackendError(409, taken, {"id": taken})
        if response.status_code != 201:
            raise self._refusal(response)
        return self._read_user(response, self._decode(response))

    def user(self, user_id: int, *, request_id: str) -> User | None:
        """Return the user with this id, or None when there is none."""
        response = self._call("GET", f"/users/{user_id}", request_id)
        if response.status_code in (404, 422):  # 422: no user can have such an id
            return None
        if response.status_code != 200:
            raise self._refusal(response)
        return self._read_user(response, self._decode(response))

    def users(self, after: int | None, *, request_id: str) -> UserPage:
        """Return the users whose id is greater than `after` (None: from the start)."""
        query = {"limit": PAGE_SIZE, "after": after}
        response = self._call("GET", "/users", request_id, params=query)
        if response.status_code != 200:
            raise self._refusal(response)
        rows = self._decode(response)
        if not isinstance(rows, list):
            raise self._nonsense(response)
        users = [self._read_user(response, row) for row in rows]
        return UserPage(users, _next_after(response))

    def is_up(self, *, request_id: str) -> bool:
        """Tell whether the backend answers its health check; never raises."""
        try:
            return self._call("GET", "/healthz", request_id, wait=2).status_code == 200
        except BackendError:
            return False

    def _call(
        self,
        method: str,
        path: str,
        request_id: str,
        *,
        wait: float | None = None,
        **kwargs: Any,
    ) -> requests.Response:
        try:
            return self._connection.session.request(
                method,
                self.url + path,
                headers={"X-Request-ID": request_id},
                timeout=(1, wait or self._timeout),
                allow_redirects=False,
                **kwargs,
            )
        except requests.RequestException as error:
            log.warning("%s %s failed: %r", method, path, error)
            saving = method == "POST"
            # Only connecting is retried: out of retries means that it never connected.
            if error.args and isinstance(error.args[0], MaxRetryError):
                fate = "Nothing was saved. " if saving else ""
                message = f"The backend does not answer at {self.url}. {fate}{LOOK}"
                raise BackendError(502, message) from error
            fate = UNKNOWN if saving else LOOK
            if isinstance(error, requests.Timeout):
                message = f"The backend took longer than {self._timeout} seconds. {fate}"
                raise BackendError(504, message) from error
            message = f"The connection to the backend broke before its answer came. {fate}"
            raise BackendError(502, message) from error

    def _decode(self, response: requests.Response) -> Any:
        try:
            value = json.loads(response.content)
            # Half a character, "\ud800", is legal JSON but cannot be sent to a browser.
            json.dumps(value, ensure_ascii=False).encode()
            return value
        except (ValueError, RecursionError) as error:
            raise self._nonsense(response) from error

    def _read_user(self, response: requests.Response, value: Any) -> User:
        if isinstance(value, dict):
            user_id, name = value.get("id"), value.get("name")
            if type(user_id) is int and isinstance(name, str):  # a bool is an int, too
                return User(user_id, name)
        raise self._nonsense(response)

    def _nonsense(self, response: requests.Response) -> BackendError:
        log.warning("not understood: %d %.200r", response.status_code, response.content)
        fate = UNKNOWN if response.request.method == "POST" else LOOK
        message = (
            f"What answers at {self.url} does not speak like the backend"
            f" (status {response.status_code}): check BACKEND_URL. {fate}"
        )
        return BackendError(502, message)

    def _refusal(self, response: requests.Response) -> BackendError:
        """Return the backend's own error (RFC 9457) as ours."""
        problem = self._decode(response)
        detail = problem.get("detail") if isinstance(problem, dict) else None
        if not isinstance(detail, str):
            return self._nonsense(response)
        match response.status_code:
            case 422:
                return BackendError(422, detail, _fields(problem.get("errors")))
            case 503 | 507:  # 507: its disk is full
                return BackendError(503, f"The backend cannot work now: {detail} {LOOK}")
            case status:
                fate = UNKNOWN if response.request.method == "POST" else LOOK
                return BackendError(502, f"The backend failed (status {status}): {detail} {fate}")


def _next_after(response: requests.Response) -> int | None:
    """Return the `after` of the Link to the next page, None where there is none."""
    try:
        next_page = urlsplit(response.links["next"]["url"])
        return int(parse_qs(next_page.query)["after"][0])
    except (KeyError, ValueError):
        return None


def _fields(errors: Any) -> dict[str, str]:
    """Return the sentences that belong to a form field; what is not one is left out."""
    found: dict[str, str] = {}
    for each in errors if isinstance(errors, list) else []:
        match each:
            case {"field": "id" | "name" as field, "message": str(message)}:
                found[field] = message.rstrip(".") + "."
    return found
