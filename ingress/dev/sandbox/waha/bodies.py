"""Addresses, ids, signatures and envelopes as WAHA writes them.

Source: https://waha.devlike.pro/docs/how-to/events
"""

import hashlib
import hmac
import json
import random
import re
import time
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from .server import WahaServer

Body = dict[str, Any]
# WPP (WPPConnect) drives a browser as WEBJS does, and is taken to answer as it does: nobody has recorded it.
Engine = Literal["WEBJS", "WPP", "NOWEB", "GOWS"]
IN_BROWSER = ("WEBJS", "WPP")

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


class WahaSession(msgspec.Struct, frozen=True, kw_only=True):
    """One session of a WAHA server with everything that the gateway's configuration of it needs."""

    name: str
    phone: str  # E.164: of the phone that links itself
    api_key: str  # for this session alone
    hmac_key: str
    engine: Engine = "GOWS"

    def config_data(self, base_url: str) -> dict[str, str]:
        """The same as `POST …/provider/configure` wants it."""
        return {
            "base_url": base_url,
            "api_key": self.api_key,
            "hmac_key": self.hmac_key,
            "session": self.name,
            "phone_number": self.phone,
        }


def example_session(index: int = 1, engine: Engine = "GOWS") -> WahaSession:
    """An invented session, a different one for each *index*. All share nothing but their shape."""
    return WahaSession(
        name=f"sandbox-{index}",
        phone=f"+1556{index:07d}",
        api_key=f"waha-sandbox-key-{index}",
        hmac_key=hashlib.sha256(f"hmac {index}".encode()).hexdigest(),
        engine=engine,
    )


# ---------------------------------------------------------------- addresses and ids


def digits_of(phone: str) -> str:
    return re.sub(r"\D", "", phone)


def chat_of(phone: str) -> str:
    return f"{digits_of(phone)}@c.us"


def lid_of(phone: str) -> str:
    """The hidden number that stands for *phone* everywhere in the sandbox; as long as a phone number."""
    digest = hashlib.sha256(digits_of(phone).encode()).hexdigest()
    return f"{10**13 + int(digest[:14], 16) % 10**13}@lid"


def wire(chat: str) -> str:
    """*chat* as the protocol itself has it."""
    return chat.replace("@c.us", "@s.whatsapp.net")


def is_group(chat: str) -> bool:
    return chat.endswith("@g.us")


def account_of(phone: str) -> Body:
    """The ``me`` of a session that is linked to *phone*."""
    return {
        "id": chat_of(phone),
        "pushName": "Sandbox 🧱",
        "lid": lid_of(phone),
        "jid": f"{digits_of(phone)}:12@s.whatsapp.net",
    }


def serialized(from_me: bool, chat: str, bare: str, participant: str | None = None) -> str:
    """The whole id of a message."""
    parts = ["true" if from_me else "false", chat, bare, participant]
    return "_".join(part for part in parts if part is not None)


def new_bare_id(engine: Engine, rng: random.Random) -> str:
    """An id of a message as the engine's library makes them."""
    if engine in IN_BROWSER:
        return rng.randbytes(16).hex().upper()
    return ("3EB0" if engine == "GOWS" else "3A3B") + rng.randbytes(9).hex().upper()


def new_event_id(rng: random.Random) -> str:
    """``evt_`` and a lower-case ULID."""
    number = int(time.time() * 1000) << 80 | rng.getrandbits(80)
    return "evt_" + "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


# ---------------------------------------------------------------- webhooks


class News(msgspec.Struct, frozen=True):
    """What webhooks post: the names of the event (a message of somebody has two), and the payload."""

    events: tuple[str, ...]
    payload: Body


def environment(server: WahaServer, engine: Engine) -> Body:
    return {
        "version": server.version,
        "engine": engine,
        "tier": server.tier,
        "browser": "/usr/bin/chromium" if engine in IN_BROWSER else None,
        "platform": "linux/x64",
        "worker": {"id": None},
    }


def waha_envelope(
    event: str,
    payload: Body,
    server: WahaServer,
    *,
    event_id: str,
    session: str,
    engine: Engine,
    me: Body | None,
    metadata: Body | None,
) -> Body:
    """The whole body of one webhook. What is not known is left out."""
    about = {"metadata": metadata, "me": me}
    return {
        "id": event_id,
        "timestamp": int(time.time() * 1000),
        "event": event,
        "session": session,
        **{name: value for name, value in about.items() if value},
        "payload": payload,
        "engine": engine,
        "environment": environment(server, engine),
    }


def waha_encode(body: Any) -> bytes:
    """*body* as JavaScript spells it: compact, and without escapes where none is needed."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def waha_signature(key: str, raw: bytes) -> str:
    """The value of ``X-Webhook-Hmac`` for these bytes."""
    return hmac.digest(key.encode(), raw, "sha512").hex()


def waha_headers(
    raw: bytes, version: str, *, request_id: str, key: str | None, custom: Iterable[tuple[str, str]] = ()
) -> dict[str, str]:
    """Those of one delivery, the same for all its tries. Without *key* nothing is signed."""
    signed = {"X-Webhook-Hmac": waha_signature(key, raw), "X-Webhook-Hmac-Algorithm": "sha512"} if key else {}
    return {
        **dict(custom),
        "Content-Type": "application/json",
        "User-Agent": f"WAHA/{version}",
        "X-Webhook-Request-Id": request_id,
        "X-Webhook-Timestamp": str(int(time.time() * 1000)),
        **signed,
    }
