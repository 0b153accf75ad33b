"""Addresses and message ids of WhatsApp Web, as WAHA writes them.

A message has one id in all that leaves this provider: what we sent has its bare id, because statuses name it now
under the phone and now under the hidden number of the same chat; what others wrote has its whole id as received,
because only that can be reacted to, quoted and marked as read.

Source: https://waha.devlike.pro/docs/how-to/send-messages/#chatid,
    https://waha.devlike.pro/docs/how-to/contacts/#lids,
    and samples seen in the field: tests/samples/whatsapp_web.
"""

import hashlib
import re
from typing import Any

import msgspec

from .._values import Object, phone, word
from .._verdicts import unsupported
from ..messages import Contact, Recipient

_DEVICE = re.compile(r"[.:].*")  # `:12` is a device, `.0` an agent
_LID = re.compile(r"[0-9]{1,20}@lid")
_ID_PREFIX = "3EB0"
_ID_HEX = 18  # digits after the prefix, as both libraries that take an id from us write their own
# The service's own correlation ids: a message, whose id is a UUIDv7 of this time, and the number of the attempt.
_MESSAGE = "01[0-9a-f]{10}7[0-9a-f]{3}[89ab][0-9a-f]{15}"
_CORRELATION = re.compile(rf"gw1:({_MESSAGE}):(1[0-5]|[1-9])")
_CORRELATED = re.compile(rf"3eb0({_MESSAGE})([1-9a-f])([0-9a-f]{{3}})")


class MessageId(msgspec.Struct, frozen=True, gc=False):
    """A serialized id in its parts, ``{fromMe}_{chat}_{bare}[_{participant}]``, the last only in groups."""

    from_me: bool
    raw_chat: str
    bare: str
    raw_participant: str | None = None

    @property
    def chat(self) -> str:
        return normalized(self.raw_chat)

    @property
    def public(self) -> str:
        """The one id of the message, for whoever is outside of this provider."""
        return self.bare if self.from_me else self.serialized

    @property
    def serialized(self) -> str:
        parts = ["true" if self.from_me else "false", self.raw_chat, self.bare, self.raw_participant]
        return "_".join(part for part in parts if part is not None)

    def of(self, other: str) -> "MessageId":
        """Another message of the same author in the same chat."""
        return msgspec.structs.replace(self, bare=bare_id(other))

    def __repr__(self) -> str:
        return "MessageId(…)"


def message_id(text: Any) -> MessageId | None:
    """The id that *text* serializes, None where it is a bare id or none at all."""
    parts = text.split("_", 3) if isinstance(text, str) else []
    if len(parts) < 3 or parts[0] not in ("true", "false") or not parts[2]:
        return None
    return MessageId(parts[0] == "true", parts[1], parts[2], parts[3] if len(parts) > 3 else None)


def public_id(text: str) -> str:
    """The one id of the message that *text* names, be it serialized or bare."""
    parts = message_id(text)
    return text if parts is None else parts.public


def bare_id(text: str) -> str:
    """The bare id of the message that *text* names, be it serialized or bare."""
    parts = message_id(text)
    return text if parts is None else parts.bare


def serialized_id(identity: str, chat: str, own_phone: str | None) -> str:
    """*identity*, one of ours, as WAHA takes it: a bare one is that of a message we wrote to *chat*."""
    if message_id(identity) is not None:
        return identity
    author = f"_{own_phone[1:]}@c.us" if own_phone and is_group(chat) else ""
    return f"true_{chat}_{identity}{author}"


def chosen_id(correlation_id: str) -> str:
    """The bare id we give a message, where the engine takes one: always the same for the same correlation id.

    That of the service is in it, for acks and echoes to bring it back (`correlation_in`), which takes 36 digits after
    the prefix, as in ids of Baileys' `generateMessageID`. Any other is digested, and can only be asked for.
    """
    if match := _CORRELATION.fullmatch(correlation_id):
        digits = f"{match[1]}{int(match[2]):x}"
        return f"{_ID_PREFIX}{digits}{_check_digits(digits)}".upper()
    return _ID_PREFIX + hashlib.sha256(correlation_id.encode()).hexdigest()[:_ID_HEX].upper()


