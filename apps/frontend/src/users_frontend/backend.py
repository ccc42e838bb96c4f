"""The one client of the backend API: every call, and every way in which it can fail."""

import json
import logging
import re
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import urllib3
from flask import g
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError, TimeoutError

from .language import Sentence, _

PAGE_SIZE = 100
MAX_ID = 2**53 - 1
MAX_NAME = 200  # characters
NOTHING_CHANGED = _("Nothing was changed.")
CORRECT = _("Please correct what is marked below.")
WRONG_ID = _("The ID must be a whole number from 1 to 9007199254740991, such as 7.")
PERHAPS_CHANGED = _("The change may or may not have been made: look at the list before you try again.")

OTHERS_CHANGE = _(
    "Somebody was faster: this user is now called {name}. Your change was not made; send it once more if you still want it."
)

T = TypeVar("T")

log = logging.getLogger(__name__)


class BackendError(Exception):
    """A call without a good answer, told for people.

    `status` is the HTTP status for the browser: 404, 409, 412 or 422 when the backend refused,
    502, 503 or 504 when it is the backend that has a problem. `fate` says what became
    of a change. `fields` maps "id" and "name" to what is wrong there. `detail` holds the
    backend's own words about its database.
    """

    def __init__(
        self,
        status: int,
        sentence: Sentence,
        fate: Sentence | None = None,
        fields: Mapping[str, Sentence] | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(status)
        self.status = status
        self.sentence = sentence
        self.fate = fate
        self.fields = fields or {}
        self.detail = detail


class User(NamedTuple):
    """A user as the backend keeps it."""

    id: int
    name: str


class UserPage(NamedTuple):
    """Up to PAGE_SIZE users by id; `next_after` is where to go on, None at the end."""

    users: tuple[User, ...]
    next_after: int | None


class Answer(NamedTuple):
    """What came back for a call of `method` and `path` with `body`."""

    method: str
    path: str
    body: Mapping[str, Any]
    status: int
    headers: Mapping[str, str]
    content: bytes

    def read(self, reader: Callable[[bytes], T]) -> T:
        """What `reader` makes of the content. Raises BackendError when it raises ValueError."""
        try:
            return reader(self.content)
        except (ValueError, RecursionError) as error:
            # Neither the content nor the whole error, which may hold names.
            log.warning("%s not understood: status %d, %s", self.method, self.status, type(error).__name__)
            sentence = _("What answers as the backend does not speak like it (status {status}): check BACKEND_URL.")
            fate = _fate(self.method, PERHAPS_CHANGED)
            raise BackendError(502, sentence.format(status=self.status), fate) from error

    def failure(self) -> BackendError:
        """The error that a status stands for, when it is not a good one."""
        detail, wrong = self.read(_read_problem)
        nothing_changed = _fate(self.method, NOTHING_CHANGED)
        # 422 where nothing was sent, or for the id: no user can have it.
        no_user = self.status == 404 or (self.status == 422 and ("id" in wrong or not self.body))
        match self.status:
            case _ if no_user and self.path.startswith("/users/"):
                sentence = _("There is no user {id}. Look at the list for those there are.")
                return BackendError(404, sentence.format(id=self.path.removeprefix("/users/")))
            case 409 if "id" in self.body:
                fields = {"id": _("User {id} exists already: choose another ID.").format(id=self.body["id"])}
                return BackendError(409, CORRECT, nothing_changed, fields)
            case 412:
                return BackendError(412, OTHERS_CHANGE)  # who shows it asks for the name
            case 413 | 422 if self.body:
                if self.status == 413:  # so long that the backend did not read it
                    wrong = ["name" if len(self.body["name"]) > MAX_NAME else "id"]
                sentences = {"id": WRONG_ID, "name": _wrong_name(self.body["name"])}
                fields = {field: sentences[field] for field in sentences if field in wrong}
                sentence = CORRECT if fields else _("The backend does not accept this user.")
                return BackendError(422, sentence, nothing_changed, fields)
            case 503:
                sentence = _("The backend cannot do its work at the moment.")
                return BackendError(503, sentence, nothing_changed, detail=detail)
            case 504:
                sentence = _("The connection to the database broke while the change was being saved.")
                return BackendError(504, sentence, _fate(self.method, PERHAPS_CHANGED), detail=detail)
            case 507:
                sentence = _("The disk of the database is full: free some space, and try again.")
                return BackendError(503, sentence, nothing_changed, detail=detail)
        sentence = _("The backend failed with status {status}.").format(status=self.status)
        return BackendError(502, sentence, _fate(self.method, PERHAPS_CHANGED), detail=detail)


def _read_json(content: bytes) -> Any:
    value = json.loads(content)
    # Half a character, "\ud800", is legal JSON but cannot be sent to a browser.
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _read_user(content: bytes) -> User:
    return _as_user(_read_json(content))


@lru_cache(maxsize=32)  # reading a hundred users costs more than asking for them, and most visitors see the same
def _read_users(content: bytes) -> tuple[User, ...]:
    match _read_json(content):
        case [*rows]:
            return tuple(map(_as_user, rows))
    raise ValueError("no list")


def _as_user(value: Any) -> User:
    match value:
        case {"id": int(user_id), "name": str(name)} if not isinstance(user_id, bool):
            return User(user_id, name)
    raise ValueError("no user")


def _read_problem(content: bytes) -> tuple[str, list[Any]]:
    """The sentence of a problem (RFC 9457) and the fields that it names."""
    match _read_json(content):
        case {"detail": str(detail), "errors": [*errors]}:
            return detail, [each.get("field") for each in errors if isinstance(each, dict)]
        case {"detail": str(detail)}:
            return detail, []
    raise ValueError("no problem")


class Backend:
    """The backend at `url`, which has `timeout` seconds to answer; `threads` threads can share it.

    Every method raises BackendError when there is no good answer.
    """

    def __init__(self, url: str, timeout: float, threads: int) -> None:
        self._url = url
        self._timeout = timeout
        # urllib3 alone: unlike a session of requests its pool is made for threads, it reads
        # no proxy from the environment, and a call costs 0.2 ms of CPU instead of 0.5.
        self._connections = urllib3.connection_from_url(
            url,
            maxsize=threads,
            # Two more tries to connect bridge a quick restart. Nothing else is repeated: a
            # request that was sent may have done its work.
            retries=urllib3.Retry(total=None, connect=2, read=False, other=0, backoff_factor=0.2),
        )
        self._failing = False
        self._one_try = threading.Lock()

    def create(self, user_id: str, name: str) -> User:
        """Create a user from what was typed, and return it as saved."""
        # What is no number goes as it is: the backend, which knows the rules, judges both fields.
        number = int(user_id) if re.fullmatch(r"-?[0-9]{1,16}", user_id) else user_id
        return self._call("POST", "/users", {"id": number, "name": name}).read(_read_user)

    def user(self, user_id: int) -> tuple[User, str]:
        """Return the user with this id, and the ETag of this state."""
        answer = self._call("GET", f"/users/{user_id}")
        return answer.read(_read_user), answer.headers.get("ETag", "")

    def users(self, after: int, name: str) -> UserPage:
        """Return the users whose id is greater than `after` and whose name contains `name`."""
        query = urlencode({"limit": PAGE_SIZE, "after": after, "name": name})
        answer = self._call("GET", f"/users?{query}")
        following = re.fullmatch(r'<[^>]*[?&]after=([0-9]{1,16})\b[^>]*>; rel="next"', answer.headers.get("Link", ""))
        return UserPage(answer.read(_read_users), int(following[1]) if following else None)

    def rename(self, user_id: int, name: str, etag: str) -> User:
        """Give a user another name, and return it as saved; 412 when it is no longer in the state of the ETag."""
        return self._call("PUT", f"/users/{user_id}", {"name": name}, etag=etag).read(_read_user)

    def delete(self, user_id: int, etag: str) -> None:
        """Delete a user; 412 when it is no longer in the state of the ETag."""
        self._call("DELETE", f"/users/{user_id}", etag=etag)

    def check(self) -> None:
        """Return when the backend answers, whatever state its database is in."""
        self._call("GET", "/healthz", wait=min(2, self._timeout))

    def check_database(self) -> None:
        """Return when the backend can use its database."""
        self._call("GET", "/readyz")

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, wait: float | None = None, etag: str = ""
    ) -> Answer:
        seconds = wait or self._timeout
        headers = {"Content-Type": "application/json", "X-Request-ID": g.request_id}
        # What a form sends may be anything; without an ETag, as from curl, the change is for any state.
        if re.fullmatch(r'"[!#-~]+"', etag):
            headers["If-Match"] = etag
        with self._one_at_a_time_while_it_fails(method):
            try:
                response = self._connections.urlopen(
                    method,
                    path,
                    body=json.dumps(body).encode() if body else None,
                    headers=headers,
                    redirect=False,
                    timeout=urllib3.Timeout(connect=1, read=seconds),
                )
            except HTTPError as error:
                # Not the whole error and path: the query may hold names.
                log.warning("%s %s failed: %r", method, path.partition("?")[0], getattr(error, "reason", error))
                # Only connecting is retried. An SSLError may also be of an answer that is no TLS.
                if isinstance(error, MaxRetryError) and not isinstance(error.reason, SSLError):
                    sentence = _("The backend does not answer at {url}.").format(url=self._url)
                    raise BackendError(502, sentence, _fate(method, NOTHING_CHANGED)) from error
                if isinstance(error, TimeoutError):
                    sentence = _("The backend did not answer within {seconds} seconds.").format(seconds=seconds)
                    raise BackendError(504, sentence, _fate(method, PERHAPS_CHANGED)) from error
                sentence = _("The connection to the backend broke before its answer came.")
                raise BackendError(502, sentence, _fate(method, PERHAPS_CHANGED)) from error
        answer = Answer(method, path, body or {}, response.status, response.headers, response.data)
        if answer.status not in (200, 201, 204):
            raise answer.failure()
        return answer

    @contextmanager
    def _one_at_a_time_while_it_fails(self, method: str) -> Iterator[None]:
        """While the last call got no answer, let one thread find out whether the next one does.

        The others fail at once. Otherwise a crowd of visitors would occupy every thread
        with waiting, and a page that could be shown would queue behind them.
        """
        failing = self._failing
        if failing and not self._one_try.acquire(blocking=False):
            sentence = _("The backend does not answer at the moment.")
            raise BackendError(503, sentence, _fate(method, NOTHING_CHANGED))
        try:
            yield
            self._failing = False
        except BackendError:
            self._failing = True
            raise
        finally:
            if failing:
                self._one_try.release()


def _fate(method: str, of_change: Sentence) -> Sentence | None:
    """What became of the change that a call was to make; nothing to say when it only read."""
    return None if method == "GET" else of_change


def _wrong_name(name: str) -> Sentence:
    """Why the backend refused this name. It has the rules; this chooses the words."""
    name = unicodedata.normalize("NFC", name).strip()
    if not name:
        return _("Type a name.")
    if len(name) > MAX_NAME:
        sentence = _("The name has {length} characters; {most} is the most there can be.")
        return sentence.format(length=len(name), most=MAX_NAME)
    return _("The name has a character that cannot be shown, such as a line break or a tab: remove it.")
