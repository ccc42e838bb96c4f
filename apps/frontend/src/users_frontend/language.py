"""The languages of the pages, and the sentences that people read there."""

import re
from typing import Self

from flask import g, request
from markupsafe import Markup

from .portuguese import BACKEND, PORTUGUESE

LANGUAGES = {"en": "English", "pt-BR": "Português"}
COOKIE = "users_language"  # cookies are shared by all ports of a host: the name says whose it is


class Sentence:
    """A sentence that reads in the language of the request in which it is shown.

    Its English text may have `{places}` for values, as `str.format` knows them.
    """

    def __init__(self, english: str, **values: object) -> None:
        self._english = english
        self._values = values

    def format(self, **values: object) -> Self:
        """The sentence with these values in their places."""
        return type(self)(self._english, **values)

    def __str__(self) -> str:
        return self._translated().format(**self._values)

    def __html__(self) -> Markup:
        """The sentence for a template; markup in the values is escaped."""
        sentence = Markup(self._translated())
        return sentence.format(**self._values) if self._values else sentence

    def _translated(self) -> str:
        return PORTUGUESE[self._english] if g.language == "pt-BR" else self._english


def of_backend(words: str) -> Markup:
    """What the backend said, in the language of the request; in English where there is no translation."""
    if g.language == "pt-BR":
        for english, portuguese in BACKEND.items():
            if values := re.fullmatch(re.escape(english).replace(r"\{\}", "(.*)"), words, re.DOTALL):
                return Markup("{}").format(portuguese.format(*values.groups()))
    return Markup('<span lang="en">{}</span>').format(words)


# The name by which templates and code mark a sentence; a test finds those without a translation.
_ = Sentence


def choose() -> str:
    """The language of this request: the one asked for by `?lang=`, or remembered, or wished for by the browser."""
    for wish in (request.args.get("lang", ""), request.cookies.get(COOKIE, "")):
        if wish in LANGUAGES:
            return wish
    # By quality alone: Werkzeug sorts "en-US;q=0.5" before "pt". Any Portuguese is better than none.
    for tag, quality in sorted(request.accept_languages, key=lambda each: -each[1]):
        match tag.lower().partition("-")[0]:
            case "pt" if quality > 0:
                return "pt-BR"
            case "en" if quality > 0:
                return "en"
    return "en"


def bdi(name: str) -> Markup:
    """The name, kept from turning the sentence around it when it is written from right to left."""
    return Markup("<bdi>{}</bdi>").format(name)
