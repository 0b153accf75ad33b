"""Whether the audit trail of an organization is as it was written (`trail.py`), and what of it may go.

Who can write to the database, and has no key, cannot edit, delete, insert or reorder entries, nor cut off the last
ones, without `verify` naming the first entry that is wrong. They can put back an older copy of the whole: all entries
after it gone, and the organization's row as it was. Only an end that was noted elsewhere shows it: `verify` takes one.
They can delete the organization with everything. Who has the key can do anything.

Entries that are past their time go, from the first one on (`forget`). The organization's row has the number and hash of
the last that is gone then, sealed as well, and `verify` begins behind it.

The row also has, sealed as well, how far the trail was verified. Each hour it is verified from there on, and some
thousand entries of what is before, one part after the other.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from uuid import UUID

import asyncpg
import msgspec

from .. import log
from ..storage.database import Database, StoreUnavailable
from ..storage.statements import audit
from ..storage.statements.audit import TrailBegin, TrailChecked, TrailEntry, TrailExtent
from ..storage.vault import Vault, VaultError
from .trail import begin_content, checked_content, end_content, signed_content

logger = logging.getLogger("ingress.audit")

PAGE = 500
VERIFY_EVERY_S = 3600.0
# Of those that a process verifies in turn; who lost the lease harms nobody.
CLAIMED, LEASE_S = 20, 120.0
# So many entries are verified for who asks, in a tenth of a second; and each hour of what was verified before.
MOST, AGAIN = 10_000, 2_000


class Verification(msgspec.Struct, frozen=True):
    """What `verify` found: the trail's end, and the first entry that is wrong, with what is wrong about it.

    ``first``: of those that were looked at. ``next``: behind which to go on; None: that is the end.
    """

    entries: int
    hash: str
    broken: int | None = None
    reason: str | None = None
    first: int = 1
    next: int | None = None


Connect = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]


async def verify(
    database: Database,
    vault: Vault,
    organization_id: UUID,
    noted: tuple[int, str] | None = None,
    after: int | None = None,
) -> Verification:
    """Walk through the trail behind the entry *after*, MOST entries at most.

    *after* None: a trail that is longer is walked from where it was last verified. *noted* is an earlier end, (entries,
    hash), that must still be there; of one that is gone by now nothing can be said.
    """
    connect = partial(database.organization, organization_id)
    walk = await _begun(connect, vault, organization_id, noted)
    if wrong := walk.begin():
        return walk.found(1, wrong)
    if after is not None:
        await _skip_to(connect, walk, after)
    elif walk.is_longer_than(MOST):
        walk.skip_checked()
    if passed := walk.noted_before():
        async with connect() as connection:
            entry = await audit.entry(connection, organization_id, passed)
        if wrong := walk.unlike_noted(passed, entry.hash if entry else b""):
            return walk.found(passed, wrong)
    if wrong := await _through(connect, walk, walk.number + MOST):
        return walk.found(walk.number, wrong)
    return walk.end()


async def _begun(
    connect: Connect, vault: Vault, organization_id: UUID, noted: tuple[int, str] | None = None
) -> "_Walk":
    async with connect() as connection:
        extent = await audit.extent(connection, organization_id)
    if extent is None:
        raise LookupError("there is no such organization")
    return _Walk(vault, organization_id, extent, noted)


async def _skip_to(connect: Connect, walk: "_Walk", number: int) -> None:
    async with connect() as connection:
        entry = await audit.entry(connection, walk.organization_id, number)
    if entry is not None and entry.id == number:
        walk.skip(number, entry.hash)


async def _through(connect: Connect, walk: "_Walk", last: int) -> str | None:
    """Walk on, to the entry *last* at most; what is wrong with the one where that ended."""
    last = min(last, walk.extent.last)
    while walk.number < last:
        async with connect() as connection:
            entries = await audit.forward(connection, walk.organization_id, walk.number, last, PAGE)
        for entry in entries:
            if wrong := walk.next(entry):
                return wrong
        if not entries:
            walk.number += 1
            return "the entry is missing"
    return None


class _Walk:
    """A walk through a trail, entry by entry: ``number`` is the last one, ``former`` its hash."""

    def __init__(self, vault: Vault, organization_id: UUID, extent: TrailExtent, noted: tuple[int, str] | None) -> None:
        self._vault = vault
        self.organization_id = organization_id
        self.extent = extent
        self._noted = noted
        self.number = extent.audit_gone
        self._former = extent.audit_gone_hash
        self._first = self.number + 1

    def begin(self) -> str | None:
        """What is wrong with where it begins."""
        if not self.number:
            return None
        gone = begin_content(self.organization_id, self.number, self._former)
        if not self._is_signed(self.extent.audit_gone_seal, gone):
            return "the entry is missing, and no seal says that it was past its time"
        return self.unlike_noted(self.number, self._former or b"")

    def is_longer_than(self, entries: int) -> bool:
        return self.extent.last - self.number > entries

    def skip(self, number: int, hash: bytes | None) -> None:
        """Begin behind that entry, where none of these comes before it."""
        if number > self.number:
            self.number, self._former, self._first = number, hash, number + 1

    def skip_checked(self) -> None:
        """Begin where the trail was last verified, if a seal says that it was."""
        checked = self.extent.audit_checked, self.extent.audit_checked_hash
        if self._is_signed(self.extent.audit_checked_seal, checked_content(self.organization_id, *checked)):
            self.skip(*checked)

    def noted_before(self) -> int | None:
        """The number of the end that was noted, where it is before what is walked through and not gone."""
        return self._noted[0] if self._noted and self.extent.audit_gone < self._noted[0] < self._first else None

    def checked(self, again: int) -> TrailChecked:
        """That all is right to here, and behind which entry what is before is verified next."""
        seal = self._vault.sign(checked_content(self.organization_id, self.number, self._former))
        return TrailChecked(self.number, self._former, seal, again)

    def next(self, entry: TrailEntry) -> str | None:
        """What is wrong with the next one."""
        self.number += 1
        if entry.id != self.number:
            return "the entry is missing"
        if self.number > self.extent.audit_entries:
            return "the entry was put there by somebody else"
        if wrong := self._changed(entry):
            return wrong
        self._former = entry.hash
        return self.unlike_noted(entry.id, entry.hash)

    def unlike_noted(self, number: int, hash: bytes) -> str | None:
        if self._noted and self._noted[0] == number and self._noted[1] != hash.hex():
            return "the entry is not the one that was noted"
        return None

    def _changed(self, entry: TrailEntry) -> str | None:
        try:
            is_signed = self._vault.signed(entry.hash, signed_content(self.organization_id, self._former, entry))
        except VaultError as error:
            return f"the entry was {error}"
        return None if is_signed else "the entry was changed, or those before it were"

    def end(self) -> Verification:
        """What is found after the last entry that was walked to."""
        if self.number < self.extent.last:
            return self.found()
        if self.number < max(self.extent.audit_entries, 1):
            return self.found(self.number + 1, "the entry is missing, and all after it")
        end = end_content(self.organization_id, self.extent.audit_entries, self.extent.audit_hash)
        if self._former != self.extent.audit_hash or not self._is_signed(self.extent.audit_seal, end):
            return self.found(self.number, "the end in the organization's row is not this one")
        if self._noted and self._noted[0] > self.number:
            return self.found(self.number + 1, "the entry was there when the end was noted")
        return self.found()

    def found(self, broken: int | None = None, reason: str | None = None) -> Verification:
        more = self.number if broken is None and self.number < self.extent.last else None
        end = self.extent.audit_entries, (self.extent.audit_hash or b"").hex()
        return Verification(*end, broken, reason, self._first, more)

    def _is_signed(self, seal: bytes | None, content: bytes) -> bool:
        try:
            return seal is not None and self._vault.signed(seal, content, lately=True)
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
    if not vault.signed(end.audit_seal, end_content(newest, end.audit_entries, end.audit_hash), lately=True):
        raise VaultError("the audit trail was signed with other keys than those in INGRESS_ENCRYPTION_KEYS")


async def verify_due(database: Database, vault: Vault) -> int:
    """Verify the trails whose turn it is and log their ends; how many. Raises `StoreUnavailable`.

    The log is the place where a noted end is out of the database's reach.
    """
    async with database.worker() as connection:
        due = await audit.claim(connection, CLAIMED, LEASE_S, VERIFY_EVERY_S)
    for organization_id in due:
        await verify_on(database, vault, organization_id)
    return len(due)


async def verify_on(database: Database, vault: Vault, organization_id: UUID) -> None:
    """Verify a trail from where it was verified before, and some entries before that, and note what is found."""
    check, checked = await _verified(database, vault, organization_id)
    async with database.worker() as connection:
        if checked is not None:
            await audit.verified(connection, organization_id, checked, VERIFY_EVERY_S)
        else:
            await audit.broken(connection, organization_id, check.broken or 0, VERIFY_EVERY_S)
    _report(organization_id, check)


def _report(organization_id: UUID, check: Verification) -> None:
    end = {"organization": organization_id, "entries": check.entries, "hash": check.hash}
    log.wide("audit_chain", **end, broken=check.broken)
    if check.broken is not None:
        where = (organization_id, check.broken, check.reason)
        logger.error("the audit trail of organization %s is broken at entry %d: %s", *where)


async def _verified(
    database: Database, vault: Vault, organization_id: UUID
) -> tuple[Verification, TrailChecked | None]:
    """What is found, and how far the trail is verified by then; None: something is wrong."""
    try:
        return await _walked_on(database, vault, organization_id)
    except StoreUnavailable:
        raise
    except Exception:  # what cannot even be read was not written here, and must hide nothing of the others
        logger.exception("the audit trail of organization %s cannot be read", organization_id)
        return Verification(0, "", 0, "the trail cannot be read"), None


async def _walked_on(
    database: Database, vault: Vault, organization_id: UUID
) -> tuple[Verification, TrailChecked | None]:
    """Walk through some entries that were verified before, then from the last of those on."""
    walk = await _begun(database.worker, vault, organization_id)
    if wrong := walk.begin():
        return walk.found(1, wrong), None
    known = walk.extent.audit_checked
    if known > walk.extent.audit_entries:
        return walk.found(walk.extent.audit_entries + 1, "the entry was there when the trail was verified"), None
    await _skip_to(database.worker, walk, min(walk.extent.audit_rechecked, known))
    wrong = await _through(database.worker, walk, min(walk.number + AGAIN, known))
    again = walk.number if walk.number < known else 0
    if not wrong:
        walk.skip_checked()
        wrong = await _through(database.worker, walk, walk.extent.last)
    if wrong:
        return walk.found(walk.number, wrong), None
    check = walk.end()
    return check, None if check.broken is not None else walk.checked(again)
