"""What was said, as rows of a page or of a file."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from ..api.history.messages import MessageShown
from ..api.history.pages import Said
from ..validation import Unlogged

# Where each content keeps its words.
_WORDS = ("body", "caption", "rendered", "emoji", "title", "text", "name", "question", "address", "filename")
COLUMNS = (
    "time", "direction", "id", "phone", "name", "type", "text", "status", "error_class", "error_code",
    "provider", "config_id", "provider_message_id", "conversation_id", "lead_id", "request_id",
)  # fmt: skip


class SaidRow(Unlogged, frozen=True, kw_only=True):
    """``type``: of the content, or of the event where it has none. ``path``: of its page."""

    time: datetime
    direction: str
    id: str
    path: str
    phone: str | None = None
    name: str | None = None
    type: str
    text: str
    status: str | None = None
    error_class: str | None = None
    error_code: str | None = None
    provider: str | None = None
    config_id: str | None = None
    provider_message_id: str | None = None
    conversation_id: str | None = None
    contact_id: str | None = None
    lead_id: str | None = None
    request_id: str | None = None
    fallback_reason: str | None = None
    is_held: bool = False  # it may have been taken: something is to settle that

    @property
    def cells(self) -> list[object]:
        return [getattr(self, name) for name in COLUMNS]


def rows_of(said: Iterable[Said]) -> Iterator[SaidRow]:
    for one in said:
        if isinstance(one.message, MessageShown):
            yield row_of_message(one.message)
        else:
            yield row_of_event(msgspec.json.decode(msgspec.json.encode(one.event)), one.direction)


def row_of_message(message: MessageShown) -> SaidRow:
    """Of one that was sent."""
    request = msgspec.json.decode(message.request)
    to, content = request.get("to"), request.get("content") or {}
    to = to if isinstance(to, Mapping) else {"phone": to}
    error = message.error
    return SaidRow(
        time=message.created_at,
        direction="outbound",
        id=str(message.id),
        path=f"/console/messages/{message.id}",
        phone=next((to[name] for name in ("phone", "user_id", "lid", "group_id") if to.get(name)), None),
        type=content.get("type", "text"),
        text=words_of(content),
        status=message.status,
        error_class=error.class_ if error else None,
        error_code=error.code if error else None,
        provider=message.provider,
        config_id=_text(message.config_id),
        provider_message_id=message.provider_message_id,
        conversation_id=str(message.conversation_id),
        lead_id=request.get("lead_id"),
        request_id=message.request_id,
        fallback_reason=message.fallback_reason,
        is_held=message.state == "uncertain",
    )


def row_of_event(event: Mapping[str, Any], direction: str) -> SaidRow:
    """Of an envelope."""
    data = event["data"]
    message, conversation = data.get("message") or {}, data.get("conversation") or {}
    content, contact = message.get("content") or {}, conversation.get("contact") or {}
    return SaidRow(
        time=datetime.fromisoformat(event["timestamp"]),
        direction=direction,
        id=event["id"],
        path=f"/console/events/{event['id']}",
        phone=contact.get("phone") or contact.get("user_id") or contact.get("lid") or conversation.get("group_id"),
        name=contact.get("name") or contact.get("username"),
        type=event["type"] if event["type"] != "message.received" or not content else content["type"],
        text=words_of(content),
        provider=data["provider"],
        config_id=data["config_id"],
        provider_message_id=message.get("provider_message_id"),
        conversation_id=conversation.get("id"),
        contact_id=contact.get("id"),
        lead_id=message.get("lead_id"),
    )


def words_of(content: Mapping[str, Any]) -> str:
    """What a person reads of it; nothing where it has no words."""
    return next((content[name] for name in _WORDS if isinstance(content.get(name), str) and content[name]), "")


def _text(id: UUID | None) -> str | None:
    return None if id is None else str(id)
