"""Webhooks of the WhatsApp Cloud API about people and groups that are not messages.

Consent, calls, payments, groups, notices about the number, and what a phone app on the same number brings:
its history, its address book, and the copies while Meta's own agent answers.
Source: https://developers.facebook.com/docs/whatsapp/cloud-api/webhooks/components.
"""

from collections.abc import Callable, Iterator
from decimal import Decimal

from .._values import (
    Object,
    decimal,
    error_infos,
    first_phone,
    listed,
    mapping,
    objects,
    phone,
    present,
    required,
    text,
    word,
    written,
)
from ..messages import Contact, Event, Health
from .change import FieldChange, Reader, items
from .errors import reported

# ---------------------------------------------------------------- people


def _preference(change: FieldChange, item: Object) -> Event:
    details = present(preference=required(item, "value"), category=word(item, "category"), detail=text(item, "detail"))
    contact = change.person(item.get("wa_id"), item.get("user_id"))
    return change.update("marketing_preference", item, at=item.get("timestamp"), details=details, contact=contact)


def _address_book(change: FieldChange, item: Object) -> Event:
    person = mapping(item, "contact")
    details = present(
        action=required(item, "action"),
        phone=phone(person.get("phone_number")),
        user_id=word(person, "user_id"),
        name=text(person, "full_name") or text(person, "first_name"),
    )
    return change.update("contact_sync", item, at=mapping(item, "metadata").get("timestamp"), details=details)


# ---------------------------------------------------------------- calls and payments


def _call(change: FieldChange, item: Object) -> Event:
    call_id, event = required(item, "id"), required(item, "event")
    inbound = word(item, "direction") != "BUSINESS_INITIATED"
    details = present(
        call_id=call_id,
        event=event,
        direction="inbound" if inbound else "outbound",
        call_status=word(item, "status"),
        started_at=written(item.get("start_time")),
        ended_at=written(item.get("end_time")),
        duration_s=word(item, "duration"),
    )
    return _about(change, item, "call", f"{call_id}|{event}", details, person="from" if inbound else "to")


def _call_status(change: FieldChange, item: Object) -> Event:
    call_id, event = required(item, "id"), required(item, "status")
    return _about(change, item, "call_status", f"{call_id}|{event}", {"call_id": call_id, "event": event})


def payment_status(change: FieldChange, item: Object) -> Event:
    """A payment, which shares the list of the message statuses: a failed payment is no failed message."""
    message_id, status = required(item, "id"), required(item, "status")
    payment = mapping(item, "payment")
    details = present(
        reference_id=word(payment, "reference_id"),
        status=status,
        amount=_amount(mapping(payment, "amount")),
        currency=word(payment, "currency"),
    )
    key = f"{message_id}|payment|{status}|{item.get('timestamp')}"
    return _about(change, item, "payment_status", key, {"message_id": message_id, "payment": details})


def _about(
    change: FieldChange, item: Object, kind: str, key: str, details: Object, *, person: str = "recipient_id"
) -> Event:
    """News of a call or a payment. *person* is where the number of whoever is at the other end stands."""
    return change.update(
        kind,
        item,
        key=key,
        at=item.get("timestamp"),
        details=details,
        contact=change.person(item.get(person), item.get(f"{person.removesuffix('_id')}_user_id")),
        correlation_id=text(item, "biz_opaque_callback_data"),
    )


_LONGEST_OFFSET = 10


def _amount(amount: Object) -> str | None:
    """A sum as decimal text: 50000 of 1/100 is 500.00."""
    value, offset = decimal(amount.get("value")), word(amount, "offset") or "1"
    if value is None or "." in value or offset.strip("0") != "1" or len(offset) > _LONGEST_OFFSET:
        return None
    return format(Decimal(value).scaleb(1 - len(offset)), "f")


# ---------------------------------------------------------------- groups

_GROUP_LISTS = ("added_participants", "removed_participants", "failed_participants")


def _group(change: FieldChange, item: Object) -> Event:
    group_id = word(item, "group_id")
    details = present(
        event=required(item, "type"),
        group_id=group_id,
        participants=_participants(item),
        subject=text(item, "subject"),
        reason=text(item, "reason"),
        **{name: word(item, name) for name in ("request_id", "join_request_id", "initiated_by")},
    )
    errors = [reported(error, "G") for error in objects(item, "errors")]
    return change.update("group", item, at=item.get("timestamp"), details=details, errors=errors, group_id=group_id)


def _participants(item: Object) -> list[str]:
    people = [*(person for key in _GROUP_LISTS for person in objects(item, key)), item]
    return [*filter(None, map(_participant, people))]


def _participant(person: Object) -> str | None:
    return first_phone(person.get("wa_id"), person.get("input")) or word(person, "user_id")


# ---------------------------------------------------------------- coexistence with the phone app


def _history(change: FieldChange) -> Iterator[Event]:
    """Old messages, imported quietly: none of them is a new message, whatever the list it comes in."""
    yield from items(change, "history", _history_chunk)
    if messages := listed(change.value, "messages"):
        ids = [word(message, "id") for message in objects(change.value, "messages")]
        yield change.update("history_media", messages, details={"provider_message_ids": ids})


def _history_chunk(change: FieldChange, chunk: Object) -> Event:
    if listed(chunk, "errors"):
        return change.update("history_declined", chunk, errors=error_infos(chunk))
    metadata, threads = mapping(chunk, "metadata"), objects(chunk, "threads")
    details = present(
        phase=metadata.get("phase"),
        chunk_order=metadata.get("chunk_order"),
        progress=metadata.get("progress"),
        threads=len(threads),
        messages=sum(len(listed(thread, "messages")) for thread in threads),
    )
    return change.update("history", chunk, details=details)


def _standby(change: FieldChange) -> Iterator[Event]:
    """Passive copies, while Meta's own agent holds the conversation."""
    for key in ("messages", "message_echoes", "statuses"):
        yield from items(change, key, _standby_item)


def _standby_item(change: FieldChange, item: Object) -> Event:
    contact: Contact | None = change.person(item.get("from"), item.get("from_user_id"))
    details = present(message_id=required(item, "id"), message_type=word(item, "type"), status=word(item, "status"))
    return change.update("standby", item, at=item.get("timestamp"), details=details, contact=contact)


# ---------------------------------------------------------------- notices


def notice(change: FieldChange, error: Object) -> Event:
    """An error that belongs to no message: a notice about the number."""
    info = reported(error, "I")
    health = _HEALTH_OF_CLASS.get(info.class_ or "")
    return change.update("error", error, errors=[info], health=health)


_HEALTH_OF_CLASS: dict[str, Health] = {"Throttled": "degraded", "Restricted": "degraded", "AccountBroken": "retest"}

# ---------------------------------------------------------------- the table


def _each(**readers: Callable[[FieldChange, Object], Event]) -> Reader:
    """A field whose value holds lists of facts."""

    def read(change: FieldChange) -> Iterator[Event]:
        for key, reader in readers.items():
            yield from items(change, key, reader)
        yield from items(change, "errors", notice)

    return read


READERS: dict[str, Reader] = {
    "user_preferences": _each(user_preferences=_preference),
    "calls": _each(calls=_call, statuses=_call_status),
    "group_lifecycle_update": _each(groups=_group),
    "group_participants_update": _each(groups=_group),
    "group_settings_update": _each(groups=_group),
    "group_status_update": _each(groups=_group),
    "smb_app_state_sync": _each(state_sync=_address_book),
    "history": _history,
    "standby": _standby,
}
