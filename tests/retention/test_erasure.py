"""A person is erased: nothing of them is left anywhere, and nothing of anybody else is missing."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import pytest
import redis.asyncio

from ingress.dev.sandbox.meta.bodies import envelope, new_wamid, status_item
from ingress.identifiers import PLATFORM_ID, new_id
from ingress.retention.erasure import Erasures
from ingress.settings import Settings
from ingress.storage.database import Database, StoreUnavailable
from ingress.storage.statements.lifetime import erasure

from ..gateway import Gateway, Organization, command, eventually
from ..populated import all_counted


class Person(NamedTuple):
    """Somebody nobody else is in this database."""

    phone: str
    name: str
    words: str


def somebody() -> Person:
    number = f"{random.randrange(10**8):08}"
    return Person(f"+55119{number}", f"Zuleica Quaresma {number}", f"the words that only {number} wrote")


@pytest.fixture
def person() -> Person:
    return somebody()


@pytest.fixture
async def owner(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


async def found_in_database(owner: asyncpg.Connection, sought: list[str]) -> list[str]:
    """Every table, and every column of it, as text: `table: what was found`."""
    texts = await owner.fetch(
        "select relname, string_agg("
        "   case atttypid when 'bytea'::regtype then format('encode(%I, ''escape'')', attname)"
        "   else format('%I::text', attname) end, ', ')"
        " from pg_class c join pg_attribute a on attrelid = c.oid and attnum > 0 and not attisdropped"
        " where relkind = 'r' and relnamespace = 'public'::regnamespace"
        " and pg_relation_size(c.oid) > 0 group by relname"
    )
    found = []
    for table, values in texts:
        rows = await owner.fetch(
            f"select one from unnest($1::text[]) one"
            f" where exists (select from {table} where strpos(concat_ws(' ', {values}), one) > 0)",
            sought,
        )
        found += [f"{table}: {one}" for (one,) in rows]
    return found


async def found_in_redis(settings: Settings, sought: list[str]) -> list[str]:
    async with redis.asyncio.Redis.from_url(settings.redis_url) as client:
        texts = [key.decode("utf-8", "replace") async for key in client.scan_iter()]
        texts += [str(await client.get(key)) for key in texts if await client.type(key) == b"string"]
    return [one for one in sought for text in texts if one in text]


async def met(organization: Organization, person: Person) -> Any:
    """The event of a message, whose webhook was posted twice."""
    body = organization.gateway.meta.inbound(organization.numbers[0]).text(person.words, phone=person.phone)
    body["entry"][0]["changes"][0]["value"]["contacts"][0]["profile"]["name"] = person.name
    for _ in range(2):
        assert (await organization.post_webhook(body)).status == 200
    return body


async def contact_of(organization: Organization, person: Person) -> Any:
    return (await organization.call("GET", f"/contacts?phone=%2B{person.phone[1:]}")).json["contacts"][0]


async def spoken_with(organization: Organization, person: Person) -> tuple[list[str], Any, Any]:
    """Somebody who has left something in every table: what it is found by, their contact, and the webhook."""
    number = organization.numbers[0]
    phone, name, words = person
    body = await met(organization, person)
    sent = await organization.send({"to": phone, "body": f"answer to {words}"}, idempotency_key=f"key-of-{phone}")
    assert sent.status in (200, 202), sent.raw
    await organization.settled(sent.json["id"], "delivered", "read")
    stray = new_wamid(random.Random())
    item = status_item(stray, "delivered", {"to": phone})
    assert (await organization.post_webhook(envelope((number, {"statuses": [item]})))).status == 200
    assert (await organization.post_webhook(f"unreadable {phone}".encode())).status == 200
    contact = await contact_of(organization, person)
    wamid = body["entry"][0]["changes"][0]["value"]["messages"][0]["id"]
    message = (
        sent.json["id"],
        (await organization.call("GET", f"/messages/{sent.json['id']}")).json["provider_message_id"],
    )
    return [phone[1:], words, name, contact["id"], wamid, stray, *message], contact, body


async def erased(organization: Organization, contact_id: str) -> Any:
    asked = await organization.call("POST", f"/contacts/{contact_id}/erasure")
    assert asked.status == 202, asked.raw
    path = asked.headers["location"]
    assert path == f"/erasures/{asked.json['id']}"

    async def state() -> Any:
        return (await organization.call("GET", path)).json

    return await eventually(state, lambda found: found["state"] == "done")


@pytest.fixture
async def callback(organization: Organization) -> None:
    """Nobody listens there: deliveries wait."""
    assert (await organization.call("PUT", "/callback", {"url": "http://127.0.0.1:1/"})).status == 200


async def test_nothing_is_left_of_a_person(
    organization: Organization, callback: None, owner: asyncpg.Connection, settings: Settings, person: Person
) -> None:
    """No table and no key of Redis has anything; another person's things are all there; counts and hashes hold."""
    sought, contact, body = await spoken_with(organization, person)
    others, _, _ = await spoken_with(organization, somebody())
    before = {line.partition(": ")[0] for line in await found_in_database(owner, sought)}
    assert before >= {
        *("contacts", "contact_addresses", "conversations"),
        *{name for name in before if name.startswith(("events_", "messages_", "inbound_webhooks_", "quarantine_"))},
    }
    assert {name.partition("_p")[0] for name in before} >= {"events", "messages", "inbound_webhooks", "quarantine"}
    others_before = sorted(await found_in_database(owner, others))
    await all_counted(settings, organization)
    figures = (await organization.call("GET", "/integrations/whatsapp/provider/figures?window=1h")).json

    done = await erased(organization, contact["id"])
    assert done["deleted"] > 5

    assert await found_in_database(owner, sought) == []
    assert await found_in_redis(settings, sought) == []
    assert sorted(await found_in_database(owner, others)) == others_before
    after = (await organization.call("GET", "/integrations/whatsapp/provider/figures?window=1h")).json
    assert [each["received"] for each in after["configs"]] == [each["received"] for each in figures["configs"]]
    assert (await organization.call("GET", f"/contacts/{contact['id']}")).status == 404
    [entry] = (await organization.call("GET", "/integrations/whatsapp/audit?action=contact_erased")).json["entries"]
    assert entry["after"] == {"erasure_id": done["id"]}
    assert (await organization.call("GET", "/integrations/whatsapp/audit/verify")).json["intact"]

    # A repetition is known by its hash, and so is a send.
    events = len(await organization.events())
    assert (await organization.post_webhook(body)).status == 200
    assert len(await organization.events()) == events
    again = await organization.send({"to": person.phone, "body": "once more"}, idempotency_key=f"key-of-{person.phone}")
    assert (again.status, again.json["code"]) == (410, "gone")


