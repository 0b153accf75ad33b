"""Identifiers: time-ordered ones that the service makes, and the ones that follow from other facts."""

import hashlib
import os
import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

# asyncpg's own subclass of UUID: made, hashed and written in C, ten times as fast where there are several a webhook.
from asyncpg.pgproto.pgproto import UUID as FastUUID

# What is the platform's own is stored under it, where a table wants an organization. None has it: theirs are UUIDv7.
PLATFORM_ID: UUID = FastUUID(bytes(16))
# Below and above all others.
FIRST_ID, LAST_ID = UUID(int=0), UUID(int=2**128 - 1)


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562): rows made together lie together in an index."""
    milliseconds = time.time_ns() // 1_000_000
    tail = _random(10)
    tail[0] = 0x70 | tail[0] & 0x0F  # version
    tail[2] = 0x80 | tail[2] & 0x3F  # variant
    made: UUID = FastUUID(milliseconds.to_bytes(6, "big") + tail)
    return made


def id_at(moment: datetime) -> UUID:
    """The first UUIDv7 of *moment* (RFC 9562: 48 bits of milliseconds at its front), or, of one before 1970, of all."""
    return UUID(int=max(int(moment.timestamp() * 1000), 0) << 80)


_LAST_MS = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp() * 1000)


def moment_of(id: UUID) -> datetime:
    """When a UUIDv7 was made. Of another id any moment."""
    return datetime.fromtimestamp(min(id.int >> 80, _LAST_MS) / 1000, UTC)


def request_id() -> str:
    """What a request is called in its answer and in the log: like ids, rows made together lie together by it."""
    return f"req_{int(time.time()):08x}{_random(6).hex()}"


_pool = bytearray()


def _random(count: int) -> bytearray:
    """Bytes from the system's generator, fetched a page at a time: a call for each id would cost more than the id."""
    if len(_pool) < count:
        _pool.extend(os.urandom(4096))
    taken = _pool[-count:]
    del _pool[-count:]
    return taken


def parse_id(text: str) -> UUID | None:
    """The UUID in *text*, or None: what is no id names nothing."""
    try:
        return UUID(text)
    except ValueError:
        return None


def event_id(organization_id: UUID, sequence: int) -> str:
    """What the CRM knows an event by: its sequence, and the random half of the organization's UUIDv7."""
    return f"evt_{sequence:016x}{organization_id.bytes[8:].hex()}"


def parse_event_id(text: str, organization_id: UUID) -> int | None:
    """The sequence of the event that *text* names; None where that is none of the organization's."""
    digits = text.removeprefix("evt_")
    try:
        sequence = int(digits[:16], 16)
    except ValueError:
        return None
    named = f"evt_{digits}" == event_id(organization_id, sequence)
    return sequence if named and sequence < 1 << 63 else None


# Copied for each digest: to make a state takes three times as long.
_unkeyed = hashlib.blake2b(digest_size=16)


@lru_cache(1024)
def _keyed(organization_id: UUID) -> "hashlib.blake2b":
    return hashlib.blake2b(digest_size=16, key=organization_id.bytes)


def account_id(organization_id: UUID, config_id: UUID, provider_type: str, sender: str | None) -> UUID:
    """What a business number at a provider is known by within the organization: the same for every config of it.

    A config whose number is not known yet stands for itself.
    """
    return config_id if sender is None else _digest(organization_id, f"{provider_type}\x1f{sender}")


def _digest(organization_id: UUID, text: str) -> UUID:
    state = _keyed(organization_id).copy()
    state.update(text.encode())
    return FastUUID(state.digest())


def key_hash(key: str, account_id: UUID) -> bytes:
    """16 bytes that stand for a deduplication key of an account."""
    state = _unkeyed.copy()
    state.update(account_id.bytes)
    state.update(key.encode("utf-8", "surrogatepass"))
    return state.digest()


def idempotency_hash(organization_id: UUID, key: str) -> bytes:
    """16 bytes that stand for an idempotency key, by a digest that PostgreSQL has, too: it enters those it finds."""
    return hashlib.sha256(organization_id.bytes + key.encode()).digest()[:16]


def conversation_id(organization_id: UUID, account: str, contact_id: UUID | None, group_id: str | None) -> UUID:
    """The conversation of a business *account* with a person or group: the same for every provider that carries it.

    *account* is the number's key, or the config's id. Who has no address shares one with all such people.
    """
    other = f"group:{group_id}" if group_id else f"contact:{contact_id}"
    return _digest(organization_id, f"{account}\x1f{other}")


_CORRELATION = "gw1"
_NUMBER = re.compile("[0-9]{1,6}")  # not str.isdigit: that takes superscripts, which int refuses


def correlation(message_id: UUID, attempt: int) -> str:
    """What a send carries to the provider and back: `gw1:<message id>:<attempt>`. No personal data."""
    return f"{_CORRELATION}:{message_id.hex}:{attempt}"


def parse_correlation(text: str | None) -> tuple[UUID | None, int | None]:
    """(message id, attempt) of a correlation id that is ours, else (None, None): the number may be shared."""
    parts = (text or "").split(":")
    if len(parts) != 3 or parts[0] != _CORRELATION or not _NUMBER.fullmatch(parts[2]):
        return None, None
    message_id = parse_id(parts[1])
    return (message_id, int(parts[2])) if message_id else (None, None)
