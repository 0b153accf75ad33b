"""Two organizations with data everywhere, to see that neither is shown anything of the other's."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID, uuid4

import asyncpg

from ingress.dev.sandbox.meta.bodies import envelope, status_item
from ingress.dev.sandbox.meta.templates import example_template
from ingress.health.counting import count_due
from ingress.settings import Settings
from ingress.storage.database import Database
from ingress.storage.statements.reports import notifications

from .console.browsing import signed_in
from .gateway import Gateway, Organization, eventually


class Data(NamedTuple):
    """An organization with a row in every table, and what its things are called."""

    organization: Organization
    ids: dict[str, str]  # a value for each path parameter, and of what the lists without one hold
    names: list[bytes]  # everything that would tell one of its things; a person's phone first
    sequences: list[int]


def random_ids() -> dict[str, str]:
    one = str(uuid4())
    return {
        "message_id": one,
        "quarantine_id": one,
        "config_id": one,
        "event_id": f"evt_{uuid4().hex}",
        "key_id": one[:8],
        "conversation_id": one,
        "organization_id": one,
        "app_id": one,
        "contact_id": one,
        "erasure_id": one,
    }


# While nobody delivers: who does would store another outcome afterwards.
PARK = """
with idle as (
    select conversation_id from delivery_queues where organization_id = $1 and lease_id is null for update
)
update deliveries set state = 'parked'
where organization_id = $1 and sequence = $2 and conversation_id in (select conversation_id from idle)"""


@asynccontextmanager
async def connected(settings: Settings, role: str | None = None) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the owner of the database, or in *role* as the service has it."""
    connection = await asyncpg.connect(settings.database_url, server_settings={"role": role} if role else {})
    try:
        yield connection
    finally:
        await connection.close()


async def populated(gateway: Gateway, settings: Settings, phone: str) -> Data:
    organization = await gateway.organization(f"Org {phone}")
    await organization.configure()
    await organization.configure(active=False)
    await organization.fall_back_to(organization.configs[1]["config_id"])
    # Nobody listens there: deliveries wait.
    assert (await organization.call("PUT", "/callback", {"url": "http://127.0.0.1:1/"})).status == 200
    number = organization.numbers[0]
    template = f"offer_{phone[1:]}"
    gateway.meta.set_templates(number, [example_template(name=template)])
    people = gateway.meta.inbound(number)
    for words in ("one", "two"):
        assert (await organization.post_webhook(people.text(words, phone=phone))).status == 200
    picture = people.image(phone=phone, data=b"\xff\xd8\xff" + phone.encode())
    assert (await organization.post_webhook(picture)).status == 200
    assert (await organization.post_webhook(b"unreadable")).status == 200
    foreign = people.text("of somebody else", phone=phone)
    foreign["entry"][0]["changes"][0]["value"]["metadata"]["phone_number_id"] = "1"
    assert (await organization.post_webhook(foreign)).status == 200
    stray = status_item(f"wamid.stray{phone[1:]}", "delivered", {"to": phone})
    assert (await organization.post_webhook(envelope((number, {"statuses": [stray]})))).status == 200
    sent = (await organization.send({"to": phone, "body": "hello"}, idempotency_key=f"key-{phone[-1]}")).json
    sent = await organization.settled(sent["id"], "read")  # on a busy machine the answer is only that it is accepted
    await signed_in(organization)
    [aside] = (await organization.call("GET", "/quarantine")).json["quarantine"]
    found = await organization.events()
    received = [event for event in found if event["type"] == "message.received"]
    pictures = [event for event in received if event["data"]["message"]["content"]["type"] == "image"]
    async with connected(settings) as connection:
        parked = (PARK, UUID(organization.id), received[0]["sequence"])
        await eventually(lambda: connection.execute(*parked), lambda done: done == "UPDATE 1")
        await notifications.mark(connection, UUID(organization.id), "platform", datetime.now(UTC))
    key_id = organization.key.split("_")[2]
    ids = {
        "message_id": sent["id"],
        "quarantine_id": aside["id"],
        "config_id": organization.configs[0]["config_id"],
        "event_id": pictures[0]["id"],
        "key_id": key_id,
        "conversation_id": received[0]["data"]["conversation"]["id"],
        "organization_id": organization.id,
        "app_id": organization.id,
        "contact_id": received[0]["data"]["conversation"]["contact"]["id"],
        "fallback_id": organization.configs[1]["config_id"],
        "template": template,
    }
    names = [phone, *ids.values(), sent["provider_message_id"], number.phone_number_id, number.display_phone_number]
    names += [config["config_id"] for config in organization.configs] + [event["id"] for event in found]
    answer = [json.dumps(name)[1:-1].encode() for name in names]
    return Data(organization, ids, answer, [event["sequence"] for event in found])


