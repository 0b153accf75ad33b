"""Erases a person: all that an organization has of them, wherever it is; in batches, by whichever process has its turn.

What is counted stays counted, what is known by a hash stays known: a repeated webhook of theirs makes no event, a
repeated send no message. Who writes again afterwards is somebody new.
"""

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from uuid import UUID, uuid4

import asyncpg

from providers.phones import spellings

from .. import log
from ..identifiers import PLATFORM_ID
from ..storage.database import Database
from ..storage.statements import contacts
from ..storage.statements.lifetime import deletion, erasure
from ..storage.statements.lifetime.erasure import BATCH_ROWS, NOBODY, ErasureClaim, Known, Looked

logger = logging.getLogger("ingress.retention.erasure")

# Shorter ones are in bodies that have nothing to do with the person.
SHORTEST = 6
FIRST_SLICE, LONGEST_SLICE = timedelta(minutes=1), timedelta(days=1)
QUICK_S, SLOW_S = 0.1, 0.5
# Between this machine and the database's, at most.
CLOCKS_APART = timedelta(minutes=10)

# What statuses may name messages by which a provider calls so.
KeysOf = Callable[[UUID, Collection[str]], Awaitable[set[str]]]


class _Lost(Exception):
    """Another process goes on with it."""


class _Waits(Exception):
    """It cannot go on yet; for what."""


