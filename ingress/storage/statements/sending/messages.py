"""The messages that sends made: one with its attempts, and which of them events are about."""

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

import asyncpg
import msgspec

from providers.messages import ErrorInfo

from ....identifiers import id_at, idempotency_hash
from ....validation import Unlogged
from ...columns import between, given, names

# A send that is held as uncertain has ended before, and so has one that takes an hour to be tried.
OPEN_HOURS = 25
# What is older has expired, and its hold is over; newer ones are made by clocks that are fast.
OPEN_SINCE, OPEN_UNTIL = timedelta(days=-2), timedelta(days=1)
# So long after it was asked for a send may still come back though its answer was lost.
EVIDENCE_MINUTES = 10
# Held at a time of one organization, and sends that one of them may be about: more are none of a person's doing.
MAX_HELD, MAX_CANDIDATES = 1_000, 20

_decode_error = msgspec.json.Decoder(ErrorInfo).decode


def open_ids() -> tuple[UUID, UUID]:
    """Between which ids all sends are that may be under way or held."""
    now = datetime.now(UTC)
    return id_at(now + OPEN_SINCE), id_at(now + OPEN_UNTIL)


class SendState(msgspec.Struct, frozen=True):
    """A message as it stands."""

    id: UUID
    state: str
    status: str
    attempts: int
    provider: str | None
    config_id: UUID | None
    provider_message_id: str | None
    fallback_from: UUID | None
    fallback_reason: str | None
    error: ErrorInfo | None
    sent_at: datetime | None  # None: no provider is known to have taken it
    cost: str | None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id}, {self.state})"


class StoredMessage(SendState, frozen=True):
    """The same, and what was asked for."""

    conversation_id: UUID
    idempotency_key: str | None
    request_hash: bytes
    request: bytes
    request_id: str | None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    leased_until: datetime | None  # of an uncertain one: when it is reported as unknown


State = TypeVar("State", bound=SendState)


def state_of(kind: type[State], columns: Iterable[Any]) -> State:
    """*columns* are those of `names(kind)`."""
    state = kind(*columns)
    if stored := cast("bytes | None", state.error):
        return msgspec.structs.replace(state, error=_decode_error(stored))
    return state


class Attempt(Unlogged, frozen=True, rename={"class_": "class"}):
    """A call to a provider. ``class_`` of its error, or `ok`; None: it has no outcome yet, or lost it."""

    number: int
    config_id: UUID
    provider: str
    version: int
    started_at: datetime
    class_: str | None
    code: str | None
    detail: str | None
    duration_ms: int | None
    provider_message_id: str | None


ATTEMPTS = f"select {names(Attempt)} from attempts where organization_id = $1 and message_id = $2 order by number"


async def attempts(connection: asyncpg.Connection, organization_id: UUID, message_id: UUID) -> list[Attempt]:
    """Every call that was made for a message, or begun (organization, worker)."""
    return [Attempt(*row) for row in await connection.fetch(ATTEMPTS, organization_id, message_id)]


class MessageKey(NamedTuple):
    """Which message it is."""

    organization_id: UUID
    message_id: UUID


ATTEMPTS_OF = f"""
select a.message_id, {names(Attempt, "a.")}
from {given(MessageKey)} join attempts a on a.organization_id = _.organization_id and a.message_id = _.message_id
order by a.number"""


async def attempts_of(connection: asyncpg.Connection, keys: Sequence[MessageKey]) -> dict[UUID, list[Attempt]]:
    """The same of each of several messages (worker)."""
    found: dict[UUID, list[Attempt]] = {key.message_id: [] for key in keys}
    for message_id, *attempt in await connection.fetch(ATTEMPTS_OF, *zip(*keys, strict=True)):
        found[message_id].append(Attempt(*attempt))
    return found


_MESSAGE = names(StoredMessage)
BY_ID = f"select {_MESSAGE} from messages where organization_id = $1 and id = $2"


async def by_id(connection: asyncpg.Connection, organization_id: UUID, message_id: UUID) -> StoredMessage | None:
    """One message (organization, worker)."""
    row = await connection.fetchrow(BY_ID, organization_id, message_id)
    return state_of(StoredMessage, row) if row else None