async def test_who_writes_again_is_somebody_new(organization: Organization, callback: None, person: Person) -> None:
    """Also to a process that remembers them."""
    _, contact, _ = await spoken_with(organization, person)
    await erased(organization, contact["id"])
    await met(organization, person)
    [event] = await organization.events(kind="message.received")
    contact_now = event["data"]["conversation"]["contact"]
    assert contact_now["id"] != contact["id"]
    assert (await organization.call("GET", f"/contacts/{contact_now['id']}")).json["merged"] == []
    sent = await organization.send({"to": person.phone, "body": "welcome"})
    message = (await organization.call("GET", f"/messages/{sent.json['id']}")).json
    assert message["conversation_id"] == event["data"]["conversation"]["id"]


async def test_another_organization_keeps_what_it_has(
    gateway: Gateway, organization: Organization, callback: None, owner: asyncpg.Connection, person: Person
) -> None:
    """Of the same person, whose number and words are the same."""
    other = await gateway.organization("Other")
    await other.configure()
    _, contact, _ = await spoken_with(organization, person)
    _, theirs, _ = await spoken_with(other, person)
    assert (await other.call("POST", f"/contacts/{contact['id']}/erasure")).status == 404
    counts = [
        (f"select count(*) from {table} where organization_id = $1", UUID(other.id))
        for table in (
            "events",
            "deliveries",
            "messages",
            "attempts",
            "inbound_webhooks",
            "quarantine",
            "contact_addresses",
        )
    ]
    before = [await owner.fetchval(*count) for count in counts]
    done = await erased(organization, contact["id"])
    assert (await other.call("GET", f"/erasures/{done['id']}")).status == 404
    assert [await owner.fetchval(*count) for count in counts] == before
    assert (await other.call("GET", f"/contacts/{theirs['id']}")).json["addresses"] == theirs["addresses"]


async def test_what_is_asked_for_twice_is_one(organization: Organization, callback: None, person: Person) -> None:
    _, contact, _ = await spoken_with(organization, person)
    first, second = [await organization.call("POST", f"/contacts/{contact['id']}/erasure") for _ in range(2)]
    assert (first.status, second.status) in {(202, 202), (202, 404)}, "the second one may come when it is done"
    if second.status == 202:
        assert first.json["id"] == second.json["id"]


