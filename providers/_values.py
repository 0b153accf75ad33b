"""Single values of what providers send, read without trust: a wrong type is an absent value.

Every provider hands on WhatsApp's own values, so numbers, ids and times look alike in all of them.
Source: https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks/components,
    and samples seen in the field: tests/samples.
"""

import hashlib
import re
import unicodedata
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

from .messages import Contact, ErrorInfo

Object = dict[str, Any]

# A longer key is replaced by its digest: it goes into an index, where PostgreSQL takes 2,704 bytes.
MAX_KEY = 512
# No id, name or word of WhatsApp is longer. What all items of a webhook repeat must be short, or a body of megabytes
# becomes gigabytes of events.
MAX_WORD = 1024

_BUSINESS_SCOPED = re.compile(r"[A-Z]{2}\.(ENT\.)?[A-Za-z0-9]+")
_E164 = re.compile(r"[1-9][0-9]{6,14}")
# 15 digits, and a stroke or two between each of them. A cache keeps what strangers send: nothing that is long.
_LONGEST_PHONE = 40
_PUNCTUATION = re.compile(r"[\s+().-]")
# Ids of WhatsApp are far below it, and Python refuses to write out an integer of thousands of digits.
_LARGEST_ID = 10**40
_LARGEST = 10**9
_MOST_DIGITS = 28  # as many as `Decimal` keeps when it calculates
_LONGEST_DECIMAL = 100
# Seconds of this size are 30,000 years away, so they are milliseconds (seen in the field).
_MILLISECONDS_FROM = 10**12


class Unreadable(ValueError):
    """An item lacks what makes it one of its kind."""


# What reading an item of a shape nobody foresaw may raise. It costs that item, never its neighbours.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def text(holder: Object, key: str) -> str | None:
    value = holder.get(key)
    return value if isinstance(value, str) else None


def short(value: Any) -> str | None:
    """*value* where it is a text that is neither empty nor longer than any word."""
    return value if isinstance(value, str) and 0 < len(value) <= MAX_WORD else None


def word(holder: Object, key: str) -> str | None:
    """An id or a word; ids come as integers too. Empty is absent, and so is what is too long for one."""
    value = holder.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < _LARGEST_ID else None
    return short(value)


def required(holder: Object, key: str) -> str:
    value = word(holder, key)
    if value is None:
        raise Unreadable(key)
    return value


def mapping(holder: Object, key: str) -> Object:
    """An object, empty where there is none."""
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def listed(holder: Object, key: str) -> list[Any]:
    """The items of a list. What should be a list and is not counts as its only item: nothing vanishes."""
    value = holder.get(key)
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def objects(holder: Object, key: str) -> list[Object]:
    """The objects of a list; what else is in it is left out."""
    return [item for item in listed(holder, key) if isinstance(item, dict)]


def texts(holder: Object, key: str) -> list[str]:
    """The texts of a list; what else is in it is left out."""
    return [item for item in listed(holder, key) if isinstance(item, str)]


def flag(holder: Object, key: str) -> bool | None:
    """A boolean, which samples of groups also show as text."""
    value = holder.get(key)
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def number(holder: Object, key: str) -> float:
    """A number, or numeric text, of a size that quantities and places have."""
    value = holder.get(key)
    # The comparison also refuses NaN.
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not abs(read := float(value)) < _LARGEST:
        raise Unreadable(key)
    return read


def place(holder: Object, latitude: str, longitude: str) -> tuple[float, float]:
    """The two numbers under these keys as a place on earth; `Unreadable` where they are none."""
    found = number(holder, latitude), number(holder, longitude)
    if abs(found[0]) > 90 or abs(found[1]) > 180:
        raise Unreadable(latitude)
    return found


def decimal(value: Any) -> str | None:
    """A sum or a price as decimal text: they are never floats. A float's own text has the digits that were sent."""
    try:
        read = Decimal(str(value)[:_LONGEST_DECIMAL])
    except (ArithmeticError, ValueError):
        return None
    # Written out in full, an exponent of a billion would take as many bytes.
    exact = read.is_finite() and abs(read.adjusted()) <= _MOST_DIGITS and len(read.as_tuple().digits) <= _MOST_DIGITS
    return format(read, "f") if exact else None


def moment(value: Any) -> datetime | None:
    """Unix seconds or milliseconds, as a number or as text. None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        seconds = int(value)
        if seconds >= _MILLISECONDS_FROM:
            return datetime.fromtimestamp(seconds / 1000, UTC)
        return datetime.fromtimestamp(seconds, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def mail_date(value: str | None) -> datetime | None:
    """A time as mail and HTTP write it (RFC 2822, RFC 9110). None where it is none, or does not name its zone."""
    try:
        at = parsedate_to_datetime(value or "")
        return None if at.tzinfo is None else at.astimezone(UTC)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None


def written(value: Any) -> str | None:
    """The same as text, for places where plain JSON is wanted: RFC 3339, in UTC."""
    at = moment(value)
    return None if at is None else at.isoformat().replace("+00:00", "Z")


def phone(value: Any) -> str | None:
    """E.164 with the plus, from digits or from a number formatted for people. None for anything else."""
    return _phone(value) if isinstance(value, str) and len(value) <= _LONGEST_PHONE else None


def first_phone(*values: Any) -> str | None:
    """The first of *values* that is a number for `phone`."""
    return next(filter(None, map(phone, values)), None)


@lru_cache(1024)  # one number stands in a webhook several times, the business's own in all of them
def _phone(value: str) -> str | None:
    digits = value if _E164.fullmatch(value) else _PUNCTUATION.sub("", value)
    return f"+{digits}" if _E164.fullmatch(digits) else None


def is_user_id(value: Any) -> bool:
    """Whether *value* looks like a business-scoped user id: some bodies carry it where a number belongs."""
    return isinstance(value, str) and _BUSINESS_SCOPED.fullmatch(value) is not None


def contact_of(phone: str | None, user_id: str | None, **details: str | None) -> Contact | None:
    """A person with these ids; None where both are missing."""
    return Contact(phone=phone, user_id=user_id, **details) if phone or user_id else None


def error_infos(holder: Object) -> list[ErrorInfo]:
    """The ``errors`` of something that was not sent, so that they have no class."""
    return [error_info(error) for error in objects(holder, "errors")]


def error_info(error: Object, class_: str | None = None) -> ErrorInfo:
    """An error as webhooks carry it; ``error_data`` may be an object, a text, or missing."""
    return ErrorInfo(
        code=word(error, "code"),
        class_=class_,
        title=text(error, "title") or text(error, "message"),
        detail=text(mapping(error, "error_data"), "details") or text(error, "error_data") or text(error, "details"),
    )


def present(**details: Any) -> Object:
    """*details* without those that are None or an empty list."""
    return {name: value for name, value in details.items() if value is not None and value != []}


def safe_filename(name: str | None) -> str | None:
    """The last part of *name* without control characters: the sender chose it, and it may become a path."""
    if name is None:
        return None
    last = name.replace("\\", "/").rpartition("/")[2]
    last = "".join(letter for letter in last if unicodedata.category(letter) != "Cc")
    return None if last.strip(" .") == "" else last


def bounded(key: str) -> str:
    """*key*, or its digest where it is too long for an index."""
    return key if len(key) <= MAX_KEY else hashlib.sha256(key.encode()).hexdigest()
