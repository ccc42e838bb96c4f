"""What a user is, and how one is read from JSON, a path or a query."""

import json
import re
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

# The largest integer that JavaScript, and so every browser, reads back unchanged.
MAX_ID = 2**53 - 1
MAX_NAME = 200

# The Unicode category "Cc".
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# For the documentation: a name after cleaning.
_CLEAN_NAME = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"


def _clean_name(name: str) -> str:
    """One spelling for each name: Unicode NFC, no white space around it."""
    name = unicodedata.normalize("NFC", name).strip()
    if _CONTROL_CHARACTER.search(name):
        raise PydanticCustomError(
            "control_character", "String should have no control characters, such as line breaks or tabs"
        )
    if not 1 <= len(name) <= MAX_NAME:
        raise PydanticCustomError(
            "name_length",
            "String should have 1 to {limit} characters, not counting white space around it",
            {"limit": MAX_NAME},
        )
    return name


def _only_digits(value: Any) -> Any:
    """Refuse what Pydantic would read as a number in a URL: `1.0`, `+1`, `1_000`, ` 1`."""
    if isinstance(value, str) and not re.fullmatch(r"0|[1-9][0-9]*", value):
        raise PydanticCustomError("whole_number", "Input should be a whole number in plain digits, such as 1")
    return value


Id = Annotated[int, Field(ge=1, le=MAX_ID, examples=[1])]
Name = Annotated[
    str,
    AfterValidator(_clean_name),
    # For the documentation; what counts is the name after cleaning.
    Field(json_schema_extra={"minLength": 1, "maxLength": MAX_NAME, "pattern": _CLEAN_NAME}, examples=["Ana"]),
]
# For an int in a path or a query.
PlainDigits = BeforeValidator(_only_digits)


class NewName(BaseModel):
    """What `PUT` changes of a user."""

    # Strict: 1.0, "1" and true are not the integer 1.
    model_config = ConfigDict(strict=True, extra="forbid")

    name: Name


class User(BaseModel):
    """A user: an id chosen by the caller, and a name."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: Id
    name: Name


def fold(text: str) -> str:
    """The form in which names are searched: no case, no accents (`JOSÉ` is `jose`)."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def without_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object that JSON has with these pairs. Raise RepeatedKey."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return found


class RepeatedKey(Exception):
    """A JSON object has a key more than once; `args[0]` is the key."""


# parse_int: Python refuses to make an int of more than 4,300 digits.
_DECODER = json.JSONDecoder(object_pairs_hook=without_repeated, parse_int=str)


def repeated_key(body: bytes) -> str | None:
    """The first key that an object in valid JSON repeats, or None.

    JSON parsers keep the last of two equal keys without a word; whoever sent
    both meant something else.
    """
    try:
        _DECODER.decode(body.decode())
    except RepeatedKey as error:
        return str(error)
    return None
