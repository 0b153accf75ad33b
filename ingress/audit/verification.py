"""Whether the audit trail of an organization is as it was written (`trail.py`), and what of it may go.

Who can write to the database, and has no key, cannot edit, delete, insert or reorder entries, nor cut off the last
ones, without `verify` naming the first entry that is wrong. They can put back an older copy of the whole: all entries
after it gone, and the organization's row as it was. Only an end that was noted elsewhere shows it: `verify` takes one.
They can delete the organization with everything. Who has the key can do anything.

Entries that are past their time go, from the first one on (`forget`). The organization's row has the number and hash of
the last that is gone then, sealed as well, and `verify` begins behind it.
"""

import logging
from datetime import datetime
from functools import partial
from uuid import UUID

import asyncpg
import msgspec

from .. import log
from ..storage.database import Database, StoreUnavailable
from ..storage.statements import audit
from ..storage.statements.audit import TrailBegin, TrailEntry, TrailExtent
from ..storage.vault import Vault, VaultError
from .trail import begin_content, end_content, signed_content

logger = logging.getLogger("ingress.audit")

PAGE = 500
VERIFY_EVERY_S = 3600.0
# Of those that a process verifies in turn; long trails take seconds, and who lost the lease harms nobody.
CLAIMED, LEASE_S = 20, 120.0


class Verification(msgspec.Struct, frozen=True):
    """What `verify` found: the trail's end, and the first entry that is wrong, with what is wrong about it."""

    entries: int
    hash: str
    broken: int | None = None
    reason: str | None = None


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
        gone = begin_content(self._organization_id, self.number, self._former)
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
            is_signed = self._vault.signed(entry.hash, signed_content(self._organization_id, self._former, entry))
        except VaultError as error:
            return f"the entry was {error}"
        return None if is_signed else "the entry was changed, or those before it were"

    def end(self) -> Verification:
        """What is found after the last entry."""
        if self.number < max(self._extent.audit_entries, 1):
            return self.found(self.number + 1, "the entry is missing, and all after it")
        end = end_content(self._organization_id, self._extent.audit_entries, self._extent.audit_hash)
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
        begin = TrailBegin(gone, last, vault.sign(begin_content(organization_id, gone, last)))
        async with connection.transaction():
            return await audit.forget(connection, organization_id, begin, extent.audit_gone)


async def check_keys(connection: asyncpg.Connection, vault: Vault) -> None:
    """Raise `VaultError` where the newest organization's trail was signed with a key that we do not have (worker)."""
    newest = await audit.newest(connection)
    end = await audit.extent(connection, newest) if newest else None
    if newest is None or end is None or end.audit_seal is None:
        return
    if not vault.signed(end.audit_seal, end_content(newest, end.audit_entries, end.audit_hash)):
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
