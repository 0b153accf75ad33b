"""What was said in both directions, the newest first: of everybody, or of what somebody looks for."""

from collections import deque
from datetime import datetime
from typing import Any, Literal, cast
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from providers.messages import By

from ...envelope import Envelope, render
from ...identifiers import FIRST_ID
from ...storage.statements.events import StoredEvent
from ...storage.statements.reports import search
from ...storage.statements.reports.search import Found, MessageFilter
from ...storage.statements.sending.messages import StoredMessage
from ...web.bodies import Shown, invalid
from .. import AnyRequest
from .messages import MessageShown, message_keys, shown

# What was said; statuses are what became of it.
SAID = ["message.received", "message.echo", "message.edited", "message.deleted", "message.unknown"]
Direction = Literal["inbound", "outbound"]


class Said(Shown, frozen=True):
    """``event``: what came in, or was written on another device. ``message``: what was sent here."""

    at: datetime
    direction: Direction
    event: Envelope | UnsetType = UNSET
    message: MessageShown | UnsetType = UNSET


class History(Shown, frozen=True):
    """``next``: the cursor for what was said before."""

    messages: list[Said]
    next: str | UnsetType = UNSET


class _Cursor(msgspec.Struct, frozen=True):
    """Below which event, and which message of ours, a page begins; None: at the newest."""

    sequence: int | None = None
    message_id: UUID | None = None

    def __str__(self) -> str:
        return f"{'' if self.sequence is None else self.sequence}.{self.message_id or ''}"


def _cursor(text: str | None) -> _Cursor:
    """Raises `Problem` 422."""
    if text is None:
        return _Cursor()
    sequence, _, message_id = text.partition(".")
    try:
        if not (sequence or message_id):
            raise ValueError
        below = min(int(sequence), search.LAST_SEQUENCE) if sequence else None
        return _Cursor(below, UUID(message_id) if message_id else None)
    except ValueError:
        raise invalid(("before", "must be the next of another page"), what="The query") from None


async def history_page(
    request: AnyRequest, wanted: MessageFilter, before: str | None, size: int, direction: Direction | None = None
) -> History:
    """A page of what is *wanted*, in one *direction* or both. Raises `Problem` 422."""
    cursor = _cursor(before)
    async with request.connection() as connection:
        what = connection, request.organization_id, wanted
        came = await search.received(*what, cursor.sequence, size, _types(direction))
        went: Found[StoredMessage] = Found([])
        if direction != "inbound":
            went = await search.sent(*what, cursor.message_id, size)
    return _merged(came, went, cursor, size)


def _types(direction: Direction | None) -> list[str]:
    """Of the events in that direction: what was written on another device is outbound, too."""
    return [kind for kind in SAID if direction in (None, "outbound" if kind == "message.echo" else "inbound")]


def _merged(came: Found[StoredEvent], went: Found[StoredMessage], cursor: _Cursor, size: int) -> History:
    """A page of both, each in its own order. It ends where one ends that has more: what comes next is not known."""
    events, messages = deque(came.rows), deque(went.rows)
    said: list[Said] = []
    below, before = cursor.sequence, cursor.message_id
    while len(said) < size:
        if (not events and came.next is not None) or (not messages and went.next is not None):
            break
        if events and (not messages or events[0].created_at >= messages[0].created_at):
            event = events.popleft()
            below = event.sequence
            said.append(_came(event))
        elif messages:
            message = messages.popleft()
            before = message.id
            said.append(Said(message.created_at, "outbound", message=shown(message, message.attempts)))
        else:
            return History(said)
    if not events:
        below = 0 if came.next is None else came.next
    if not messages:
        before = FIRST_ID if went.next is None else went.next
    is_end = not events and not messages and came.next is None and went.next is None
    return History(said) if is_end else History(said, str(_Cursor(below, before)))


def _came(event: StoredEvent) -> Said:
    envelope = cast(Envelope, msgspec.Raw(render(event)))  # as it is stored, whatever release wrote it
    by = msgspec.json.decode(event.data, type=_Data).message.by
    outbound = event.type == "message.echo" or by == "business"
    return Said(event.created_at, "outbound" if outbound else "inbound", event=envelope)


class _Actor(msgspec.Struct, frozen=True):
    by: By | None = None


class _Data(msgspec.Struct, frozen=True):
    message: _Actor = _Actor()


async def keys_of(request: AnyRequest, provider_message_id: str) -> dict[str, Any]:
    """What a message of either direction is found by which a provider calls so, as parts of a `MessageFilter`."""
    configs = await request.state["manager"].configs(request.organization_id)
    hashes = [config.received_key_hash(provider_message_id) for config in configs if not config.is_unusable]
    return {"keys": await message_keys(request, provider_message_id), "key_hashes": hashes}
