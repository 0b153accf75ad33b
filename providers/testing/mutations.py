"""Samples damaged on purpose: what a provider, or somebody who is none, might send instead.

Everything here takes its choices from a `random.Random`: a seeded one repeats them, hypothesis's own finds the
smallest that breaks something.
"""

from functools import lru_cache
from random import Random
from typing import Any
from urllib.parse import parse_qsl, quote_plus

import msgspec

from ..base import Response, Webhook
from ..errors import SendError, Unavailable, Uncertain

# Values that have broken parsers: wrong types, limits of numbers, halves of characters, what databases refuse.
_ODD = (
    b"null", b"true", b"false", b"0", b"-1", b"1.5", b"1e400", b"-1e400", b"NaN", b"9" * 40, b"9" * 400, b"1e308",
    b"1793801400",
    b'""', b'"x"', b'"0"', b'"-1"', b'"NaN"', b'"1e999"', b'"\\u0000"', b'"\\ud83d"', b'"\\udc00\\ud800"',
    b'"2026-13-45T99:99:99Z"', b'"+15005550100"', b'"whatsapp:+15005550100"', b'"15005550100@c.us"', b'"a@g.us"',
    b'"https://[/x"', b'"true_1@c.us_A"', b'"' + b"A" * 3000 + b'"', b"[]", b"{}", b"[null]", b"[[]]", b"[{}]",
    b'{"":null}', b'{"id":null,"type":1}', b'{"id":"1","type":"hologram"}', b"[" * 80 + b"]" * 80,
)  # fmt: skip
_ODD_TEXTS = (
    "", " ", "0", "-1", "NaN", "1e999", "9" * 400, "true", "null", "failed", "{", "[]", "\0", "\ufffd", "é" * 50,
    "Fri, 31 Dec 9999 23:59:59 -1200", "whatsapp:", "whatsapp:BR.1", "+15005550100", "https://[/x", "2026-13-45",
    "a\nb", "&=%",
)  # fmt: skip
_STATUSES = (
    200, 201, 202, 204, 301, 302, 307, 400, 401, 403, 404, 405, 408, 409, 410, 413, 418, 422, 425, 429,
    500, 501, 502, 503, 504, 599,
)  # fmt: skip
_HEADERS = ("retry-after", "location", "content-type", "date")
_KINDS = ("application/json", "application/x-www-form-urlencoded", "", "text/xml")
_CHARACTERS = "09afAFz=+/,é\ud800"

Path = tuple[Any, ...]


def damaged(hook: Webhook, random: Random) -> Webhook:
    """*hook* with something in its body replaced, missing, repeated or cut, by the grammar of the body or across it."""
    body, headers = hook.body, hook.headers
    for _ in range(random.randint(1, 3)):
        body = _damaged(body, random)
    if random.randrange(16) == 0:
        headers = {**headers, "content-type": random.choice(_KINDS)}
    return msgspec.structs.replace(hook, headers=headers, body=body)


def forged(hook: Webhook, signed_by: list[str], random: Random, *, body: bool = True) -> Webhook:
    """*hook* with one byte of its body, or one character of a header of *signed_by*, another, one more, or one less.

    Letters do not only change their case: hex digits have none.
    """
    if body and hook.body and random.randrange(2):
        return msgspec.structs.replace(hook, body=_one_byte_off(hook.body, random))
    name = random.choice(signed_by)
    value, change = hook.headers[name], random.randrange(5)
    if change == 0 or not value:
        headers = {key: held for key, held in hook.headers.items() if key != name}
        return msgspec.structs.replace(hook, headers=headers)
    at = random.randrange(len(value))
    given = random.choice([one for one in _CHARACTERS if one.casefold() != value[at].casefold()])
    head, tail = value[:at], value[at + 1 :]
    # Twice as often another character: the length alone gives the others away.
    other = (head + given + tail, head + given + tail, head + given + value[at:], head + tail)[change - 1]
    return msgspec.structs.replace(hook, headers={**hook.headers, name: other})


def answers(samples: list[Response], random: Random) -> list[Response | SendError]:
    """Up to six answers to calls: any status, the body of a sample, damaged or not. The last may be a dead line."""
    found: list[Response | SendError] = [_answer(random.choice(samples), random) for _ in range(random.randint(1, 6))]
    if random.randrange(4) == 0:
        found.append(random.choice([Unavailable("refused", code="transport"), Uncertain("reset", code="transport")]))
    return found


