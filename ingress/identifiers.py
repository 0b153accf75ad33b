"""Identifiers: time-ordered ones that the service makes, and the ones that follow from other facts."""

import hashlib
import os
import time
from uuid import UUID

from providers import Contact
from providers.messages import phone_key


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562): rows made together lie together in an index."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10), "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    return UUID(int=(value & ~(0x3 << 62)) | (0x2 << 62))


def parse_id(text: str) -> UUID | None:
    """The UUID in *text*, or None: what is no id names nothing."""
    try:
        return UUID(text)
    except ValueError:
        return None


def key_hash(key: str) -> bytes:
    """16 bytes that stand for a deduplication key."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def conversation_id(organization_id: UUID, sender: str, contact: Contact | None, group_id: str | None) -> UUID:
    """The conversation of a business number with a person or group: the same for every provider that carries it.

    A person is known by the phone where there is one, else by the id the provider gives.
    """
    if group_id:
        person = f"group:{group_id}"
    elif contact and contact.phone:
        person = f"phone:{phone_key(contact.phone)}"
    elif contact:
        person = f"id:{contact.user_id or contact.lid or contact.username or ''}"
    else:
        person = ""
    digest = hashlib.blake2b(f"{sender}\x1f{person}".encode(), digest_size=16, key=organization_id.bytes)
    return UUID(bytes=digest.digest())