async def populated_pair(gateway: Gateway, settings: Settings) -> tuple[Data, Data]:
    first, second = await asyncio.gather(
        populated(gateway, settings, "+5511900000001"), populated(gateway, settings, "+5511900000002")
    )
    assert not set(first.names) & set(second.names)
    await all_counted(settings, first.organization, second.organization)
    for data in (first, second):
        await _with_lifetimes(data, settings)
    return first, second


async def _with_lifetimes(data: Data, settings: Settings) -> None:
    """What says how long things are kept, which the first release did not have."""
    organization, erasure_id = data.organization, uuid4()
    assert (await organization.call("PUT", "/retention", {"bodies_days": 29})).status == 200
    async with connected(settings) as connection:
        for rows in (
            "retention_marks (organization_id, since) values ($1, '2020-01-01')",  # before there was any
            f"erasures (organization_id, id, finished_at) values ($1, '{erasure_id}', now())",  # of nobody any more
        ):
            await connection.execute(f"insert into {rows}", UUID(organization.id))
    data.ids["erasure_id"] = str(erasure_id)


async def all_counted(settings: Settings, *organizations: Organization) -> None:
    """Until the figures have all that is stored of *organizations*, by whichever process."""
    ids = [UUID(organization.id) for organization in organizations]
    async with connected(settings) as owner, Database(settings.database_url) as database:

        async def are_counted() -> bool:
            await owner.execute("update figures_progress set due_at = now() where organization_id = any($1)", ids)
            await count_due(database)
            left = "select from events e join figures_progress p using (organization_id) where e.sequence > p.sequence"
            return not await owner.fetchval(f"select exists ({left} and organization_id = any($1))", ids)

        await eventually(are_counted)


# What goes on by itself: deliveries to a callback where nobody listens, and counting.
RESTLESS = {"callbacks", "deliveries", "delivery_queues", "figures_progress", "provider_figures", "provider_usage"}


@asynccontextmanager
async def untouched(settings: Settings, *organizations: Organization) -> AsyncIterator[None]:
    """Fails where afterwards any row of *organizations* is another than before, was added, or is gone.

    But for what the trail has of their own requests that were refused, and when a config or a key was last used.
    """
    ids = [UUID(organization.id) for organization in organizations]

    async def rows() -> dict[str, list[str]]:
        async with connected(settings) as owner:
            tables = await tables_of(owner)
            return {
                table: [
                    row[0]
                    for row in await owner.fetch(
                        "select (to_jsonb(t) - '{audit_entries,audit_hash,audit_seal}'::text[]"
                        " - '{webhook_at,received_at,sent_at,last_used_at}'::text[])::text"
                        f" from {table} t where {column} = any($1)"
                        " and to_jsonb(t) ->> 'outcome' is distinct from 'refused'",
                        ids,
                    )
                ]
                for table, column in tables.items()
                if table not in RESTLESS
            }

    before = await rows()
    yield
    after = await rows()
    for table, kept in before.items():
        assert sorted(after[table]) == sorted(kept), table


# ---------------------------------------------------------------- who is let in


async def tables_of(connection: asyncpg.Connection) -> dict[str, str]:
    """Every table of an organization's data, and its column that names the organization, from the catalog.

    Partitions are none by themselves.
    """
    rows = await connection.fetch(
        "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid"
        " where a.attname = 'organization_id' and not a.attisdropped and c.relkind in ('r', 'p')"
        " and not c.relispartition and c.relnamespace = 'public'::regnamespace order by 1"
    )
    return {row["relname"]: "organization_id" for row in rows} | {"organizations": "id"}