BY_KEY = f"""
select {_MESSAGE} from messages where organization_id = $1
    and id = (select message_id from idempotency_keys where organization_id = $1 and key_hash = $2)"""


async def by_key(connection: asyncpg.Connection, organization_id: UUID, key: str) -> StoredMessage | None:
    """The message that an idempotency key names (organization)."""
    row = await connection.fetchrow(BY_KEY, organization_id, idempotency_hash(organization_id, key))
    return state_of(StoredMessage, row) if row else None


# ------------------------------------------------------------------ which of them events are about


class NamedMessage(NamedTuple):
    """A message as an event names it: by our own id, which came back, or else by the provider's at an account."""

    organization_id: UUID
    account_id: UUID
    config_id: UUID
    provider_message_id: str | None
    message_id: UUID | None
    # The event's, where it may wait for a send to end. None: it is about none that is under way.
    conversation_id: UUID | None = None
    # Matched by this one: what all of the provider's ids of the message have in common.
    message_key: str | None = None
    # Of the event that it came in with, if a person wrote it. None: the provider has one id for it.
    event_key_hash: bytes | None = None
    is_hidden: bool = False  # the conversation is with a hidden number, behind which may be one that we know
    came_back: bool = False  # it is the message itself, and a program sent it


class OurMessage(NamedTuple):
    """A message as it is named by our own id."""

    organization_id: UUID
    id: UUID


class OwnMessage(Unlogged, frozen=True):
    """A message that we sent, as the CRM knows it."""

    id: UUID
    lead_id: str | None = None
    fallback_from: UUID | None = None
    fallback_reason: str | None = None


def own(messages: str) -> str:
    """The columns of an OwnMessage, out of those of *messages*."""
    return f"{messages}.id, {messages}.lead_id, {messages}.fallback_from, {messages}.fallback_reason"


def chats(organization_id: str, conversation_id: str) -> str:
    """The conversations with the person of this one, whichever account has them, and what they were before a merge."""
    return f"""select {conversation_id} as id
        union all select other.id from conversations mine join conversations other
            on other.organization_id = mine.organization_id and other.contact_id = mine.contact_id
        where mine.organization_id = {organization_id} and mine.id = {conversation_id}
        union all select alias.id from conversations alias
        where alias.organization_id = {organization_id} and alias.canonical_id = {conversation_id}"""


class KnownMessage(Unlogged, frozen=True):
    """What is known of a message that an event names: it is ours, or it may become one of the sends ``candidates``."""

    own: OwnMessage | None
    candidates: list[UUID] | None  # None: nothing is to be waited for
    known_as: str | None  # the provider's id of it that the CRM has seen; None: none
    # Of ours, to whom it was sent: a `Recipient`, and that contact. None: to a group.
    sent_to: bytes | None = None
    contact_id: UUID | None = None


_OURS = f"""{own("m")}, m.provider_message_id as known_as, m.request -> 'to' as sent_to, (
        select c.contact_id from conversations c
        where c.organization_id = m.organization_id and c.id = m.conversation_id
    ) as contact_id"""

FIND_OURS = f"""
select place, {_OURS} from {given(OurMessage)} join messages m using (organization_id, id)
where {between("m.id", len(OurMessage._fields) + 1)}"""

_FIRST = len(NamedMessage._fields) + 1
_CAME_IN = """
left join lateral (
    select e.data #>> '{message,provider_message_id}' as known_as
    from inbound_dedup d join events e on e.organization_id = d.organization_id and e.sequence = d.sequence
    where own.id is null and d.organization_id = named.organization_id and d.key_hash = named.event_key_hash
) came_in on true"""