def _answer(sample: Response, random: Random) -> Response:
    body, status, headers = sample.body, sample.status, dict(sample.headers)
    if random.randrange(3):
        body = _damaged(body, random)
    if random.randrange(3) == 0:
        status = random.choice(_STATUSES)
    if random.randrange(3) == 0:
        headers[random.choice(_HEADERS)] = random.choice(_ODD_TEXTS)
    return Response(status=status, headers=headers, body=body)


def with_texts(body: bytes, text: str) -> bytes:
    """*body* with *text* in the place of every text of it; where it is no JSON, *text* itself."""
    value = _json(body)
    return text.encode() if value is None else msgspec.json.encode(_replaced_texts(value, text))


def _replaced_texts(value: Any, text: str) -> Any:
    if isinstance(value, dict):
        return {key: _replaced_texts(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced_texts(item, text) for item in value]
    return text if isinstance(value, str) else value


# ---------------------------------------------------------------- by the grammar of the body


def _damaged(body: bytes, random: Random) -> bytes:
    if not body or random.randrange(5) == 0:
        return _across(body, random)
    value = _json(body)
    if isinstance(value, dict | list):
        return _damaged_json(body, value, random)
    return _damaged_form(body, random) if b"=" in body else _across(body, random)


def _damaged_json(body: bytes, value: Any, random: Random) -> bytes:
    places = _places(body)
    path, change = random.choice(places), random.randrange(8)
    item: Any
    if change == 0:
        return _without(value, path)
    if change == 1:
        item = _at(value, random.choice(places))
    elif change == 2:
        item = [_at(value, path)] * random.randrange(4)
    else:
        item = msgspec.Raw(random.choice(_ODD))
    # Encoded apart, because a place written into itself would be a circle.
    return _with(value, path, msgspec.Raw(msgspec.json.encode(item)))


def _damaged_form(body: bytes, random: Random) -> bytes:
    fields = list(_fields(body)) or [("", "")]
    at, change = random.randrange(len(fields)), random.randrange(6)
    name, value = fields[at]
    if change == 0:
        del fields[at]
    elif change == 1:
        fields.append(random.choice(fields))
    elif change == 2:
        fields[at] = (random.choice(fields)[0], value)
    else:
        fields[at] = (name, random.choice(_ODD_TEXTS))
    return "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in fields).encode()


def _across(body: bytes, random: Random) -> bytes:
    """Without regard to what it says."""
    change = random.randrange(5)
    if not body or change == 0:
        return bytes(random.randrange(256) for _ in range(random.randrange(12)))
    at = random.randrange(len(body))
    if change == 1:
        return body[:at]
    if change == 2:
        return body[:at] + body[random.randrange(len(body)) :]
    return _one_byte_off(body, random)


def _one_byte_off(body: bytes, random: Random) -> bytes:
    """One byte replaced (as often as not), inserted or taken out."""
    at, given = random.randrange(len(body)), random.randrange(255)
    other = bytes([given + (given >= body[at])])  # any but the one that is there
    change = random.randrange(4)
    if change == 0:
        return body[:at] + body[at + 1 :]
    return body[:at] + other + (body[at:] if change == 1 else body[at + 1 :])


# ---------------------------------------------------------------- JSON


@lru_cache(1024)
def _places(body: bytes) -> list[Path]:
    """Every place in the JSON of *body*, the whole of it last."""
    found: list[Path] = []

    def walk(value: Any, path: Path) -> None:
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in inner:
            walk(item, (*path, key))
        found.append(path)

    walk(_json(body), ())
    return found


@lru_cache(1024)
def _fields(body: bytes) -> tuple[tuple[str, str], ...]:
    return tuple(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def _json(body: bytes) -> Any:
    """The value that *body* is as JSON, None where it is none. A new one each time: it may be changed."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def _with(value: Any, path: Path, item: msgspec.Raw) -> bytes:
    """*value* as JSON with *item* at *path*."""
    if not path:
        return bytes(item)
    _at(value, path[:-1])[path[-1]] = item
    return msgspec.json.encode(value)


def _without(value: Any, path: Path) -> bytes:
    """*value* as JSON without what is at *path*."""
    if not path:
        return b""
    del _at(value, path[:-1])[path[-1]]
    return msgspec.json.encode(value)
