"""The events of a webhook: what all of them share, whoever sent it.

An event about a message or a status is made with its own parts; what is neither is an `AccountUpdate`.
"""

import hashlib
from typing import Any, Literal

import msgspec

from . import _json
from ._values import Object, bounded, moment
from .content import Content, UnknownContent
from .messages import AccountUpdate, ErrorInfo, Event, EventType, Health


def type_of(content: Content) -> EventType:
    """What the event of a message with *content* is."""
    return "message.unknown" if isinstance(content, UnknownContent) else "message.received"


class Origin(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One webhook, or the part of it that several items share: the word for what happened, whose it is, and when."""

    field: str
    time: Any  # as it came; not every provider gives one
    sender: str | None = None
    sender_id: str | None = None
    account_id: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(field={self.field!r})"

    def fact_key(self, item: Any) -> str:
        """A key for a fact without an id: the same however the items of a repeated webhook are grouped."""
        fact = (self.field, self.account_id, self.time, self.sender_id, item)
        return hashlib.sha256(_json.canonical(fact)).hexdigest()

    def event(self, type_: EventType, item: Any, *, key: str, at: Any = None, **parts: Any) -> Event:
        """An event of *item*. *at* is its own time: where it has none, the webhook's counts. *parts*: fields of it."""
        return Event(
            type=type_,
            key=bounded(key),
            sender=self.sender,
            sender_id=self.sender_id,
            account_id=self.account_id,
            occurred_at=moment(at) or moment(self.time),
            raw=_json.raw(item),
            **parts,
        )

    def update(
        self,
        kind: str,
        item: Any,
        *,
        key: str | None = None,
        details: Object | None = None,
        health: Health | None = None,
        errors: list[ErrorInfo] | None = None,
        **parts: Any,
    ) -> Event:
        """An event that is neither a message nor a status; *parts* as of `event`."""
        account = AccountUpdate(kind=kind, field=self.field, health=health, details=details or {}, errors=errors or [])
        return self.event(
            "account.updated",
            item,
            key=key or self.fact_key(item),
            # What an item says of the past, as an address book does, is reported now all the same.
            reported_at=moment(self.time),
            account=account,
            **parts,
        )

    def unread(self, kind: Literal["malformed", "unknown_field"], item: Any) -> Event:
        account = AccountUpdate(kind=kind, field=self.field)
        return self.event("message.unknown", item, key=self.fact_key(item), account=account)
