"""Who is who: contacts as they stand, and what each meeting changes about them. Asks nobody, and writes nothing.

    nobody is known by any of the addresses   ──▶ a new contact
    one contact is                            ──▶ it gets the others
    several are                               ──▶ they were one person all along: the oldest stays, the others become it

Addresses that a provider names together, in one event, are one person's; nothing else joins two contacts. A number may
be given to somebody else, though: see `_has_passed_on`.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from providers import Contact

from .. import identifiers
from .addresses import MAX_CHARACTERS, PHONE, Address, phone_address


class KnownContact(msgspec.Struct, eq=False):
    """A contact as it stands; of its addresses in a slot the last is the one in use."""

    organization_id: UUID
    id: UUID
    name: str | None = None
    name_since: datetime | None = None
    username: str | None = None
    username_since: datetime | None = None
    addresses: dict[str, Address] = {}
    merged_into: "KnownContact | None" = None

    @property
    def now(self) -> "KnownContact":
        """Who it is by now."""
        return self.merged_into.now if self.merged_into else self

    def __repr__(self) -> str:
        return f"KnownContact({self.id})"

    def within(self, slot: tuple[str, str]) -> list[Address]:
        return [address for address in self.addresses.values() if address.slot == slot]


class Change(msgspec.Struct, frozen=True):
    """What the CRM has to know: ``merged`` is the same person, or they are not known by ``former`` any more."""

    contact: KnownContact
    merged: KnownContact | None = None
    former: Sequence[Address] = ()

    def __repr__(self) -> str:
        return "Change(…)"


class Register:
    """Contacts as they stand while a batch goes through, and all that has changed since it began."""

    def __init__(self, contacts: Iterable[KnownContact]) -> None:
        self._owners = {(each.organization_id, key): each for each in contacts for key in each.addresses}
        self.changed: dict[UUID, KnownContact] = {}  # or added
        self.addressed: dict[tuple[UUID, str], tuple[KnownContact, Address]] = {}
        self.merged: list[KnownContact] = []
        self.bereft: list[UUID] = []  # contacts whose number somebody else has now

    def meet(
        self, organization_id: UUID, addresses: Sequence[Address], shown: Contact, seen_at: str | None = None
    ) -> tuple[KnownContact, list[Change]]:
        """Whom all of *addresses* name, and what is new about them. *seen_at*: the number where they were seen."""
        owners = self._persons(organization_id, addresses)
        if not owners:
            contact = KnownContact(organization_id, identifiers.new_id())
            self.changed[contact.id] = contact
        else:
            contact = min(owners, key=lambda owner: owner.id)
        changes = [self._merge(contact, other) for other in owners if other is not contact]
        if former := self._add(contact, addresses):
            changes.append(Change(contact, former=former))
        if seen_at is not None:
            self._reach(contact, seen_at)
        self._name(contact, shown)
        return contact, changes

    def _persons(self, organization_id: UUID, addresses: Sequence[Address]) -> list[KnownContact]:
        """The contacts that *addresses* are of, without the one whose number somebody else has now."""
        found = {address.key: self._owners.get((organization_id, address.key)) for address in addresses}
        by_id = {owner.id: owner for key, owner in found.items() if owner and not key.startswith(PHONE)}
        for address in addresses:
            owner = found[address.key]
            if address.kind != PHONE or owner is None or owner.id in by_id:
                continue
            if _has_passed_on(owner, address, addresses, by_id.values()):
                del owner.addresses[address.key]
                del self._owners[organization_id, address.key]
                self.bereft.append(owner.id)
            else:
                by_id[owner.id] = owner
        return list(by_id.values())

    def _merge(self, contact: KnownContact, other: KnownContact) -> Change:
        other.merged_into = contact
        self.changed[other.id] = other
        self.merged.append(other)
        self._give_addresses(other, contact)
        for name in ("name", "username"):
            if getattr(contact, name) is None and (known := getattr(other, name)) is not None:
                self._call(contact, name, known, getattr(other, f"{name}_since"))
        return Change(contact, merged=other)

    def _give_addresses(self, other: KnownContact, contact: KnownContact) -> None:
        for key in other.addresses:
            self._owners[contact.organization_id, key] = contact
        both = [*contact.addresses.values(), *other.addresses.values()]
        contact.addresses = {address.key: address for address in sorted(both, key=lambda address: address.since)}
        other.addresses = {}

    def _add(self, contact: KnownContact, addresses: Sequence[Address]) -> list[Address]:
        """Add what *contact* is not known by yet; what they were known by in its place until now."""
        former = []
        for address in addresses:
            if address.key not in contact.addresses:
                former += contact.within(address.slot)[-1:]
                self._address(contact, address._replace(since=datetime.now(UTC)))
        return former

    def _address(self, contact: KnownContact, address: Address) -> None:
        key = contact.organization_id, address.key
        contact.addresses[address.key] = address
        self._owners[key] = contact
        self.addressed[key] = contact, address

    def _reach(self, contact: KnownContact, phone: str) -> None:
        """Send to *contact*'s number as it is spelled in *phone* from now on."""
        key = phone_address(phone).key
        known = contact.addresses.get(key)
        if known is None or (known.reached_by == phone and known.asked_at is None):
            return
        contact.addresses[key] = reached = known._replace(reached_by=phone, asked_at=None)
        self.addressed[contact.organization_id, key] = contact, reached

    def _name(self, contact: KnownContact, shown: Contact) -> None:
        for name in ("name", "username"):
            called = (getattr(shown, name) or "")[:MAX_CHARACTERS]
            if called and called != getattr(contact, name):
                self._call(contact, name, called, datetime.now(UTC))

    def _call(self, contact: KnownContact, name: str, called: str, since: datetime) -> None:
        setattr(contact, name, called)
        setattr(contact, f"{name}_since", since)
        self.changed[contact.id] = contact


def _has_passed_on(
    owner: KnownContact, phone: Address, shown: Sequence[Address], others: Iterable[KnownContact]
) -> bool:
    """Whether *owner*'s number is somebody else's now: who is known by *shown*, and is one of *others* if any.

    Networks give numbers that are not used any more to somebody else. They have other ids, and one of the two has had
    another number: else there is nothing to say that it is not one person whose id has changed.
    """
    is_former = owner.within(phone.slot)[-1].key != phone.key
    return (is_former and _differ(owner, shown)) or any(
        other.within(phone.slot) and _differ(owner, other.addresses.values()) for other in others
    )


def _differ(contact: KnownContact, shown: Iterable[Address]) -> bool:
    """Whether *contact* has an id of a kind that a person has one of, and *shown* others of it."""
    ids = [address for address in shown if address.kind != PHONE]
    common = {address.slot for address in ids if address.key in contact.addresses}
    return any(address.slot not in common and contact.within(address.slot) for address in ids)
