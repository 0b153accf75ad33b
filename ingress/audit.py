"""The audit trail of an organization: written with each change, and for what was refused; chained by hashes, verified.

An entry's hash is an HMAC over the hash before it and everything in the entry, with a key that is not in the database
(`ingress/storage/vault.py`). The organization's row has the number and hash of the last entry, and a seal of both.

Who can write to the database, and has no key, cannot edit, delete, insert or reorder entries, nor cut off the last
ones, without `verify` naming the first entry that is wrong. They can put back an older copy of the whole: all entries
after it gone, and the organization's row as it was. Only an end that was noted elsewhere shows it: `verify` takes one.
They can delete the organization with everything. Who has the key can do anything.

Entries that are past their time go, from the first one on (`forget`). The organization's row has the number and hash of
the last that is gone then, sealed as well, and `verify` begins behind it.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from . import log
from .storage.database import Database, StoreUnavailable
from .storage.statements import audit
from .storage.statements.audit import TrailBegin, TrailEnd, TrailEntry, TrailExtent
from .storage.statements.events import EventRow
from .storage.vault import Vault, VaultError

logger = logging.getLogger("ingress.audit")

PAGE = 500
VERIFY_EVERY_S = 3600.0
# Of those that a process verifies in turn; long trails take seconds, and who lost the lease harms nobody.
CLAIMED, LEASE_S = 20, 120.0

_encode = msgspec.json.Encoder().encode


class Actor(NamedTuple):
    """Who makes a change: the id of an API key, `platform` or `system`; and from where."""

    name: str
    address: str | None = None


SYSTEM = Actor("system")
# Added to the error of a change that was taken back: its entry is there.
RECORDED = "The audit trail has it."


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A change, or one that was not made. *before* and *after* are JSON, secrets as fingerprints.

    *provider* None: that of the config, where it is stored.
    """

    action: str
    actor: Actor
    config_id: UUID | None = None
    provider: str | None = None
    outcome: Literal["done", "refused", "undone"] = "done"
    version: int | None = None
    before: object = None
    after: object = None
    reason: str | None = None

    def __repr__(self) -> str:
        return f"AuditEntry({self.action!r})"


class Verification(msgspec.Struct, frozen=True):
    """What `verify` found: the trail's end, and the first entry that is wrong, with what is wrong about it."""

    entries: int
    hash: str
    broken: int | None = None
    reason: str | None = None


async def record(
    connection: asyncpg.Connection,
    vault: Vault,
    organization_id: UUID,
    *entries: AuditEntry,
    events: Sequence[EventRow] = (),
    version: int | None = None,
) -> int:
    """Write down changes in the transaction that makes them, with the *events* of them: the number of the last entry.

    *version*: every process is notified that the organization is at that.
    """
    named = [entry.config_id for entry in entries if entry.config_id and entry.provider is None]
    end = await audit.end(connection, organization_id, named)
    if end is None:
        raise LookupError("there is no such organization")
    signed, seal = _signed(vault, organization_id, end, entries)
    notice = None if version is None else f"{organization_id}:{version}"
    await audit.append(connection, organization_id, signed, seal, events, notice)
    return end.audit_entries + len(signed)


def _signed(
    vault: Vault, organization_id: UUID, end: TrailEnd, entries: Sequence[AuditEntry]
) -> tuple[list[TrailEntry], bytes]:
    """The entries, each signed with the one before it, and the seal of the end."""
    former, signed = end.audit_hash, list[TrailEntry]()
    for number, entry in enumerate(entries, end.audit_entries + 1):
        unsigned = _unsigned(number, end, entry)
        former = vault.sign(_content(organization_id, former, unsigned))
        signed.append(msgspec.structs.replace(unsigned, hash=former))
    return signed, vault.sign(_end(organization_id, end.audit_entries + len(signed), former))


