"""Which contact, and so which conversation, an event or a send is about; remembered, so that it is asked for once.

What is remembered may be outdated, for another process has merged two contacts meanwhile. So whoever writes down what
is said of a contact has the statement look whether its conversation was merged, and comes again where it was.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from msgspec.structs import asdict

from providers import Contact, Event, Recipient, phone_key
from providers.content import System

from ..accounts.config import Config
from ..cache import Cache
from ..envelope import ContactChange, Conversation, EventData, Person
from ..identifiers import conversation_id, new_id
from ..storage.connections import atomic
from ..storage.database import Database
from ..storage.group_commit import GroupCommit
from ..storage.statements import contacts as stored
from ..storage.statements.contacts import (
    NOBODY_KNOWS,
    AddressAsked,
    AddressKnown,
    AddressRow,
    ContactRow,
    ConversationMerged,
    ConversationRow,
    Merged,
    Newcomer,
    Reached,
)
from ..storage.statements.events import EventRow
from ..validation import Unlogged
from .addresses import MAX_CHARACTERS, Address, addressee, addresses_of, phone_address, shown
from .register import Change, KnownContact, Register

_encode = msgspec.json.Encoder().encode

# A kilobyte or two each. What was merged is found out at once; that a number is somebody else's now, so much later by
# other processes.
REMEMBERED, REMEMBERED_S = 20_000, 600.0
# What WhatsApp says of a person who is known by something else from then on.
MOVES = frozenset({"number_changed", "user_id_changed"})


class Encounter(Unlogged, frozen=True):
    """A config meets a person, a group, or somebody in one: by an event, or a send. Of equal ``key`` are the same."""

    key: Any
    config: Config
    sender: str | None
    contact: Contact | None  # as it is shown
    group_id: str | None
    known_by: tuple[Contact, ...]  # what is known of the person for sure, the newest last
    seen_at: str | None = None  # the number where the person was seen: as WhatsApp itself spells it
    is_news: bool = False  # of what the person is known by: never remembered

    def addresses(self) -> list[Address]:
        provider_type, scope = self.config.provider_type, self.config.provider.people_scope
        return [address for contact in self.known_by for address in addresses_of(contact, provider_type, scope)]

    def joined(self, other: Contact) -> "Encounter":
        """With *other*, who is the same person."""
        return msgspec.structs.replace(self, known_by=(other, *self.known_by), is_news=True)

    @property
    def account(self) -> str:
        """The business account: the config's own number, however a body spells it; the config, where it has none."""
        sender = self.config.sender
        return phone_key(sender) if sender else str(self.config.id)


def encounter_of(event: Event, config: Config) -> Encounter | None:
    """Whom *event* of *config* is about; None: nobody."""
    contact, group_id = event.contact, event.group_id
    content = event.message.content if event.message else None
    if isinstance(content, System) and content.event in MOVES:
        return _news(content, event, config)
    if contact is None and group_id is None:
        return None
    # A config without a number may be of a pool of several, and each body says which.
    sender = config.sender or event.sender
    seen_at = contact.phone if contact and _was_there(event) else None
    return Encounter(
        (config.id, sender, contact, group_id, seen_at is None),
        config,
        sender,
        contact,
        group_id,
        (contact,) if contact else (),
        seen_at,
    )


def _was_there(event: Event) -> bool:
    """Whether the person did something, or got something: then the number is spelled as WhatsApp has it."""
    if event.status is not None:
        return event.status.value in _THERE
    return event.type == "message.received" or (event.message is not None and event.message.by == "contact")


_THERE = ("delivered", "read", "played")


def _news(content: System, event: Event, config: Config) -> Encounter | None:
    """Somebody who has another number or id now: both are theirs."""
    before = event.contact or _contact(content.old_phone, content.old_user_id)
    if before is None:
        return None
    then = Contact(phone=content.old_phone, user_id=content.old_user_id)
    now = Contact(phone=content.new_phone, user_id=content.new_user_id)
    sender, known_by = config.sender or event.sender, (before, then, now)
    return Encounter(None, config, sender, before, event.group_id, known_by, content.new_phone, is_news=True)


def _contact(phone: str | None, user_id: str | None) -> Contact | None:
    return Contact(phone=phone, user_id=user_id) if phone or user_id else None


def _recipient(to: Recipient, config: Config) -> Encounter:
    contact = None if to.group_id else Contact(phone=to.phone, user_id=to.user_id, lid=to.lid)
    known_by = () if to.group_id else (addressee(to),)
    return Encounter((config.id, config.sender, to), config, config.sender, contact, to.group_id, known_by)


