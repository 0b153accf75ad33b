"""The audit trail of an organization: written with each change, chained by hashes, verified.

An entry's hash is an HMAC over the hash before it and everything in the entry, with a key that is not in the database
(`ingress/storage/vault.py`). The organization's row has the number and hash of the last entry, and a seal of both.

Who can write to the database, and has no key, cannot edit, delete, insert or reorder entries, nor cut off the last
ones, without `verify` naming the first entry that is wrong. They can put back an older copy of the whole: all entries
after it gone, and the organization's row as it was. Only who noted the end somewhere else can tell: `verify` takes it.
They can delete the organization with everything. Who has the key can do anything.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from . import log
from .storage.database import Database, StoreUnavailable
from .storage.statements import audit
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
    actor: Actor,
    action: str,
    *,
    config_id: UUID | None = None,
    version: int | None = None,
    before: object = None,
    after: object = None,
    reason: str | None = None,
) -> None:
    """Write down a change in the transaction that makes it. *before* and *after* are JSON, secrets as fingerprints."""
    end = await audit.end(connection, organization_id)
    if end is None:
        raise LookupError("there is no such organization")
    number = end["audit_entries"] + 1
    entry: dict[str, Any] = {
        "action": action,
        "actor": actor.name,
        "address": actor.address,
        "config_id": config_id,
        "version": version,
        "before": None if before is None else _encode(before),
        "after": None if after is None else _encode(after),
        "reason": reason,
    }
    entry_hash = vault.sign(_content(organization_id, end["audit_hash"], number, end["at"], entry))
    await audit.append(
        connection,
        organization_id,
        number,
        end["at"],
        **entry,
        entry_hash=entry_hash,
        seal=vault.sign(_end(organization_id, number, entry_hash)),
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

    In the *background* none of the API's connections is taken.
    """
    connect = database.worker if background else partial(database.organization, organization_id)
    async with connect() as connection:
        extent = await audit.extent(connection, organization_id)
    if extent is None:
        raise LookupError("there is no such organization")
    entries, last, known = extent["audit_entries"], extent["last"], extent["audit_hash"]

    def broken(entry: int, reason: str) -> Verification:
        return Verification(entries, (known or b"").hex(), entry, reason)

    former, number = None, 0
    while number < last:
        async with connect() as connection:
            rows = await audit.forward(connection, organization_id, number, last, PAGE)
        for row in rows:
            number += 1
            if row["id"] != number:
                return broken(number, "the entry is missing")
            if number > entries:
                return broken(number, "the entry was put there by somebody else")
            try:
                if not vault.signed(row["hash"], _content(organization_id, former, number, row["at"], row)):
                    return broken(number, "the entry was changed, or those before it were")
            except VaultError as error:
                return broken(number, f"the entry was {error}")
            former = row["hash"]
            if noted and noted[0] == number and former.hex() != noted[1]:
                return broken(number, "the entry is not the one that was noted")
    if number < max(entries, 1):
        return broken(number + 1, "the entry is missing, and all after it")
    if former != known or not _sealed(vault, extent["audit_seal"], _end(organization_id, entries, known)):
        return broken(number, "the end that the organization's row tells is not this one")
    if noted and noted[0] > number:
        return broken(number + 1, "the entry was there when the end was noted")
    return Verification(entries, known.hex())


async def check_keys(connection: asyncpg.Connection, vault: Vault) -> None:
    """Raise `VaultError` where the newest organization's trail was signed with a key that is none of ours (worker)."""
    end = await audit.newest(connection)
    if end is not None and not vault.signed(
        end["audit_seal"], _end(end["id"], end["audit_entries"], end["audit_hash"])
    ):
        raise VaultError("the audit trail was signed with other keys than those in INGRESS_ENCRYPTION_KEYS")


async def verify_due(database: Database, vault: Vault) -> int:
    """Verify the trails whose turn it is and tell their ends to the log; how many. Raises `StoreUnavailable`.

    The log is the place where a noted end is out of the database's reach.
    """
    async with database.worker() as connection:
        due = await audit.claim(connection, CLAIMED, LEASE_S, VERIFY_EVERY_S)
    for organization_id in due:
        try:
            verdict = await verify(database, vault, organization_id, background=True)
        except StoreUnavailable:
            raise
        except Exception:  # what cannot even be read was not written here, and must hide nothing of the others
            logger.exception("the audit trail of organization %s cannot be read", organization_id)
            verdict = Verification(0, "", 0, "the trail cannot be read")
        async with database.worker() as connection:
            await audit.verified(connection, organization_id, verdict.broken, VERIFY_EVERY_S)
        end = {"organization": organization_id, "entries": verdict.entries, "hash": verdict.hash}
        log.wide("audit_chain", **end, broken=verdict.broken)
        if verdict.broken is not None:
            where = (organization_id, verdict.broken, verdict.reason)
            logger.error("the audit trail of organization %s is broken at entry %d: %s", *where)
    return len(due)


def _sealed(vault: Vault, seal: bytes | None, content: bytes) -> bool:
    try:
        return seal is not None and vault.signed(seal, content)
    except VaultError:
        return False


def _content(
    organization_id: UUID,
    former: bytes | None,
    number: int,
    at: datetime | None,  # None: a time that nobody can have signed
    entry: "Mapping[str, Any] | asyncpg.Record",
) -> bytes:
    """An entry as it is signed: one JSON array, so that nothing can be moved from one column to its neighbour."""
    names = ("action", "actor", "address", "config_id", "version")
    texts = [None if entry[name] is None else bytes(entry[name]).decode() for name in ("before", "after")]
    place = [organization_id, (former or b"").hex(), number, at and at.astimezone(UTC).isoformat()]
    return _encode([*place, *(entry[name] for name in names), *texts, entry["reason"]])


def _end(organization_id: UUID, entries: int, last_hash: bytes | None) -> bytes:
    return _encode(["end", organization_id, entries, (last_hash or b"").hex()])
