"""Webhooks of WAHA that are neither messages nor receipts: the session, calls, and what changes nothing here.

Source: https://waha.devlike.pro/docs/how-to/events, https://waha.devlike.pro/docs/how-to/sessions,
    and the webhooks in tests/samples/whatsapp_web.
"""

from .._values import Object, mapping, present, text, word
from ..messages import Event
from .account import sessions
from .addresses import first_jid, is_group, jid, person
from .delivery import Delivery, Reader, identity_of, people_of, poll_of


def _session(delivery: Delivery) -> Event:
    item = delivery.item
    state = sessions.state_of(item)
    punished = [reason for _, reason in sessions.restrictions(delivery.me)]
    details = present(
        state=state.word,
        status=text(item, "status"),
        data=item.get("data"),
        restrictions=punished,
        statuses=item.get("statuses"),
    )
    health = "degraded" if punished and state.word == "working" else state.health
    return delivery.update("session", delivery.payload, details=details, health=health)


def _twins(data: Object) -> tuple[object, object]:
    """The phone behind a hidden number: of NOWEB, and of GOWS."""
    return data.get("callerPn"), mapping(mapping(data, "Data"), "Attrs").get("caller_pn")


def _call(delivery: Delivery) -> Event:
    item = delivery.item
    call_id, data = word(item, "id"), mapping(item, "_data")
    return delivery.update_of(
        delivery.field.replace(".", "_"),
        item,
        key=delivery.key(delivery.field, call_id) if call_id else None,
        details=present(call_id=call_id, video=item.get("isVideo"), group=item.get("isGroup")),
        contact=person(*map(jid, (item.get("from"), *_twins(data)))),
    )


def _other(delivery: Delivery) -> Event:
    """News that change nothing here; the payload may be missing. All of it is in the event's raw."""
    item = delivery.payload if isinstance(delivery.payload, dict) else {}
    address = first_jid(mapping(item, "group").get("id"), item.get("id"), item.get("from"))
    group_id = address if is_group(address) else None
    return delivery.update_of(delivery.field.replace(".", "_"), item, contact=person(address), group_id=group_id)


def waiting(delivery: Delivery) -> Event:
    """A message that cannot be decrypted yet: the message itself may follow, with the same id."""
    item = delivery.item
    identity = identity_of(item)
    return delivery.update_of(
        "message_waiting",
        item,
        key=delivery.key("message.waiting", identity.bare),
        details={"message_id": identity.public},
        **people_of(item, identity),
    )


def _failed_vote(delivery: Delivery) -> Event:
    """A vote that could not be decrypted: what was chosen is not known."""
    vote = mapping(delivery.item, "vote")
    identity = identity_of(vote)
    return delivery.update_of(
        "poll_vote_failed",
        vote,
        key=delivery.key(delivery.field, identity.bare),
        details=present(message_id=identity.public, poll_id=poll_of(delivery.item)),
        **people_of(vote, identity),
    )


READERS: dict[str, Reader] = {
    "session.status": _session,
    "message.waiting": waiting,
    "poll.vote.failed": _failed_vote,
    "call.received": _call,
    "call.accepted": _call,
    "call.rejected": _call,
    **dict.fromkeys(
        (
            "chat.archive",
            "engine.event",
            "event.response",
            "event.response.failed",
            "group.join",
            "group.leave",
            "group.v2.join",
            "group.v2.leave",
            "group.v2.participants",
            "group.v2.update",
            "label.chat.added",
            "label.chat.deleted",
            "label.deleted",
            "label.upsert",
            "presence.update",
            "state.change",
        ),
        _other,
    ),
}