def _unsigned(number: int, end: TrailEnd, entry: AuditEntry) -> TrailEntry:
    provider = entry.provider or (end.provider_of.get(entry.config_id) if entry.config_id else None)
    return TrailEntry(
        id=number,
        at=end.at,
        action=entry.action,
        actor=entry.actor.name,
        address=entry.actor.address,
        config_id=entry.config_id,
        provider=provider,
        outcome=entry.outcome,
        version=entry.version,
        before=None if entry.before is None else _encode(entry.before),
        after=None if entry.after is None else _encode(entry.after),
        reason=entry.reason,
        hash=b"",
    )


async def verify(
    database: Database,
    vault: Vault,
    organization_id: UUID,
    noted: tuple[int, str] | None = None,
    *,
    background: bool = False,
) -> Verification:
    """Walk through the whole trail. *noted* is an earlier end, (entries, hash), that must still be on the way.

    In the *background* none of the API's connections is taken. Of an end that is gone by now nothing can be said.
    """
    connect = database.worker if background else partial(database.organization, organization_id)
    async with connect() as connection:
        extent = await audit.extent(connection, organization_id)
    if extent is None:
        raise LookupError("there is no such organization")
    walk = _Walk(vault, organization_id, extent, noted)
    if wrong := walk.begin():
        return walk.found(1, wrong)
    while walk.number < extent.last:
        async with connect() as connection:
            entries = await audit.forward(connection, organization_id, walk.number, extent.last, PAGE)
        for entry in entries:
            if wrong := walk.next(entry):
                return walk.found(walk.number, wrong)
    return walk.end()


class _Walk:
    """A walk through a trail, entry by entry: ``number`` is the last one, ``former`` its hash."""

    def __init__(self, vault: Vault, organization_id: UUID, extent: TrailExtent, noted: tuple[int, str] | None) -> None:
        self._vault = vault
        self._organization_id = organization_id
        self._extent = extent
        self._noted = noted
        self.number = extent.audit_gone
        self._former = extent.audit_gone_hash

    def begin(self) -> str | None:
        """What is wrong with where it begins."""
        if not self.number:
            return None
        gone = _begin(self._organization_id, self.number, self._former)
        if not self._is_signed(self._extent.audit_gone_seal, gone):
            return "the entry is missing, and no seal says that it was past its time"
        return self._unlike_noted(self.number, self._former or b"")

    def next(self, entry: TrailEntry) -> str | None:
        """What is wrong with the next one."""
        self.number += 1
        if entry.id != self.number:
            return "the entry is missing"
        if self.number > self._extent.audit_entries:
            return "the entry was put there by somebody else"
        if wrong := self._changed(entry):
            return wrong
        self._former = entry.hash
        return self._unlike_noted(entry.id, entry.hash)

    def _unlike_noted(self, number: int, hash: bytes) -> str | None:
        if self._noted and self._noted[0] == number and self._noted[1] != hash.hex():
            return "the entry is not the one that was noted"
        return None

    def _changed(self, entry: TrailEntry) -> str | None:
        try:
            is_signed = self._vault.signed(entry.hash, _content(self._organization_id, self._former, entry))
        except VaultError as error:
            return f"the entry was {error}"
        return None if is_signed else "the entry was changed, or those before it were"

    def end(self) -> Verification:
        """What is found after the last entry."""
        if self.number < max(self._extent.audit_entries, 1):
            return self.found(self.number + 1, "the entry is missing, and all after it")
        end = _end(self._organization_id, self._extent.audit_entries, self._extent.audit_hash)
        if self._former != self._extent.audit_hash or not self._is_signed(self._extent.audit_seal, end):
            return self.found(self.number, "the end in the organization's row is not this one")
        if self._noted and self._noted[0] > self.number:
            return self.found(self.number + 1, "the entry was there when the end was noted")
        return self.found()

    def found(self, broken: int | None = None, reason: str | None = None) -> Verification:
        return Verification(self._extent.audit_entries, (self._extent.audit_hash or b"").hex(), broken, reason)

    def _is_signed(self, seal: bytes | None, content: bytes) -> bool:
        try:
            return seal is not None and self._vault.signed(seal, content)
        except VaultError:
            return False


