"""The audit trail of an organization: written with each change, and for what was refused; chained by hashes.

An entry's hash is an HMAC over the hash before it and everything in the entry, with a key that is not in the database
(`ingress/storage/vault.py`). The organization's row has the number and hash of the last entry, and a seal of both.
"""

from collections.abc import Sequence
from datetime import UTC
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from ..storage.statements import audit
from ..storage.statements.audit import TrailEnd, TrailEntry
from ..storage.statements.events import EventRow
from ..storage.vault import Vault

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
        former = vault.sign(signed_content(organization_id, former, unsigned))
        signed.append(msgspec.structs.replace(unsigned, hash=former))
    return signed, vault.sign(end_content(organization_id, end.audit_entries + len(signed), former))


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


def signed_content(organization_id: UUID, former: bytes | None, entry: TrailEntry) -> bytes:
    """An entry as it is signed: one JSON array, so that nothing can be moved from one column to its neighbour."""
    at = entry.at and entry.at.astimezone(UTC).isoformat()
    what = [entry.action, entry.actor, entry.address, entry.config_id, entry.provider, entry.outcome, entry.version]
    texts = [_text(entry.before), _text(entry.after), entry.reason]
    return _encode([organization_id, (former or b"").hex(), entry.id, at, *what, *texts])


def _text(json: bytes | None) -> str | None:
    return None if json is None else bytes(json).decode()


def begin_content(organization_id: UUID, gone: int, last_hash: bytes | None) -> bytes:
    return _encode(["begin", organization_id, gone, (last_hash or b"").hex()])


def checked_content(organization_id: UUID, checked: int, its_hash: bytes | None) -> bytes:
    return _encode(["checked", organization_id, checked, (its_hash or b"").hex()])


def end_content(organization_id: UUID, entries: int, last_hash: bytes | None) -> bytes:
    return _encode(["end", organization_id, entries, (last_hash or b"").hex()])