def _find(came_in: str) -> str:
    # An attempt may be what an event is about as long as nobody knows what became of it.
    return f"""
with named as (select * from {given(NamedMessage)}),
-- Of all organizations: few, and found without reading any one's.
unended as materialized (
    select organization_id, id from messages
    where leased_until is not null and provider_message_id is null and {between("id", _FIRST)}
)
select named.place, own.*, held.candidates, came_in.known_as
from named
left join lateral (
    select {_OURS} from messages m
    where m.organization_id = named.organization_id and m.message_key = named.message_key
        -- The config itself, too: its number may have become known since the message was sent.
        and (m.account_id = named.account_id or m.config_id = named.config_id)
    limit 1
) own on true
left join lateral (
    select array(
        select m.id from ({chats("named.organization_id", "named.conversation_id")}) chat
        join messages m on m.conversation_id = chat.id and m.organization_id = named.organization_id
        where own.id is null
            and m.created_at > now() - interval '{OPEN_HOURS} hours' and {between("m.id", _FIRST)}
            and (m.state <> 'done' and m.provider_message_id is null
                or named.came_back and m.created_at > now() - interval '{EVIDENCE_MINUTES} minutes')
            and exists (
                select from attempts a where a.organization_id = m.organization_id and a.message_id = m.id
                    and {between("a.message_id", _FIRST)}
                    and (a.class is null or a.class = 'Uncertain') and a.provider_message_id is null)
        union
        select u.id from unended u
        where own.id is null and named.is_hidden and u.organization_id = named.organization_id
            and exists (
                select from attempts a where a.organization_id = u.organization_id and a.message_id = u.id
                    and {between("a.message_id", _FIRST)}
                    and a.config_id = named.config_id and (a.class is null or a.class = 'Uncertain'))
        order by 1 limit {MAX_CANDIDATES}
    ) as candidates
    where named.conversation_id is not null
        and (select count(*) from held_events h where h.organization_id = named.organization_id) < {MAX_HELD}
) open on true
left join lateral (
    select open.candidates where open.candidates <> '{{}}'
        -- What came before it is held still: it comes after that.
        or (
            select true from held_events h where h.organization_id = named.organization_id
                and h.account_id = named.account_id and h.message_key = named.message_key limit 1)
) held on true
{came_in}
where own.id is not null or held.candidates is not null or came_in.known_as is not null"""


# The key of an event does not say of which day it is, so it is looked for where one is named only.
FIND = _find("cross join (select null::text as known_as) came_in")
FIND_WHAT_CAME_IN = _find(_CAME_IN)


async def find(connection: asyncpg.Connection, named: Collection[NamedMessage]) -> dict[NamedMessage, KnownMessage]:
    """What is known of those of *named* that we sent, or may have sent (ingest, worker)."""
    known = {}
    if ours := [name for name in named if name.message_id is not None]:
        rows = [OurMessage(name.organization_id, name.message_id) for name in ours if name.message_id is not None]
        ids = [row.id for row in rows]
        for place, *own, known_as, to, contact in await connection.fetch(
            FIND_OURS, *zip(*rows, strict=True), min(ids), max(ids)
        ):
            known[ours[place - 1]] = KnownMessage(OwnMessage(*own), None, known_as, to, contact)
    if theirs := [name for name in named if name.message_id is None]:
        statement = FIND_WHAT_CAME_IN if any(name.event_key_hash for name in theirs) else FIND
        for place, *own, known_as, to, contact, candidates, came_in in await connection.fetch(
            statement, *zip(*theirs, strict=True), *open_ids()
        ):
            message = OwnMessage(*own) if own[0] else None
            known[theirs[place - 1]] = KnownMessage(message, candidates, known_as or came_in, to, contact)
    return known


class ChatMessage(Unlogged, frozen=True):
    """A message in the chat of another, with what is known of it; ``is_lost``: its answer was."""

    id: UUID
    provider_message_id: str | None
    is_under_way: bool
    is_lost: bool
    request: bytes


IN_CHAT = f"""
select m.id, m.provider_message_id, m.state = 'sending' as is_under_way, m.state = 'uncertain' as is_lost, m.request
from messages self cross join lateral ({chats("$1", "self.conversation_id")}) chat
join messages m on m.organization_id = $1 and m.conversation_id = chat.id
where self.organization_id = $1 and self.id = $2 and m.id <> self.id
    and m.created_at > self.created_at - interval '{EVIDENCE_MINUTES} minutes'
order by m.id desc limit 100"""


async def in_chat(connection: asyncpg.Connection, organization_id: UUID, message_id: UUID) -> list[ChatMessage]:
    """What else was lately sent to whom this message was, newest first (worker)."""
    return [ChatMessage(*row) for row in await connection.fetch(IN_CHAT, organization_id, message_id)]
