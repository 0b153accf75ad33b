"""A database as the service fills it in months: examples that it stored itself, copied by SQL, spread over time.

Of each pair of facts the first is a send that its provider took, and the second is what came in by a webhook: in turn a
person's message, and a status of the send. Ids are UUIDv7 of their time, sequences rise with it, each transaction has
its own; bodies and keys are there as long as the service keeps them. One organization has three tenths of all, and one
person of it a tenth of that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from ingress.audit.trail import SYSTEM, AuditEntry, record
from ingress.identifiers import account_id, conversation_id, id_at
from ingress.people.addresses import phone_address
from ingress.storage.database import Database
from ingress.storage.statements.figures import BOUNDS_MS, CLASSES
from providers import phone_key

from ..pool import CONTACTS
from .layout import START, begin_stream, sequences_in
from .site import EXAMPLE_LEAD, EXAMPLE_PHONE, Site, make_examples

CHUNK = 100_000  # pairs a transaction
BIG_SHARE = 0.3


@dataclass(frozen=True)
class Sizes:
    """How much there is: all of it follows from the number of events, but for what is said of it."""

    events: int
    organizations: int = 1_000
    days: int = 90
    kept_days: int = 30
    people: int | None = None  # of the big organization; None: as many as write so much

    @property
    def pairs(self) -> int:
        return self.events // 2

    @property
    def span(self) -> timedelta:
        return timedelta(days=self.days)

    @property
    def stride(self) -> int:
        """Sequences of a pair: whole transactions, of which a send takes some and a webhook one."""
        return sequences_in(self.span) // self.pairs & ~0xFFFF

    @property
    def big_people(self) -> int:
        return self.people or max(50, round(self.events * BIG_SHARE / 120))

    @property
    def small_people(self) -> int:
        return max(10, round(self.events * (1 - BIG_SHARE) / self.organizations / 140))

    @property
    def quarantined(self) -> int:
        return self.events // 80

    @property
    def audit_entries(self) -> int:
        return self.events // 200


async def fill(site: Site, sizes: Sizes) -> None:
    """Fill the new database of *site*."""
    make_examples(site)
    connection = await asyncpg.connect(site.database_url, command_timeout=3600)
    try:
        await connection.execute("set synchronous_commit = off")
        await _checkpoint_at(connection, "4GB")
        since = datetime.now(UTC) - sizes.span
        await _people(connection, site, sizes, since)
        example = await _example(connection, site)
        await _remove_examples(connection)
        await begin_stream(connection, since, sizes.span)
        for first in range(0, sizes.pairs, CHUNK):
            async with connection.transaction():
                await connection.execute(_facts(sizes), first, min(first + CHUNK, sizes.pairs) - 1, since)
                for statement, arguments in example:
                    await connection.execute(statement, *arguments)
                await connection.execute("drop table facts")
            # Its pages are in memory and in the log still: after the next checkpoint each would be written whole.
            await connection.execute("vacuum")
        for statement in (*_REST, _figures(MINUTES, "48 hours"), _figures(HOURS, "400 days")):
            await connection.execute(statement.format(**_rest(sizes)))
        await connection.execute("vacuum analyze")
        await _checkpoint_at(connection, "1GB")
    finally:
        await connection.close()
    await _audit(site, sizes.audit_entries)


async def _checkpoint_at(connection: asyncpg.Connection, size: str) -> None:
    await connection.execute(f"alter system set max_wal_size = '{size}'")
    await connection.execute("select pg_reload_conf()")
    await connection.execute("checkpoint")


# ------------------------------------------------------------------ people


async def _people(connection: asyncpg.Connection, site: Site, sizes: Sizes, since: datetime) -> None:
    """The people of each organization, and what the rows of a pair are made from."""
    await connection.execute(
        "create temp table seed_organizations (organization integer primary key, organization_id uuid, config_id uuid,"
        " account_id uuid, people integer);"
        "create temp table seed_people (organization integer, person integer, contact_id uuid, conversation_id uuid,"
        " phone text, primary key (organization, person))"
    )
    sender = await connection.fetchval("select sender from whatsapp_provider_configs limit 1")
    scope = await connection.fetchval("select scope from contact_addresses where kind = 'user'")
    for place, made in enumerate(site.organizations):
        owner, config = UUID(made.id), UUID(made.config_id)
        count = sizes.small_people if place else sizes.big_people
        account = account_id(owner, config, "meta_business", sender)
        people = [_person(owner, phone_key(sender), number, since) for number in range(count)]
        await connection.execute(
            "insert into seed_organizations values ($1, $2, $3, $4, $5)", place, owner, config, account, count
        )
        rows = [(place, number, *person) for number, person in enumerate(people)]
        await connection.copy_records_to_table("seed_people", records=rows)
        await _meet(connection, owner, people, None if place else scope, since, phone_key(sender))
    await connection.execute("analyze seed_organizations, seed_people")


def _person(owner: UUID, account: str, number: int, since: datetime) -> tuple[UUID, UUID, str]:
    contact = UUID(int=id_at(since).int | 7 << 76 | 2 << 62 | owner.int % (1 << 30) << 32 | number)
    return contact, conversation_id(owner, account, contact, None), f"+55119{number:08d}"


async def _meet(
    connection: asyncpg.Connection,
    owner: UUID,
    people: Sequence[tuple[UUID, UUID, str]],
    scope: str | None,
    since: datetime,
    account: str,
) -> None:
    """Contacts, addresses and conversations; in a *scope* they have ids, too. The pool's have the pool's name."""
    await connection.execute("delete from contacts where organization_id = $1", owner)
    await connection.execute("delete from contact_addresses where organization_id = $1", owner)
    await connection.execute("delete from conversations where organization_id = $1", owner)
    phones = [phone_address(phone) for _, _, phone in people]
    ids = [f"BR.13491208{number:08d}" for number in range(len(people))] if scope else []
    names = ["Ana Souza" if number < CONTACTS else f"Bruno Lima {number}" for number in range(len(people))]
    tables: dict[str, tuple[list[str], list[tuple[Any, ...]]]] = {
        "contacts": (
            ["organization_id", "id", "name", "name_since", "created_at"],
            [(owner, person[0], name, since, since) for person, name in zip(people, names, strict=True)],
        ),
        "contact_addresses": (
            ["organization_id", "address", "contact_id", "kind", "scope", "value", "since", "reached_by"],
            [
                (owner, phone.key, person[0], "phone", "", phone.value, since, phone.value)
                for person, phone in zip(people, phones, strict=True)
            ]
            + [
                (owner, f"user:{scope}:{id}", person[0], "user", scope, id, since, None)
                for person, id in zip(people, ids, strict=False)
            ],
        ),
        "conversations": (
            ["organization_id", "id", "account", "contact_id", "created_at"],
            [(owner, person[1], account, person[0], since) for person in people],
        ),
    }
    for table, (columns, records) in tables.items():
        await connection.copy_records_to_table(table, columns=columns, records=records)


# ------------------------------------------------------------------ facts


def _facts(sizes: Sizes) -> str:
    """The pairs from $1 to $2, of a time that began at $3, with everything that is their own."""
    span, pairs = f"interval '{sizes.days} days'", sizes.pairs
    return f"""