class Directory:
    """The contacts of all organizations, as far as this process has met them. Enter it once a process."""

    def __init__(self, database: Database) -> None:
        self._known: Cache[Any, Conversation] = Cache(REMEMBERED)
        self._numbers: Cache[tuple[UUID, str], Reached] = Cache(REMEMBERED)
        self._queue: GroupCommit[Encounter, Conversation] = GroupCommit("contacts", database, self._introduce)

    async def __aenter__(self) -> "Directory":
        await self._queue.__aenter__()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._queue.__aexit__(*reason)

    def known(self, encounter: Encounter) -> Conversation | None:
        """What is remembered of *encounter*; None: it has to be introduced."""
        return None if encounter.is_news else self._known.get(encounter.key)

    def remember(self, encounters: Iterable[tuple[Encounter, Conversation]]) -> None:
        """Keep what `introduce` found, once it is committed."""
        for encounter, known in encounters:
            if (seen_at := encounter.seen_at) is not None:
                self.remember_number(encounter.config.organization_id, seen_at, Reached(seen_at, None))
            if not encounter.is_news and _is_small(encounter.contact):
                self._known.put(encounter.key, known, REMEMBERED_S)

    def forget(self, encounters: Iterable[Encounter]) -> None:
        for encounter in encounters:
            self._known.drop(encounter.key)

    def forget_contacts(self, contact_ids: Collection[UUID]) -> None:
        """Forget by what they were met: some of it is somebody else's now."""
        if contact_ids:
            self._known.drop_where(lambda known: known.contact is not None and known.contact.id in contact_ids)

    # -- sends

    async def conversations(
        self, configs: Iterable[Config], to: Recipient, *, fresh: bool = False
    ) -> dict[UUID, Conversation]:
        """The conversation with *to* of each of *configs*, by its id. Raises `StoreUnavailable`, `Overloaded`.

        *fresh*: what was remembered is outdated.
        """
        encounters = [_recipient(to, config) for config in configs]
        if fresh:
            self.forget(encounters)
        return {each.config.id: self.known(each) or await self._met(each) for each in encounters}

    def number(self, organization_id: UUID, to: Recipient) -> Reached:
        """What is remembered of how the number that *to* is, if it is one, is reached."""
        known = self._numbers.get((organization_id, phone_address(to.phone).key)) if to.phone else None
        return known or NOBODY_KNOWS

    def remember_number(self, organization_id: UUID, phone: str, reached: Reached) -> None:
        self._numbers.put((organization_id, phone_address(phone).key), reached, REMEMBERED_S)

    async def _met(self, encounter: Encounter) -> Conversation:
        known = await self._queue.submit(encounter, organization=encounter.config.organization_id)
        self.remember([(encounter, known)])
        return known

    async def _introduce(self, connection: asyncpg.Connection, encounters: Sequence[Encounter]) -> list[Conversation]:
        known = await _welcomed(connection, encounters)
        rest = [each for each in encounters if each.key not in known]
        if rest:
            async with atomic(connection):
                met = await introduce(connection, rest)
            for each, found in zip(rest, met, strict=True):
                if each.contact is not None and each.contact.phone is not None and found.number is not None:
                    self.remember_number(each.config.organization_id, each.contact.phone, found.number)
            # By one address alone nothing is learned that the CRM has to know.
            known |= {each.key: found.conversation for each, found in zip(rest, met, strict=True)}
        return [known[each.key] for each in encounters]


async def _welcomed(connection: asyncpg.Connection, encounters: Sequence[Encounter]) -> dict[Any, Conversation]:
    """By key, the conversations of those whom nobody knew: what a campaign is for costs one statement."""
    newcomers: dict[AddressAsked, Newcomer] = {}
    conversations: dict[UUID, tuple[Any, Conversation]] = {}
    for encounter in encounters:
        organization_id, addresses = encounter.config.organization_id, encounter.addresses()
        if encounter.contact is None or len(addresses) != 1:
            continue
        [address] = addresses
        contact_id, asked = new_id(), AddressAsked(organization_id, address.key)
        if asked in newcomers:
            continue
        identity = conversation_id(organization_id, encounter.account, contact_id, None)
        newcomers[asked] = Newcomer(*asked, contact_id, *address[1:4], identity, encounter.account)
        person = Person(**asdict(encounter.contact), id=contact_id)
        conversations[contact_id] = encounter.key, Conversation(identity, encounter.sender, person)
    if not newcomers:
        return {}
    return dict([conversations[each] for each in await stored.welcome(connection, list(newcomers.values()))])


def _is_small(contact: Contact | None) -> bool:
    """Whether it is as people are: what strangers make up may be of any length, and is not kept in memory."""
    values = (contact.user_id, contact.parent_user_id, contact.lid, contact.username, contact.name) if contact else ()
    return all(value is None or len(value) <= MAX_CHARACTERS for value in values)


# ------------------------------------------------------------------ who is not remembered


class Introduction(Unlogged, frozen=True):
    """The conversation of an encounter; ``events``: what the CRM has to know of whom it is with.

    ``number``: how the number that the person is shown by is reached. ``bereft``: the contacts whose number that was.
    """

    conversation: Conversation
    events: Sequence[EventRow]
    number: Reached | None
    bereft: Sequence[UUID]