# ------------------------------------------------------------------ what is past its time


async def forget(database: Database, vault: Vault, organization_id: UUID, before: datetime) -> int:
    """Let go of the organization's first entries that were written *before* that, some at a time; how many.

    Only of those that are as they were written: what is wrong stays, to be found. Raises `StoreUnavailable`.
    """
    async with database.worker() as connection:
        extent = await audit.extent(connection, organization_id)
        if extent is None:
            return 0
        entries = await audit.forward(connection, organization_id, extent.audit_gone, extent.last, PAGE)
        walk, gone = _Walk(vault, organization_id, extent, None), 0
        last: bytes | None = None
        if walk.begin() is None:
            for entry in entries:
                if entry.at is None or entry.at >= before or walk.next(entry):
                    break
                gone, last = entry.id, entry.hash
        if not gone:
            return 0
        begin = TrailBegin(gone, last, vault.sign(_begin(organization_id, gone, last)))
        async with connection.transaction():
            return await audit.forget(connection, organization_id, begin, extent.audit_gone)


async def check_keys(connection: asyncpg.Connection, vault: Vault) -> None:
    """Raise `VaultError` where the newest organization's trail was signed with a key that we do not have (worker)."""
    newest = await audit.newest(connection)
    end = await audit.extent(connection, newest) if newest else None
    if newest is None or end is None or end.audit_seal is None:
        return
    if not vault.signed(end.audit_seal, _end(newest, end.audit_entries, end.audit_hash)):
        raise VaultError("the audit trail was signed with other keys than those in INGRESS_ENCRYPTION_KEYS")


async def verify_due(database: Database, vault: Vault) -> int:
    """Verify the trails whose turn it is and log their ends; how many. Raises `StoreUnavailable`.

    The log is the place where a noted end is out of the database's reach.
    """
    async with database.worker() as connection:
        due = await audit.claim(connection, CLAIMED, LEASE_S, VERIFY_EVERY_S)
    for organization_id in due:
        check = await _verified(database, vault, organization_id)
        async with database.worker() as connection:
            await audit.verified(connection, organization_id, check.broken, VERIFY_EVERY_S)
        _report(organization_id, check)
    return len(due)


def _report(organization_id: UUID, check: Verification) -> None:
    end = {"organization": organization_id, "entries": check.entries, "hash": check.hash}
    log.wide("audit_chain", **end, broken=check.broken)
    if check.broken is not None:
        where = (organization_id, check.broken, check.reason)
        logger.error("the audit trail of organization %s is broken at entry %d: %s", *where)


async def _verified(database: Database, vault: Vault, organization_id: UUID) -> Verification:
    try:
        return await verify(database, vault, organization_id, background=True)
    except StoreUnavailable:
        raise
    except Exception:  # what cannot even be read was not written here, and must hide nothing of the others
        logger.exception("the audit trail of organization %s cannot be read", organization_id)
        return Verification(0, "", 0, "the trail cannot be read")


def _content(organization_id: UUID, former: bytes | None, entry: TrailEntry) -> bytes:
    """An entry as it is signed: one JSON array, so that nothing can be moved from one column to its neighbour."""
    at = entry.at and entry.at.astimezone(UTC).isoformat()
    what = [entry.action, entry.actor, entry.address, entry.config_id, entry.provider, entry.outcome, entry.version]
    texts = [_text(entry.before), _text(entry.after), entry.reason]
    return _encode([organization_id, (former or b"").hex(), entry.id, at, *what, *texts])


def _text(json: bytes | None) -> str | None:
    return None if json is None else bytes(json).decode()


def _begin(organization_id: UUID, gone: int, last_hash: bytes | None) -> bytes:
    return _encode(["begin", organization_id, gone, (last_hash or b"").hex()])


def _end(organization_id: UUID, entries: int, last_hash: bytes | None) -> bytes:
    return _encode(["end", organization_id, entries, (last_hash or b"").hex()])