def correlation_in(bare: str) -> str | None:
    """The correlation id that `chosen_id` made *bare* of; None where *bare* is somebody else's, or a digest.

    One in 70 million of others' ids of this length passes for one of ours.
    """
    match = _CORRELATED.fullmatch(bare.lower()) if len(bare) == 40 else None
    if match is None or match[3] != _check_digits(match[1] + match[2]):
        return None
    return f"gw1:{match[1]}:{int(match[2], 16)}"


def _check_digits(digits: str) -> str:
    return hashlib.sha256(digits.encode()).hexdigest()[:3]


def id_in(answer: Object) -> str | None:
    """The id of the message in an engine's *answer*; a bare one, where that is all it says. None where it has none.

    GOWS writes text, WEBJS its library's object (``$1`` since July 2026), NOWEB a Baileys key.
    """
    identity, key = answer.get("id"), answer.get("key")
    if isinstance(identity, dict):
        return word(identity, "_serialized") or word(identity, "$1") or joined(identity, "remote")
    if isinstance(identity, str) and identity:
        return identity
    return joined(key, "remoteJid") if isinstance(key, dict) else None


def joined(key: Object, chat_name: str) -> str | None:
    """The id that a message's *key* says in parts, the chat under *chat_name*."""
    chat, bare, participant = jid(key.get(chat_name)), word(key, "id"), jid(key.get("participant"))
    if chat is None or bare is None:
        return None
    return MessageId(key.get("fromMe") is True, chat, bare, participant).serialized


def jid(value: Any) -> str | None:
    """An address, normalized; from text or from WEBJS's object. The literal ``me`` of polls is none."""
    if isinstance(value, dict):
        value = value.get("_serialized") or f"{value.get('user')}@{value.get('server')}"
    return normalized(value) if isinstance(value, str) and "@" in value else None


def first_jid(*values: Any) -> str | None:
    """The first of *values* that is an address."""
    return next((address for value in values if (address := jid(value))), None)


def normalized(address: str) -> str:
    """``s.whatsapp.net`` and ``c.us`` are the same, and a device is not somebody else."""
    user, _, server = address.partition("@")
    if server == "s.whatsapp.net":
        server = "c.us"
    if server in ("c.us", "lid"):
        user = _DEVICE.sub("", user)
    return f"{user}@{server}"


def is_group(address: str | None) -> bool:
    return address is not None and address.endswith("@g.us")


def phone_in(address: str | None) -> str | None:
    """E.164, where the address shows a phone. A hidden number is all digits as well and never is one."""
    user, _, server = (address or "").partition("@")
    return phone(user) if server == "c.us" else None


def phone_of(me: Object) -> str | None:
    """The number of the phone that is linked, which *me* describes."""
    return phone_in(jid(me.get("id")))


def person(*addresses: str | None, name: str | None = None) -> Contact | None:
    """The person whose addresses these are; None where they show nobody."""
    number = next((known for address in addresses if (known := phone_in(address))), None)
    lid = next((address for address in addresses if address and _LID.fullmatch(address)), None)
    if number is None and lid is None:
        return None
    return Contact(phone=number, lid=lid, name=name or None)


def chat_of(to: Recipient) -> str:
    """WAHA's ``chatId``. `Unsupported` where only an id of another provider is known."""
    if to.phone is not None:
        return f"{to.phone[1:]}@c.us"
    lid = f"{(to.lid or '').removesuffix('@lid')}@lid"
    if _LID.fullmatch(lid):
        return lid
    if to.group_id is not None and is_group(to.group_id):
        return to.group_id
    raise unsupported("recipient", "a phone, a hidden number (lid) or a group is needed")