async def introduce(connection: asyncpg.Connection, encounters: Sequence[Encounter]) -> list[Introduction]:
    """Who is met in each of *encounters*, in *connection*'s transaction: contacts are found, made, merged."""
    await stored.lock(connection, {each.config.organization_id for each in encounters})
    addresses = [each.addresses() for each in encounters]
    register = Register(_contacts(await stored.find(connection, _asked(encounters, addresses))))
    met = []
    conversations: dict[tuple[UUID, UUID], ConversationRow] = {}
    for encounter, known_by in zip(encounters, addresses, strict=True):
        contact, changes, bereft = None, list[Change](), len(register.bereft)
        if known_by:
            organization_id, shown_as = encounter.config.organization_id, encounter.contact or Contact()
            contact, changes = register.meet(organization_id, known_by, shown_as, encounter.seen_at)
        row = _conversation_row(encounter, contact.id if contact else None, encounter.group_id)
        conversations[row.organization_id, row.id] = row
        for change in changes:
            of_change = _conversation_row(encounter, change.contact.id, None)
            conversations[row.organization_id, of_change.id] = of_change
        events = [_event(encounter, change) for change in changes]
        known = _known(encounter, row.id, contact)
        met.append(Introduction(known, events, _number(encounter, contact), register.bereft[bereft:]))
    await _write(connection, register, list(conversations.values()))
    return met


def _asked(encounters: Sequence[Encounter], addresses: Sequence[Sequence[Address]]) -> set[AddressAsked]:
    return {
        AddressAsked(encounter.config.organization_id, address.key)
        for encounter, known_by in zip(encounters, addresses, strict=True)
        for address in known_by
    }


def _contacts(rows: Sequence[AddressKnown]) -> Iterable[KnownContact]:
    contacts: dict[tuple[UUID, UUID], KnownContact] = {}
    for row in rows:
        contact = contacts.setdefault((row.organization_id, row.contact_id), KnownContact(*row[:6]))
        contact.addresses[row.address] = Address(*row[6:])
    return contacts.values()


def _known(encounter: Encounter, identity: UUID, contact: KnownContact | None) -> Conversation:
    person = None
    if encounter.contact is not None:
        person = Person(**asdict(encounter.contact), id=contact.id if contact else None)
    return Conversation(identity, encounter.sender, person, encounter.group_id)


def _number(encounter: Encounter, contact: KnownContact | None) -> Reached | None:
    if contact is None or encounter.contact is None or encounter.contact.phone is None:
        return None
    number = contact.addresses.get(phone_address(encounter.contact.phone).key)
    return Reached(number.reached_by, number.asked_at) if number else None


def _event(encounter: Encounter, change: Change) -> EventRow:
    """*change* in the person's own conversation with the account."""
    config, contact = encounter.config, change.contact
    person = Person(**shown(contact.addresses.values()), username=contact.username, name=contact.name, id=contact.id)
    identity = conversation_id(config.organization_id, encounter.account, contact.id, None)
    conversation = Conversation(identity, encounter.sender, person)
    whose = config.organization_id, config.provider_type, config.id
    data = EventData(*whose, conversation, contact=_change(change))
    type_ = "contact.merged" if change.merged else "contact.updated"
    return EventRow(config.organization_id, type_, config.id, identity, _encode(data))


def _change(change: Change) -> ContactChange:
    return ContactChange(change.merged.id) if change.merged else ContactChange(former=Contact(**shown(change.former)))


def _conversation_row(encounter: Encounter, contact_id: UUID | None, group_id: str | None) -> ConversationRow:
    config = encounter.config
    return ConversationRow(
        config.organization_id,
        conversation_id(config.organization_id, encounter.account, contact_id, group_id),
        encounter.account,
        None if group_id else contact_id,
        group_id,
    )


async def _write(connection: asyncpg.Connection, register: Register, conversations: Sequence[ConversationRow]) -> None:
    contacts = [
        ContactRow(
            each.organization_id,
            each.id,
            each.name,
            each.name_since,
            each.username,
            each.username_since,
            each.now.id if each.merged_into else None,
        )
        for each in register.changed.values()
    ]
    addresses = [
        AddressRow(organization_id, key, contact.now.id, *address[1:])
        for (organization_id, key), (contact, address) in register.addressed.items()
    ]
    await stored.write(connection, contacts, addresses, conversations)
    if register.merged:
        await _merge(connection, [Merged(each.organization_id, each.id, each.now.id) for each in register.merged])


async def _merge(connection: asyncpg.Connection, merged: Sequence[Merged]) -> None:
    found = await stored.conversations_of(connection, merged)
    moved = [
        ConversationMerged(
            each.organization_id,
            each.id,
            conversation_id(each.organization_id, each.account, each.contact_id, None),
            each.account,
            each.contact_id,
        )
        for each in found
    ]
    await stored.merge(connection, merged, moved)