create temp table facts as
select n, at, follow_at, {time_ordered_id("at", "n")} as id, o.organization_id, o.config_id, o.account_id,
    p.conversation_id, p.contact_id, p.phone, 'wamid.HBgN' || md5('sent' || n) as wamid,
    'wamid.HBgN' || md5('came' || n) as came,
    'lead-' || n / 3 as lead, start as place, start + 65537 as sequence, start + 131073 as follow,
    n % 2 = 0 as is_message, n % 50 = 0 as failed,
    n % 10 < 3 as delivered, follow_at > now() - interval '{sizes.kept_days} days' as is_kept
from generate_series($1::bigint, $2::bigint) n
cross join lateral (select $3::timestamptz + {span} * (n::float / {pairs}) as at) began
cross join lateral (select least(at + interval '2 seconds', now()) as follow_at) followed
cross join lateral (select {START} + n * {sizes.stride}::bigint as start) stream
cross join lateral (select n * 2654435761 % 2147483647 as drawn) draw
join seed_organizations o on o.organization = case
    when drawn % 1000 < {BIG_SHARE * 1000} then 0 else 1 + drawn / 1000 % {sizes.organizations - 1} end
join seed_people p on p.organization = o.organization and p.person = case
    when o.organization = 0 and drawn / 7 % 10 = 0 then 0 else drawn / 77 % o.people end"""


def time_ordered_id(at: str, salt: str) -> str:
    """A UUIDv7 of the moment *at*."""
    milliseconds = f"lpad(to_hex((extract(epoch from {at}) * 1000)::bigint), 12, '0')"
    return (
        f"({milliseconds} || '7' || substr(md5({salt}::text), 1, 3) || '8' || substr(md5({salt}::text), 4, 15))::uuid"
    )


SENT = {"sequence": "sequence", "created_at": "at"}
CAME = {"sequence": "follow", "created_at": "follow_at"}
OWN = {"organization_id": "organization_id", "config_id": "config_id", "conversation_id": "conversation_id"}
DELIVERED = {
    "organization_id": "organization_id",
    "conversation_id": "conversation_id",
    "attempts": "1",
    "answer": "200",
}
STATE = "case when n % 5000 = 0 then 'parked' else 'delivered' end"


async def _example(connection: asyncpg.Connection, site: Site) -> list[tuple[str, list[Any]]]:
    """What a chunk of facts becomes: statements with their arguments, out of the rows that the service stored."""
    rows = {
        name: dict((await connection.fetch(f"select * from {source} limit 1"))[0])
        for name, source in {
            "sent": "events where type = 'message.status' and raw is null",
            "status": "events where type = 'message.status' and raw is not null",
            "received": "events where type = 'message.received'",
            "delivery": "deliveries",
            "webhook": "inbound_webhooks order by received_at",
            "message": "messages",
            "attempt": "attempts",
        }.items()
    }
    words = {
        site.big.id: "organization_id",
        site.big.config_id: "config_id",
        str(rows["message"]["conversation_id"]): "conversation_id",
        _contact_in(rows["sent"]["data"]): "contact_id",
        EXAMPLE_PHONE: "phone",
        rows["message"]["provider_message_id"]: "wamid",
        _wamid_in(rows["received"]["data"]): "came",
        str(rows["message"]["id"]): "id",
        EXAMPLE_LEAD: "lead",
    }
    failed = rows["sent"]["data"].replace(
        '"value":"sent"', '"value":"failed","error":{"class":"Rejected","code":"131026","detail":"undeliverable"}'
    )
    sent, failed = _text(rows["sent"]["data"], words), _text(failed, words)
    message = {
        **OWN,
        "id": "id",
        "account_id": "account_id",
        "idempotency_key": "'key-' || n",
        "request": _text(rows["message"]["request"], words),
        "request_id": "'req_' || substr(md5('r' || n), 1, 16)",
        "queue_place": "place",
        "status": "case when failed then 'failed' when delivered then 'delivered' else 'read' end",
        "status_rank": "case when failed then 3 when delivered then 4 else 5 end",
        "error": """case when failed then json_build_object(
            'class', case n % 3 when 0 then 'Rejected' else 'Throttled' end, 'code', '131026') end""",
        "provider_message_id": "wamid",
        "message_key": "wamid",
        "created_at": "at",
        "updated_at": "follow_at",
        "sent_at": "at",
        "expires_at": "at + interval '10 minutes'",
    }
    attempt = {
        "organization_id": "organization_id",
        "message_id": "id",
        "config_id": "config_id",
        "started_at": "at",
        "class": "case when failed then 'Rejected' else 'ok' end",
        "code": "case when failed then '131026' end",
        "provider_message_id": "case when not failed then wamid end",
    }
    delivery = {**DELIVERED, "state": STATE, "finished_at": "at", "sequence": "sequence"}
    webhook = {"organization_id": "organization_id", "config_id": "config_id", "received_at": "follow_at"}
    key = {
        "organization_id": "organization_id",
        "key_hash": "decode(md5('came' || n), 'hex')",
        "day": "(follow_at at time zone 'UTC')::date",
        "sequence": "case when is_message then follow end",
        "first_seen": "follow_at",
    }
    sent_as = {
        "organization_id": "organization_id",
        "key_hash": "decode(md5('key' || n), 'hex')",
        "message_id": "id",
    }
    status = {
        "organization_id": "organization_id",
        "account_id": "account_id",
        "message_key": "wamid",
        "value": "'delivered'",
        "status_rank": "4",
        "occurred_at": "follow_at",
        "received_at": "follow_at",
        "matched": "true",
    }
    return [
        await _copied(connection, "messages", rows["message"], message),
        await _copied(connection, "idempotency_keys", {}, sent_as, "is_kept"),
        await _copied(connection, "attempts", rows["attempt"], attempt),
        await _copied(
            connection, "events", rows["sent"], OWN | SENT | {"data": f"case when failed then {failed} else {sent} end"}
        ),
        await _copied(
            connection,
            "events",
            rows["received"],
            OWN | CAME | {"data": _text(rows["received"]["data"], words)},
            "is_message",
        ),
        await _copied(
            connection,
            "events",
            rows["status"],
            OWN | CAME | {"data": _text(rows["status"]["data"], words)},
            "not is_message",
        ),
        await _copied(connection, "deliveries", rows["delivery"], delivery),
        await _copied(
            connection, "deliveries", rows["delivery"], delivery | {"sequence": "follow", "finished_at": "follow_at"}
        ),
        await _copied(connection, "inbound_webhooks", rows["webhook"], webhook, "is_kept"),
        await _copied(connection, "inbound_dedup", {}, key, "is_kept"),
        await _copied(connection, "message_statuses", {}, status, "n % 10 = 1 and not failed"),
    ]


def _contact_in(data: str) -> str:
    return data.partition('"contact":{')[2].partition('"id":"')[2].partition('"')[0]


def _wamid_in(data: str) -> str:
    return data.partition('"provider_message_id":"')[2].partition('"')[0]


def _text(text: str, words: Mapping[str, str]) -> str:
    """SQL that writes the JSON *text* with the fact's own in place of the example's *words*."""
    template = text.replace("%", "%%").replace("'", "''")
    for place, word in enumerate(words, 1):
        template = template.replace(word, f"%{place}$s")
    return f"format('{template}', {', '.join(words.values())})::json"


async def _copied(
    connection: asyncpg.Connection, table: str, row: Mapping[str, Any], own: Mapping[str, str], which: str = "true"
) -> tuple[str, list[Any]]:
    """An insert of one row a fact: columns that are its *own*, and the others as in *row*."""
    columns = await connection.fetch(
        "select attname, format_type(atttypid, atttypmod) from pg_attribute"
        " where attrelid = $1::regclass and attnum > 0 and not attisdropped and attgenerated = ''",
        table,
    )
    types: dict[str, str] = {name: kind for name, kind in columns}
    same = [name for name in types if name not in own and row.get(name) is not None]
    values = [f"${place}::{types[name]}" for place, name in enumerate(same, 1)]
    written = ", ".join([*own, *same])
    source = f"select {', '.join([*own.values(), *values])} from facts where {which} order by n"
    return f"insert into {table} ({written}) {source}", [row[name] for name in same]


async def _remove_examples(connection: asyncpg.Connection) -> None:
    for table in (
        "delivery_queues",
        "attempts",
        "messages",
        "inbound_webhooks",
        "inbound_dedup",
        "idempotency_keys",
        "callbacks",
    ):
        await connection.execute(f"delete from {table}")


# ------------------------------------------------------------------ what follows from the facts


_REST = (
    """insert into quarantine (organization_id, id, config_id, received_at, reason, headers, body)
    select organization_id, {quarantine_id}, config_id, at, 'unreadable', '{{}}', convert_to(repeat('{{', 200), 'UTF8')
    from generate_series(1, {quarantined}) n
    cross join lateral (select now() - interval '{kept_days} days' * (1 - n::float / {quarantined}) as at) began
    join seed_organizations on organization = case when n % 2 = 0 then 0 else n / 2 % {organizations} end""",
    # All of these are counted.
    "update figures_progress set sequence = (select base from event_clock)",
)
MINUTES, HOURS = ("minute", 1), ("hour", 60)


def _rest(sizes: Sizes) -> dict[str, object]:
    return {
        "quarantine_id": time_ordered_id("at", "n"),
        "quarantined": sizes.quarantined,
        "kept_days": sizes.kept_days,
        "organizations": sizes.organizations,
    }


def _figures(step: tuple[str, int], kept: str) -> str:
    nothing = "array_fill(0, array[{}])".format
    return f"""insert into provider_figures (organization_id, config_id, minutes, since, provider, tried, sent, errors,
        undelivered, durations)
    select organization_id, config_id, {step[1]}, date_trunc('{step[0]}', created_at), 'meta_business', count(*),
        count(*), {nothing(len(CLASSES))}, {nothing(len(CLASSES))}, {nothing(len(BOUNDS_MS) + 1)}
    from messages where created_at > now() - interval '{kept}' group by 1, 2, 4"""


async def _audit(site: Site, count: int) -> None:
    """A trail of so many entries of the big organization, chained as the service chains them."""
    entry = AuditEntry(action="fallback_changed", actor=SYSTEM, after={"fallback": []})
    async with Database(site.database_url) as database:
        for first in range(0, count, 1_000):
            async with database.organization(UUID(site.big.id)) as connection:
                await record(connection, site.vault, UUID(site.big.id), *[entry] * min(1_000, count - first))