class Erasures:
    """What was asked to be erased. *keys_of*: see `KeysOf`; *bodies_days*: no raw body is older."""

    def __init__(self, database: Database, keys_of: KeysOf, bodies_days: int) -> None:
        self._database = database
        self._keys_of = keys_of
        self._bodies_for = timedelta(days=bodies_days)

    async def run_due(self) -> None:
        """All that are due, one after the other. Raises `StoreUnavailable`."""
        while (claimed := await self._claim()) is not None:
            try:
                await self._erase(claimed)
            except _Lost:
                logger.warning("another process goes on with the erasure %s", claimed.id)
            except _Waits as reason:
                async with self._database.worker() as connection:
                    await erasure.wait(connection, claimed, str(reason))

    async def _claim(self) -> ErasureClaim | None:
        async with self._database.worker() as connection:
            return await erasure.claim(connection, uuid4())

    async def _erase(self, claimed: ErasureClaim) -> None:
        began, deleted = monotonic(), 0
        known, sought, cut_at = await self._cut_off(claimed)
        conversations = await self._settled(claimed, known, cut_at)
        for step, batches in (
            ("bodies", self._bodies(claimed, sought)),
            ("quarantine", self._quarantine(claimed, sought)),
            ("groups", self._groups(claimed, known, sought)),
            ("messages", self._messages(claimed, conversations)),
            ("events", self._events(claimed, conversations)),
        ):
            async for rows in batches:
                deleted += rows
                await self._hold(claimed, step, rows)
        async with self._database.worker() as connection, connection.transaction():
            deleted += await erasure.forget(connection, claimed.organization_id, known.contact_ids)
            await erasure.finish(connection, claimed)
        took_ms = round((monotonic() - began) * 1000)
        log.wide("contact_erased", organization_id=claimed.organization_id, id=claimed.id, rows=deleted, ms=took_ms)

    async def _hold(self, claimed: ErasureClaim, step: str, deleted: int) -> None:
        async with self._database.worker() as connection:
            if not await erasure.hold(connection, claimed, step, deleted):
                raise _Lost

    # -------------------------------------------------------------- before anything is deleted

    async def _cut_off(self, claimed: ErasureClaim) -> tuple[Known, Sequence[str], datetime]:
        """Who it is, what they are sought by, and since when whoever comes is somebody else. Raises `_Waits`."""
        organization_id = claimed.organization_id
        async with self._database.worker() as connection, connection.transaction():
            if claimed.sought is None and await erasure.is_unread(connection, organization_id):
                raise _Waits("webhooks")
            await contacts.lock(connection, [organization_id])
            known = await erasure.known(connection, organization_id, claimed.contact_id)
            if claimed.sought is not None and claimed.cut_at is not None:
                return known, claimed.sought, claimed.cut_at
            sought = sorted({*_spellings(known.values)})
            cut_at = await erasure.cut_off(connection, claimed, known, sought, self._oldest_body())
            if cut_at is None:
                raise _Lost
        return known, sought, cut_at

    async def _settled(self, claimed: ErasureClaim, known: Known, cut_at: datetime) -> list[UUID]:
        """The person's conversations, once no send to them is under way, and all of it is counted. Raises `_Waits`."""
        organization_id = claimed.organization_id
        async with self._database.worker() as connection:
            conversations = await erasure.conversations(connection, organization_id, known.contact_ids)
            if await erasure.is_sending(connection, organization_id, conversations):
                raise _Waits("sends")
            if not await deletion.is_counted(connection, organization_id, cut_at):
                await erasure.hasten_counting(connection, organization_id)
                raise _Waits("figures")
        return conversations

    # -------------------------------------------------------------- batches of what is deleted: how many rows each

    async def _bodies(self, claimed: ErasureClaim, sought: Sequence[str]) -> AsyncIterator[int]:
        """Slices of time, from the oldest bodies on: they may have come before the person was met."""
        since, width, until = claimed.looked_until or self._oldest_body(), FIRST_SLICE, datetime.now(UTC) + CLOCKS_APART
        accounts = await self._accounts(claimed)
        while sought and since < until:
            began, end = monotonic(), min(since + width, until)
            span = claimed.organization_id, since, end
            async with self._database.worker() as connection:
                rows = await erasure.delete_bodies(connection, *span, _encoded(sought), accounts)
                # If the next slice takes too long, it is begun again as a short one.
                await erasure.looked(connection, claimed, end)
            yield rows
            since, took_s = end, monotonic() - began
            if took_s < QUICK_S:
                width = min(width * 2, LONGEST_SLICE)
            elif took_s > SLOW_S:
                width = max(width / 2, FIRST_SLICE)

    def _oldest_body(self) -> datetime:
        return datetime.now(UTC) - self._bodies_for - LONGEST_SLICE

    async def _accounts(self, claimed: ErasureClaim) -> list[bytes]:
        async with self._database.worker() as connection:
            return _encoded(await erasure.accounts(connection, claimed.organization_id))

    async def _quarantine(self, claimed: ErasureClaim, sought: Sequence[str]) -> AsyncIterator[int]:
        """The organization's, and what came in at apps and names an account of it."""
        for owner, accounts in ((claimed.organization_id, [b""]), (PLATFORM_ID, await self._accounts(claimed))):
            page, after = [(NOBODY, False)], NOBODY
            while sought and page:
                async with self._database.worker() as connection:
                    page = await erasure.quarantined(connection, owner, after, _encoded(sought), accounts)
                    if page:
                        after = page[-1][0]
                        found = [one for one, is_found in page if is_found]
                        yield await erasure.delete_quarantined(connection, owner, found)

    async def _groups(self, claimed: ErasureClaim, known: Known, sought: Sequence[str]) -> AsyncIterator[int]:
        """What they said, or was said to them, in groups."""
        organization_id = claimed.organization_id
        # A number may be the beginning of another's.
        names = [rf"(^|\D){re.escape(name)}(\D|$)" for name in (*sought, *map(str, known.contact_ids))]
        groups, after = [NOBODY], NOBODY
        while groups:
            async with self._database.worker() as connection:
                groups = await erasure.groups(connection, organization_id, after)
            for group in groups:
                after, looked = group, Looked("", 0, ())
                while looked.type is not None:
                    async with self._database.worker() as connection, connection.transaction():
                        looked = await erasure.in_group(connection, organization_id, group, looked, names)
                        yield await erasure.delete_events(connection, organization_id, looked.found)

    async def _messages(self, claimed: ErasureClaim, conversations: Iterable[UUID]) -> AsyncIterator[int]:
        for conversation_id in conversations:
            count = BATCH_ROWS
            while count == BATCH_ROWS:
                async with self._database.worker() as connection, connection.transaction():
                    found = await erasure.messages(connection, claimed.organization_id, conversation_id)
                    rows = await self._statuses(connection, claimed, filter(None, found.values()))
                    rows += await erasure.delete_messages(connection, claimed.organization_id, found.keys())
                yield rows
                count = len(found)

    async def _events(self, claimed: ErasureClaim, conversations: Sequence[UUID]) -> AsyncIterator[int]:
        organization_id = claimed.organization_id
        async with self._database.worker() as connection:
            yield await erasure.delete_held(connection, organization_id, conversations)
        for conversation_id in conversations:
            count = BATCH_ROWS
            while count == BATCH_ROWS:
                async with self._database.worker() as connection:
                    found = await erasure.events(connection, organization_id, conversation_id)
                names = {each.provider_message_id for each in found if each.provider_message_id is not None}
                keys = await self._keys_of(organization_id, names)
                async with self._database.worker() as connection, connection.transaction():
                    rows = await self._statuses(connection, claimed, keys)
                    rows += await erasure.delete_events(connection, organization_id, [each.sequence for each in found])
                yield rows
                count = len(found)

    async def _statuses(self, connection: asyncpg.Connection, claimed: ErasureClaim, keys: Iterable[str]) -> int:
        return await erasure.delete_statuses(connection, claimed.organization_id, sorted(keys))


def _spellings(values: Iterable[str]) -> Iterable[str]:
    """How each address stands in bodies: a number's digits in each spelling, what is before the @ of an id."""
    for value in values:
        names = spellings(value) if value.startswith("+") else {re.sub(r"(:\d+)?@.*", "", value)}
        yield from (name for name in names if len(name) >= SHORTEST)


def _encoded(texts: Iterable[str]) -> list[bytes]:
    return [text.encode() for text in texts]
