"""Requests of the console: who is signed in, what a form holds, and whether it is one of our own."""

import logging
from functools import cached_property
from typing import Any, Generic, TypeAlias
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

import msgspec
from typing_extensions import TypeVar

from providers.signing import same_secret

from ..api import ApiState
from ..validation import unprintable
from ..web.auth import PLATFORM
from ..web.bodies import MAX_BODY_BYTES, TooLarge, invalid, read_body
from ..web.problems import UNEXPECTED, Problem, not_found, problem_of
from ..web.routing import ApiRequest
from ..web.sessions import COOKIE, Session
from .languages import best_language, catalogue
from .notifications import News

logger = logging.getLogger("ingress.console.requests")

# In the address that the page between goes to: one is enough.
BOUNCED = "bounced"
LANGUAGE_COOKIE, THEME_COOKIE = "__Host-language", "__Host-theme"
THEMES = ("system", "light", "dark")
MAX_FIELDS = 200

Query = TypeVar("Query", default=None)


class Form:
    """What a form holds: texts by name, the control characters of what is no ``content`` refused."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def __getitem__(self, name: str) -> str:
        """Raises `Problem` 422 where it is missing or empty."""
        if not (value := self.get(name)):
            raise invalid((name, "must be given"), what="The form")
        return value

    def get(self, name: str, default: str = "") -> str:
        """The first of that name, without blanks around it."""
        return next((value.strip() for key, value in self._pairs if key == name), default)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self._pairs if key == name]

    def __contains__(self, name: str) -> bool:
        return any(key == name for key, _ in self._pairs)

    def below(self, prefix: str) -> dict[str, str]:
        """The texts whose names are ``prefix.name``, by that name."""
        return {
            key.removeprefix(prefix + "."): value.strip() for key, value in self._pairs if key.startswith(prefix + ".")
        }

    def __repr__(self) -> str:
        return f"Form({len(self._pairs)} fields)"

    def nested(self) -> dict[str, Any]:
        """As the API has it, for what notes refused changes."""
        found: dict[str, Any] = {}
        for key, value in self._pairs:
            above, _, name = key.rpartition(".")
            place = found.setdefault(above, {}) if above else found
            if isinstance(place, dict):
                place[name] = value
        return found


class ConsoleRequest(ApiRequest[ApiState, None, Query], Generic[Query]):
    """A request of the console. Its principal is that of the session's key, as the key is now."""

    signed_in: Session
    # For the bell of a page; None: the answer is none, or nobody's.
    notifications: list[News] | None = None
    _posted: Form | None = None

    @cached_property
    def language(self) -> str:
        return best_language(self.cookies.get(LANGUAGE_COOKIE), self.header.get("accept-language", ""))

    @property
    def theme(self) -> str:
        chosen = self.cookies.get(THEME_COOKIE, "")
        return chosen if chosen in THEMES else THEMES[0]

    def gettext(self, text: str) -> str:
        return catalogue(self.language).gettext(text)

    def ngettext(self, one: str, many: str, count: int) -> str:
        return catalogue(self.language).ngettext(one, many, count)

    @property
    def is_signed_in(self) -> bool:
        return hasattr(self, "signed_in")

    @property
    def target(self) -> str:
        """Its path with the query, but what a page of ours put there."""
        query = urlencode([pair for pair in self.query_params.multi_items() if pair[0] not in (BOUNCED, "done")])
        return self.url.path + (f"?{query}" if query else "")

    @property
    def looks_again(self) -> bool:
        """A page looks again by itself, or follows what changes: nobody may be sitting in front of it."""
        return self.header.get("x-console-live") == "1" or (self.method == "GET" and self.wants_stream)

    @property
    def is_of_script(self) -> bool:
        """A page's script asks, whoever had it do so: it shows a part of what comes."""
        return "x-console-live" in self.header

    @property
    def wants_stream(self) -> bool:
        """A script follows: what a form does (`progress`), or all that changes (`live`)."""
        return self.header.get("accept", "").startswith("text/event-stream")

    def can(self, scope: str) -> bool:
        """Whether the key in use may."""
        return scope in self.principal.scopes

    @property
    def organization_id(self) -> UUID:
        """Raises `Redirected` where the platform's key has chosen none yet."""
        if self.principal.organization_id is None:
            raise Redirected("/console/organizations")
        return self.principal.organization_id

    def number_in_path(self, name: str) -> int:
        """Raises `Problem` 404 for what is none, or is larger than any that is stored."""
        text: str = self.path_params[name]
        if not (text.isascii() and text.isdecimal() and len(text) <= 18):
            raise not_found()
        return int(text)

    async def posted(self) -> Form:
        """What was posted. Raises `Problem` 403, 413, 415 or 422: too much of it, or no form of our own pages."""
        if self._posted is None:
            self._posted = await self._read_form()
        return self._posted

    async def _read_form(self) -> Form:
        kind = self.header.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise Problem(415, "unsupported_media_type", "A form of the console was expected.")
        owner = self.principal.organization_id if self.is_signed_in else None
        try:
            body = await read_body(self.receive, MAX_BODY_BYTES, self.state["bodies"], owner or PLATFORM)
            pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
        except TooLarge:
            raise Problem(413, "too_large", f"The form must be at most {MAX_BODY_BYTES} bytes.") from None
        except ValueError:
            raise Problem(422, "invalid_request", "The form could not be read.") from None
        if any("\0" in value for _, value in pairs):
            raise Problem(422, "invalid_request", "The form holds a value that cannot be stored.")
        form = Form([(name, value.replace("\r\n", "\n")) for name, value in pairs if name != "csrf"])
        if self.is_signed_in:
            token = next((value for name, value in pairs if name == "csrf"), "")
            if not same_secret(token, self.signed_in.csrf):
                raise foreign()
            self.sent = msgspec.json.encode(form.nested())
        return form

    def check_printable(self, form: Form, *names: str) -> None:
        """Raises `Problem` 422 where one of these fields holds what nobody can see."""
        wrong = [(name, "must not hold control characters") for name in names if [*unprintable(form.get(name))]]
        if wrong:
            raise invalid(*wrong, what="The form")

    def check_origin(self) -> None:
        """Raises `Problem` 403 where a change comes from a page of anybody else's.

        Browsers send `Sec-Fetch-Site` wherever the cookie works, and `Origin` (`null` under our referrer policy).
        """
        site, origin = self.header.get("sec-fetch-site"), self.header.get("origin")
        ours = (origin or "").partition("://")[2] == (self.header.get("host") or None)
        if site is None:
            if not ours:
                raise foreign()
        elif site != "same-origin" or (origin not in (None, "null") and not ours):
            raise foreign()

    async def problem_with(self, error: Exception) -> Problem:
        """What *error* is to who asked: noted where a change was refused by it, logged where nobody expected it."""
        if self.changes:
            await self.state["refused_changes"].note(self, error)
        if (problem := problem_of(error)) is None:
            logger.error("request %s failed", self.id, exc_info=error)
        return problem or UNEXPECTED

    async def _identify(self) -> None:
        token = self.cookies.get(COOKIE)
        found = await self.state["sessions"].find(token, used=not self.looks_again) if token else None
        if found is None:
            raise SignedOut
        self.signed_in, self.principal = found, found.principal


class Redirected(Exception):
    """To be answered with the way to another page of the console."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class SignedOut(Exception):
    """Nobody is signed in, or not any more."""


AnyConsoleRequest: TypeAlias = ConsoleRequest[Any]


def foreign() -> Problem:
    return Problem(403, "foreign_form", "This was not sent by a page of this console, or its session is over.")