async def test_a_process_that_dies_is_followed_by_another(
    organization: Organization, callback: None, owner: asyncpg.Connection, settings: Settings, person: Person
) -> None:
    """Whatever it was at: what it has deleted is gone, the rest goes."""
    sought, contact, _ = await spoken_with(organization, person)
    await all_counted(settings, organization)
    organization_id, steps = UUID(organization.id), ("bodies", "quarantine", "messages", "events")

    class Dies(Erasures):
        async def _hold(self, claimed: erasure.ErasureClaim, step: str, deleted: int) -> None:
            if step == self.at:
                raise ConnectionResetError("the process dies")
            await super()._hold(claimed, step, deleted)

        at = ""

    async def keys_of(_: UUID, ids: Any) -> set[str]:
        return set(ids)

    async with Database(settings.database_url) as database:
        async with database.organization(organization_id) as connection:
            asked = await erasure.ask(connection, organization_id, UUID(int=1), UUID(contact["id"]))
            # The service itself keeps away from it.
            await connection.execute("update erasures set due_at = now() + interval '1 day' where id = $1", asked.id)
        erasures = Dies(database, keys_of, 30)
        for at in (*steps, ""):
            erasures.at = at
            claimed = erasure.ErasureClaim(
                *await owner.fetchrow(
                    "update erasures set lease_id = gen_random_uuid(), leased_until = now() + interval '1 minute'"
                    " where id = $1 returning organization_id, id, contact_id, lease_id, cut_at, sought, looked_until",
                    asked.id,
                )
            )
            if at:
                with pytest.raises(ConnectionResetError):
                    await erasures._erase(claimed)
            else:
                await erasures._erase(claimed)
    assert await found_in_database(owner, sought) == []


async def test_an_export_has_all_that_is_there(organization: Organization, callback: None, person: Person) -> None:
    sought, contact, _ = await spoken_with(organization, person)
    answer = await organization.call("GET", f"/contacts/{contact['id']}/export")
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.raw.splitlines()]
    assert lines[0]["contact"]["id"] == contact["id"]
    events = [line["event"] for line in lines if "event" in line]
    assert [event["sequence"] for event in events] == sorted(event["sequence"] for event in events)
    assert any("raw" in event["data"] for event in events)
    [message] = [line["message"] for line in lines if "message" in line]
    assert message["attempts"][0]["class"] == "ok"
    for one in sought:
        assert one.encode() in answer.raw, one
    [entry] = (await organization.call("GET", "/integrations/whatsapp/audit?action=contact_exported")).json["entries"]
    assert contact["id"] not in json.dumps(entry)
    assert (await organization.call("GET", f"/contacts/{UUID(int=7)}/export")).status == 404


async def test_from_the_command_line(organization: Organization, callback: None, tmp_path: Any, person: Person) -> None:
    """Exported by number into a file that nobody else reads, then erased."""
    _, contact, _ = await spoken_with(organization, person)
    file = tmp_path / "person.ndjson"
    assert "events and 1 messages" in await command(
        organization, "export", "--contact", person.phone, "--output", str(file)
    )
    assert file.stat().st_mode & 0o777 == 0o600
    assert person.words in file.read_text()
    assert "Nothing is left of them" in await command(organization, "erase", "--contact", person.phone, "--yes")
    assert (await organization.call("GET", f"/contacts/{contact['id']}")).status == 404


async def test_what_they_said_in_groups_goes(
    organization: Organization, callback: None, owner: asyncpg.Connection, person: Person
) -> None:
    """And what others said there stays."""
    sought, contact, _ = await spoken_with(organization, person)
    others, _, _ = await spoken_with(organization, somebody())
    numbers = {"hers": sought, "another's": others}
    for whose, names in numbers.items():
        body = organization.gateway.meta.inbound(organization.numbers[0]).text(
            f"{whose} in the group", phone=f"+{names[0]}"
        )
        body["entry"][0]["changes"][0]["value"]["messages"][0]["group_id"] = "120363000000000001@g.us"
        assert (await organization.post_webhook(body)).status == 200
    in_group = [e for e in await organization.events() if e["data"].get("conversation", {}).get("group_id")]
    assert len(in_group) == 2
    await erased(organization, contact["id"])
    left = [e for e in await organization.events() if e["data"].get("conversation", {}).get("group_id")]
    assert [event["data"]["message"]["content"]["body"] for event in left] == ["another's in the group"]
    assert await found_in_database(owner, sought) == []


