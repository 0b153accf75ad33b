"""What a platform publishes about its answers, and what an answer has against it.

In `tests/samples/published` a shape is an object of field names, with `?` where one may be absent, and types: the name
of a shape or of a check below, `[x]` a list of them, `{}` any object, `=a,b` one of these words, `x|y` either.
Fields that are not named are invented ones.
"""

import json
import re
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

SAMPLES = Path(__file__).parents[2] / "samples" / "published"


def _url(value: str) -> bool:
    return urlsplit(value).scheme in ("http", "https") and bool(urlsplit(value).netloc)


def _path(value: str) -> bool:
    return value.startswith("/2010-04-01/Accounts/")


def _leads_on(value: str) -> bool:
    """Only a token, or a cursor, leads to another page: a page's number is the client's own affair."""
    return bool({"PageToken", "after"} & set(parse_qs(urlsplit(value).query)))


def _mail_date(value: str) -> bool:
    return parsedate_to_datetime(value).utcoffset() is not None and value.endswith("+0000")


def _iso_date(value: str) -> bool:
    return datetime.fromisoformat(value).utcoffset() is not None


TEXTS: dict[str, Callable[[str], Any]] = {
    "text": lambda value: True,
    "digits": re.compile(r"[0-9]+").fullmatch,
    "base64_digest": re.compile(r"[A-Za-z0-9+/]{43}=").fullmatch,
    "sid": re.compile(r"[A-Z]{2}[0-9a-f]{32}").fullmatch,
    "shown_phone": re.compile(r"\+[1-9][0-9]*( [0-9-]+)+").fullmatch,
    "url": _url,
    "next_url": lambda value: _url(value) and _leads_on(value),
    "path": _path,
    "next_path": lambda value: _path(value) and _leads_on(value),
    "mail_date": _mail_date,
    "iso_date": _iso_date,
}


class Published:
    """The contract of one platform, of the file *name*."""

    def __init__(self, name: str) -> None:
        contract = json.loads((SAMPLES / f"{name}.json").read_text("utf-8"))
        self.calls: dict[str, dict[str, Any]] = contract["calls"]
        self._error: str = contract["error"]
        self._webhooks: dict[str, dict[str, str]] = contract["webhooks"]
        self._shapes: dict[str, Any] = contract["shapes"]

    def call(self, method: str, path: str) -> str | None:
        """The call as it is published; the one with the fewest gaps, where several fit."""
        found = [call for call in self.calls if re.fullmatch(_pattern(call), f"{method} {path}")]
        return min(found, key=lambda call: call.count("*"), default=None)

    def problems(self, method: str, path: str, status: int, body: bytes) -> list[str]:
        """What an answer has that is not published, or lacks."""
        where = f"{method} {path} {status}"
        if status >= 400:
            return self._judge(self._error, json.loads(body), where, status)
        answers = self.calls.get(self.call(method, path) or "", {})
        if str(status) not in answers:
            return [f"{where}: nobody published this answer"]
        shape = answers[str(status)]
        return self._judge(shape, json.loads(body), where, status) if shape else [f"{where}: a body"] if body else []

    def webhook_problems(self, kind: str, webhook: Any) -> list[str]:
        """The same of a webhook, the value of a body or the fields of a form."""
        return self._judge(self._webhooks[kind]["shape"], webhook, kind, 0)

    def _judge(self, kind: Any, value: Any, where: str, status: int) -> list[str]:
        if isinstance(kind, dict):
            return self._fields(kind, value, where, status)
        either = [self._one(one, value, where, status) for one in kind.split("|")]
        return min(either, key=len)

    def _one(self, kind: str, value: Any, where: str, status: int) -> list[str]:
        if kind in self._shapes:
            return self._judge(self._shapes[kind], value, where, status)
        if kind.startswith("[") and isinstance(value, list):
            parts = [self._one(kind[1:-1], one, f"{where}[{index}]", status) for index, one in enumerate(value)]
            return [problem for part in parts for problem in part]
        return [] if _is(kind, value, status) else [f"{where} is {value!r}, not {kind}"]

    def _fields(self, shape: dict[str, Any], value: Any, where: str, status: int) -> list[str]:
        if not isinstance(value, dict):
            return [f"{where} is {value!r}, no object"]
        known = {name.removesuffix("?"): kind for name, kind in shape.items()}
        problems = [f"{where}.{name} is invented" for name in sorted(set(value) - set(known))]
        problems += [f"{where}.{name} is missing" for name in shape if not name.endswith("?") and name not in value]
        for name in set(value) & set(known):
            problems += self._judge(known[name], value[name], f"{where}.{name}", status)
        return problems


def _pattern(call: str) -> str:
    return re.escape(call).replace(r"\*", r"[^/.]+" if "2010-04-01" in call else r"[^/]+").replace(r"\ ", " ")


def _is(kind: str, value: Any, status: int) -> bool:
    if kind.startswith("="):
        return value in kind[1:].split(",")
    match kind:
        case "null":
            return value is None
        case "flag":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "http_status":
            return bool(value == status)
        case "{}":
            return isinstance(value, dict)
    try:
        return isinstance(value, str) and bool(TEXTS[kind](value))
    except ValueError:
        return False
