"""What a person is known by, as it is compared. A username is no such thing: it changes, and another may take it."""

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from providers import Contact, Recipient, phone_key

# Of an address in the index, which takes 2,704 bytes, and of a name or value beside it. Longer ones are nobody's.
MAX_CHARACTERS = 256
PHONE, LID, USER, PARENT = "phone", "lid", "user", "parent"


class Address(NamedTuple):
    """One of what a person is known by. Equal ``key``: the same person."""

    key: str
    kind: str
    scope: str
    value: str
    since: datetime = datetime.max.replace(tzinfo=UTC)  # for one that nobody is known by yet
    # As in contact_addresses.
    reached_by: str | None = None
    asked_at: datetime | None = None

    @property
    def slot(self) -> tuple[str, str]:
        """Of which a person has one at a time."""
        return self.kind, self.scope


def addresses_of(contact: Contact, provider_type: str, people_scope: str) -> list[Address]:
    """What *contact* is known by. Its ids are the provider's own, within *people_scope*."""
    return list(_addresses(contact, provider_type, people_scope))


def _addresses(contact: Contact, provider_type: str, people_scope: str) -> Iterator[Address]:
    if contact.user_id:
        yield _address(USER, f"{provider_type}/{people_scope}", contact.user_id, contact.user_id)
    if contact.parent_user_id:
        yield _address(PARENT, provider_type, contact.parent_user_id, contact.parent_user_id)
    if contact.lid:
        yield _address(LID, "", contact.lid.partition("@")[0].partition(":")[0], contact.lid)
    if contact.phone:
        yield phone_address(contact.phone)


def phone_address(phone: str) -> Address:
    return _address(PHONE, "", phone_key(phone), phone)


def _address(kind: str, scope: str, compared: str, value: str) -> Address:
    key = f"{kind}:{scope}:{compared}" if scope else f"{kind}:{compared}"
    if len(key) > MAX_CHARACTERS:
        key = f"{kind}#{hashlib.blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=32).hexdigest()}"
    return Address(key, kind, scope, value[:MAX_CHARACTERS])


FIELDS = {PHONE: "phone", LID: "lid", USER: "user_id", PARENT: "parent_user_id"}


def shown(addresses: Iterable[Address]) -> dict[str, str]:
    """*addresses* as the fields of a `Contact`; of several of a kind, the last."""
    return {FIELDS[address.kind]: address.value for address in addresses}


def addressee(to: Recipient) -> Contact:
    """Who *to* names, by the one address that counts: that they belong together is not for a request to say."""
    if to.phone:
        return Contact(phone=to.phone)
    return Contact(user_id=to.user_id) if to.user_id else Contact(lid=to.lid)