async def test_it_waits_for_a_send_that_is_under_way(
    organization: Organization, callback: None, owner: asyncpg.Connection, person: Person
) -> None:
    """Its outcome would come afterwards."""
    sought, contact, _ = await spoken_with(organization, person)
    change = "update messages set state = $2 where organization_id = $1", UUID(organization.id)
    await owner.execute(*change, "sending")
    asked = (await organization.call("POST", f"/contacts/{contact['id']}/erasure")).json

    async def state() -> Any:
        return (await organization.call("GET", f"/erasures/{asked['id']}")).json

    found = await eventually(state, lambda found: found["step"] == "sends")
    assert found["state"] == "waiting"
    assert "events" in {line.partition("_p")[0] for line in await found_in_database(owner, sought)}
    await owner.execute(*change, "done")
    await eventually(state, lambda found: found["state"] == "done")
    assert await found_in_database(owner, sought) == []


async def test_every_spelling_of_a_number_is_looked_for(
    organization: Organization, callback: None, owner: asyncpg.Connection, person: Person
) -> None:
    """Providers spell numbers of some countries as they were, or as they are, and not all that comes can be read."""
    await met(organization, person)
    contact, short = await contact_of(organization, person), f"5511{person.phone[6:]}"
    for spelled in (person.phone[1:], short):
        assert (await organization.post_webhook(f"unreadable {spelled}".encode())).status == 200
    await erased(organization, contact["id"])
    assert await found_in_database(owner, [person.phone[1:], short]) == []


async def test_a_body_that_came_before_they_were_met_goes(
    organization: Organization, callback: None, owner: asyncpg.Connection, person: Person
) -> None:
    """What could not be read yesterday, say."""
    assert (await organization.post_webhook(f"unreadable {person.phone}".encode())).status == 200
    yesterday = "update inbound_webhooks set received_at = now() - interval '20 hours' where position($1 in body) > 0"
    assert await owner.execute(yesterday, person.phone.encode()) == "UPDATE 1"
    sought, contact, _ = await spoken_with(organization, person)
    await erased(organization, contact["id"])
    assert await found_in_database(owner, sought) == []


async def test_bodies_of_apps_go_with_an_account_that_is_shown_to_be_theirs(
    organization: Organization, callback: None, owner: asyncpg.Connection, person: Person
) -> None:
    """Read or put aside. What a config merely says it is of may be another organization's."""
    _, contact, _ = await spoken_with(organization, person)
    theirs, anothers = "106540352242922", "106540352242933"
    await owner.execute("insert into account_owners values ($1, 'meta', $2)", UUID(organization.id), theirs)
    await owner.execute(
        "update whatsapp_provider_configs set accounts = accounts || $2::text where organization_id = $1",
        *(UUID(organization.id), anothers),
    )
    kept = []
    for account in (theirs, anothers):
        body = f"to {account}: {person.words} {person.phone[1:]}".encode()
        await owner.execute("insert into inbound_webhooks values ($1, $1, now(), '{}', $2)", PLATFORM_ID, body)
        await owner.execute(
            "insert into quarantine (organization_id, id, config_id, reason, headers, body)"
            " values ($1, $2, $1, 'malformed', '{}', $3)",
            *(PLATFORM_ID, new_id(), body),
        )
    await erased(organization, contact["id"])
    for table in ("inbound_webhooks", "quarantine"):
        of_them = f"select body from {table} where organization_id = $1 and strpos(encode(body, 'escape'), $2) > 0"
        kept += [row["body"] for row in await owner.fetch(of_them, PLATFORM_ID, person.words)]
    assert kept == [body, body]


async def test_a_number_that_begins_with_theirs_is_another(
    organization: Organization, callback: None, person: Person
) -> None:
    """In groups: without the 9 a number may be the beginning of a newer one."""
    short = person._replace(phone=f"+5511{person.phone[6:]}")
    other = f"{short.phone[1:]}7"
    await met(organization, short)
    contact = await contact_of(organization, short)
    body = organization.gateway.meta.inbound(organization.numbers[0]).text("of another", phone=f"+{other}")
    body["entry"][0]["changes"][0]["value"]["messages"][0]["group_id"] = "120363000000000001@g.us"
    assert (await organization.post_webhook(body)).status == 200
    await erased(organization, contact["id"])
    left = [event["data"]["message"]["content"]["body"] for event in await organization.events(kind="message.received")]
    assert left == ["of another"]


