"""A database of its own, in which days pass: what is stored has the time that a test says it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from ingress.identifiers import id_at, idempotency_hash, new_id
from ingress.retention.periods import Periods
from ingress.retention.retention import LetGo, Retention
from ingress.settings import Settings
from ingress.storage import partitions
from ingress.storage.connections import WORKER
from ingress.storage.database import Database
from ingress.storage.migration import migrate
from ingress.storage.statements.events import EventRow
from ingress.storage.statements.receiving.inbound import NO_DAY, FactDay, KeyedEvent, QuarantineRow, WebhookRow, store
from ingress.storage.vault import Vault, generate_key

DAY = timedelta(days=1)
# What is stored is of the time in the table `clock`, not of now.
CLOCK = """
create table clock (at timestamptz);
insert into clock values (now());
grant select on clock to public;
create function clock_at() returns timestamptz language sql stable as $$ select at from clock $$;
alter table inbound_webhooks alter received_at set default clock_at();
alter table inbound_dedup alter first_seen set default clock_at();
alter table quarantine alter received_at set default clock_at();
alter table message_statuses alter received_at set default clock_at();
alter table events alter created_at set default clock_at();
alter table messages alter created_at set default clock_at()"""
SEND = """
insert into messages
    (organization_id, id, conversation_id, idempotency_key, request_hash, request, state, expires_at, leased_until)
values ($1, $2, $3, $4, '', '{}', $5, now(), case when $5 <> 'done' then now() end)"""
ATTEMPT = """
insert into attempts (organization_id, message_id, number, config_id, provider, version, started_at, class)
values ($1, $2, 1, $1, 'meta_business', 0, now(), 'ok')"""
STATUS = """
insert into message_statuses (organization_id, account_id, message_key, value, status_rank, matched)
values ($1, $1, $2, 'delivered', 1, true)"""


class World:
    """*owner* may do everything; what the service does goes through *database*."""

    def __init__(self, database: Database, owner: asyncpg.Connection, worker: asyncpg.Connection) -> None:
        self.database = database
        self.owner = owner
        self.worker = worker
        self.vault = Vault(generate_key())
        self.now = datetime.now(UTC)

    async def go_to(self, moment: datetime) -> None:
        """Have it be that time, with the partitions that the service makes by then."""
        self.now = moment
        await self.owner.execute("update clock set at = $1", moment)
        async with self.database.worker() as connection:
            await partitions.keep_ahead(connection, moment)

    async def organization(self) -> UUID:
        """One that is made now, with a callback."""
        organization_id = self.id()
        insert = "insert into organizations (id, name, created_at) values ($1, 'Test', $2)"
        await self.owner.execute(insert, organization_id, self.now)
        insert = "insert into figures_progress (organization_id, sequence) values ($1, $2)"
        await self.owner.execute(insert, organization_id, 2**62)  # everything is counted
        insert = "insert into callbacks (organization_id, url, secrets) values ($1, 'http://127.0.0.1:1/', '')"
        await self.owner.execute(insert, organization_id)
        return organization_id

    def id(self) -> UUID:
        """A new UUIDv7, as of now."""
        return UUID(int=id_at(self.now).int | new_id().int & (1 << 80) - 1)

    async def webhook(self, organization_id: UUID, key: bytes, *, timed: bool = True, aside: bool = False) -> list[int]:
        """A webhook with one event of now, or that is put *aside*; the sequence of the event if it is new."""
        event = EventRow(organization_id, "message.received", organization_id, organization_id, b"{}", b"{}")
        day = FactDay(self.now.date(), self.now.date()) if timed else NO_DAY
        events = [] if aside else [KeyedEvent(key, event, None, None, day)]
        quarantine = [QuarantineRow(self.id(), "malformed", b"body")] if aside else []
        row = WebhookRow(organization_id, organization_id, b"{}", b"body", events, quarantine)
        async with self.worker.transaction():
            [stored] = await store(self.worker, [row])
        return list(stored.sequences)

    async def send(self, organization_id: UUID, key: str, state: str = "done") -> UUID:
        """A message of now with an attempt, and a status of it; its id."""
        message_id = self.id()
        await self.owner.execute(SEND, organization_id, message_id, organization_id, key, state)
        insert = "insert into idempotency_keys (organization_id, key_hash, message_id) values ($1, $2, $3)"
        await self.owner.execute(insert, organization_id, idempotency_hash(organization_id, key), message_id)
        await self.owner.execute(ATTEMPT, organization_id, message_id)
        await self.owner.execute(STATUS, organization_id, str(message_id))
        return message_id

    async def delivered(self) -> None:
        """The CRM has taken everything."""
        await self.owner.execute("update deliveries set state = 'delivered' where state = 'pending'")

    async def let_go(self, periods: Periods) -> LetGo:
        return await Retention(self.database, self.vault, periods, share=1).run(self.now)

    async def count(self, table: str, where: str = "true", *arguments: object) -> int:
        found: int = await self.owner.fetchval(f"select count(*) from {table} where {where}", *arguments)
        return found


@asynccontextmanager
async def world(settings: Settings) -> AsyncIterator[World]:
    name = f"kept_{uuid4().hex}"
    url = settings.database_url.replace("/postgres?", f"/{name}?")
    maker = await asyncpg.connect(settings.database_url)
    await maker.execute(f"create database {name}")
    try:
        await migrate(url)
        owner = await asyncpg.connect(url)
        await owner.set_type_codec("json", schema="pg_catalog", encoder=str, decoder=str)
        await owner.execute(CLOCK)
        async with Database(url) as database:
            worker = await database.connect(WORKER)
            yield World(database, owner, worker)
            await worker.close()
        await owner.close()
    finally:
        await maker.execute(f"drop database {name} with (force)")
        await maker.close()
