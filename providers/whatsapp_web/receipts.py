"""Acks of WAHA: what became of the messages we sent.

Source: https://waha.devlike.pro/docs/how-to/events/#messageack,
    and the webhooks in tests/samples/whatsapp_web.
"""

from typing import Any

from .._values import Object, mapping, moment, text
from ..messages import Contact, Event, Status, StatusValue
from .addresses import MessageId, correlation_in, first_jid, is_group, person
from .delivery import Delivery, Reader, identity_of, people_of
from .errors import reported

_STATUSES: dict[str, StatusValue] = {
    "ERROR": "failed",
    "PENDING": "accepted",
    "SERVER": "sent",
    "DEVICE": "delivered",
    "READ": "read",
    "PLAYED": "played",
}
_ACKS = {-1: "ERROR", 0: "PENDING", 1: "SERVER", 2: "DEVICE", 3: "READ", 4: "PLAYED"}


def _ack(delivery: Delivery) -> Event:
    """A receipt. Its time is the webhook's: where there is one inside, it is that of the message."""
    item = delivery.item
    identity = identity_of(item)
    name = text(item, "ackName") or _ack_name(item.get("ack"))
    if not identity.from_me:
        # We read it on another device: nothing that was sent changes.
        return delivery.update(
            "ack_inbound",
            delivery.payload,
            key=delivery.key("ack", identity.bare, name),
            details={"message_id": identity.public, "ack": name},
            **people_of(item, identity),
        )
    member = _member(delivery, item, identity) if is_group(identity.chat) else None
    value = _STATUSES.get(name)
    error = mapping(item, "error")
    who = [member.phone or member.lid or ""] if member else []
    return delivery.event(
        # GOWS sends UNKNOWN without meaning anything by it.
        "message.unknown" if value is None else "message.status",
        delivery.payload,
        key=delivery.key("ack", identity.bare, name, *who),
        reported_at=moment(delivery.time),
        **people_of(item, identity),
        status=Status(
            provider_message_id=identity.public,
            value=value,
            raw_value=name if value is None else None,
            error=reported(error) if value == "failed" else None,
            participant=member,
        ),
        correlation_id=correlation_in(identity.bare),
    )


def _ack_name(ack: Any) -> str:
    return _ACKS.get(ack, "UNKNOWN") if isinstance(ack, int) else "UNKNOWN"


def _member(delivery: Delivery, item: Object, identity: MessageId) -> Contact | None:
    """Whose receipt it is. WEBJS writes ourselves there, for the receipt of the whole group."""
    address = first_jid(item.get("participant"), identity.raw_participant)
    return None if delivery.is_me(address) else person(address)


READERS: dict[str, Reader] = {"message.ack": _ack, "message.ack.group": _ack}