async def test_two_who_ask_at_once_are_told_of_one(
    organization: Organization, settings: Settings, person: Person
) -> None:
    organization_id, contact_id = UUID(organization.id), new_id()
    async with Database(settings.database_url) as database:

        async def ask() -> erasure.Erasure:
            async with database.organization(organization_id) as connection:
                return await erasure.ask(connection, organization_id, new_id(), contact_id)

        async with database.organization(organization_id) as connection:
            first = await erasure.ask(connection, organization_id, new_id(), contact_id)
            second = asyncio.create_task(ask())
            await eventually(lambda: _waits_for_a_lock(database), bool)
        assert (await second).id == first.id


async def _waits_for_a_lock(database: Database) -> Any:
    async with database.worker() as connection:
        return await connection.fetchval("select exists (select from pg_locks where not granted)")


async def test_a_slice_of_bodies_that_takes_too_long_is_begun_again_as_a_short_one(
    organization: Organization,
    callback: None,
    owner: asyncpg.Connection,
    settings: Settings,
    person: Person,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a month without webhooks a slice is a day: on a busy one that is too long, each time."""
    await met(organization, person)
    contact = await contact_of(organization, person)
    await owner.execute("update contacts set created_at = now() - interval '40 days' where id = $1", contact["id"])
    await all_counted(settings, organization)
    organization_id, busy_since = UUID(organization.id), datetime.now(UTC) - timedelta(days=1)
    delete_bodies = erasure.delete_bodies

    async def slow(connection: asyncpg.Connection, owner: UUID, since: datetime, until: datetime, *more: Any) -> int:
        if until > busy_since and until - since > timedelta(hours=6):
            raise StoreUnavailable("QueryCanceledError")
        return await delete_bodies(connection, owner, since, until, *more)

    async def keys_of(_: UUID, ids: Any) -> set[str]:
        return set(ids)

    monkeypatch.setattr(erasure, "delete_bodies", slow)
    monkeypatch.setattr("ingress.retention.erasure.SLOW_S", 0.0)
    monkeypatch.setattr("ingress.retention.erasure.QUICK_S", 1e9)
    async with Database(settings.database_url) as database:
        async with database.organization(organization_id) as connection:
            asked = await erasure.ask(connection, organization_id, new_id(), UUID(contact["id"]))
            # The service itself keeps away from it.
            await connection.execute("update erasures set due_at = now() + interval '1 day' where id = $1", asked.id)
        erasures = Erasures(database, keys_of, 30)
        for _ in range(5):
            row = await owner.fetchrow(
                "update erasures set lease_id = gen_random_uuid(), leased_until = now() + interval '1 minute'"
                " where id = $1 returning organization_id, id, contact_id, lease_id, cut_at, sought, looked_until",
                asked.id,
            )
            try:
                await erasures._erase(erasure.ErasureClaim(*row))
                break
            except StoreUnavailable:
                continue
    assert await found_in_database(owner, [*person]) == []


async def test_it_does_not_wait_for_what_came_later_to_be_counted(
    organization: Organization, callback: None, owner: asyncpg.Connection, settings: Settings, person: Person
) -> None:
    """Where something comes each second, something is never counted yet."""
    await met(organization, person)
    contact, organization_id = await contact_of(organization, person), UUID(organization.id)
    await all_counted(settings, organization)
    # The service itself counts nothing meanwhile.
    later = "update {} set due_at = now() + interval '1 day' where organization_id = $1"
    await owner.execute(later.format("figures_progress"), organization_id)

    class Busy(Erasures):
        async def _settled(self, *arguments: Any) -> list[UUID]:
            await met(organization, somebody())
            return await super()._settled(*arguments)

    async def keys_of(_: UUID, ids: Any) -> set[str]:
        return set(ids)

    async with Database(settings.database_url) as database:
        async with database.organization(organization_id) as connection:
            asked = await erasure.ask(connection, organization_id, new_id(), UUID(contact["id"]))
            await connection.execute(later.format("erasures"), organization_id)
        row = await owner.fetchrow(
            "update erasures set lease_id = gen_random_uuid(), leased_until = now() + interval '1 minute'"
            " where id = $1 returning organization_id, id, contact_id, lease_id, cut_at, sought, looked_until",
            asked.id,
        )
        await Busy(database, keys_of, 30)._erase(erasure.ErasureClaim(*row))
    assert await found_in_database(owner, [*person]) == []
