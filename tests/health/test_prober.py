"""Looking at accounts through the service: who learns what, how often, and what the service does by itself."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import msgspec
import pytest
import redis.asyncio

from ingress.dev.sandbox import Bare5xx, ErrorCode, Hang, MetaSimulator, StatusPolicy
from ingress.dev.sandbox.meta import bodies as meta_bodies
from ingress.health import automatic, prober
from ingress.health.judgement import Finding, Traffic, judge
from ingress.identifiers import id_at, new_id
from ingress.settings import Settings
from ingress.storage.database import Database
from ingress.storage.statements import configs, health, switches
from ingress.storage.statements.configs import ConfigKey
from ingress.storage.statements.health import StoredHealth
from ingress.storage.statements.switches import Activation
from providers import ProviderStatus

from ..conftest import serving
from ..gateway import Gateway, Organization, command, eventually, limit

BASE = "/integrations/whatsapp"
EXPIRED = ErrorCode(code=190)


@pytest.fixture
async def sql(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def account(watching: Gateway, gateway: Gateway, sql: asyncpg.Connection) -> Organization:
    """An organization with one active config, which is looked at."""
    made = await gateway.organization()
    await made.configure(own_port=True)
    await health_of(made, "healthy")
    return made


async def current(organization: Organization) -> Any:
    return (await organization.call("GET", f"{BASE}/provider/current")).json


async def health_of(organization: Organization, state: str) -> Any:
    """How its active account is doing, once it is *state*."""
    answer = await eventually(lambda: current(organization), lambda answer: answer["health"]["state"] == state)
    return answer["health"]


async def trail(organization: Organization, *actions: str) -> list[Any]:
    entries = (await organization.call("GET", f"{BASE}/audit?limit=200")).json["entries"]
    return [entry for entry in entries[::-1] if entry["action"] in actions]


async def looks(sql: asyncpg.Connection, config_id: str, many: int) -> None:
    """Wait until a config was looked at so many times more."""
    checked = set()

    async def count() -> int:
        checked.add(await sql.fetchval("select checked_at from provider_health where config_id = $1", UUID(config_id)))
        return len(checked)

    await eventually(count, lambda found: found > many, every=0.01)


async def look_now(sql: asyncpg.Connection, organization: Organization) -> None:
    await sql.execute("update provider_health set due_at = now() where organization_id = $1", UUID(organization.id))


# ---------------------------------------------------------------- what is reported


async def test_a_change_is_reported_once_by_however_many_processes(
    account: Organization, meta: MetaSimulator, settings: Settings, sql: asyncpg.Connection
) -> None:
    """An event, an entry in the trail, and the answer to whoever asks: what, since when, why, what to do."""
    config_id = account.configs[0]["config_id"]
    async with serving(msgspec.structs.replace(settings, health_interval_s=0.1)):
        await meta.set_default(account.numbers[0], Bare5xx(), everything=True)
        answer = await health_of(account, "unhealthy")
        assert answer["reason"] == "unreachable"
        assert answer["what_to_do"].startswith("See whether the provider")
        await looks(sql, config_id, 5)
        await meta.clear_faults(account.numbers[0])
        well = await health_of(account, "healthy")
        assert well["since"] > answer["since"]
        assert "reason" not in well
        await looks(sql, config_id, 5)
    [unhealthy] = await account.events(kind="provider.unhealthy")
    [recovered] = await account.events(kind="provider.recovered")
    assert unhealthy["data"]["config_id"] == config_id
    assert (unhealthy["data"]["reason"], unhealthy["data"]["version"]) == ("unreachable", 1)
    assert unhealthy["data"]["occurred_at"][:19] == answer["since"][:19]
    assert recovered["data"]["reason"] == "unreachable"
    entries = await trail(account, "unhealthy", "recovered")
    assert [(entry["action"], entry["actor"], entry["reason"]) for entry in entries] == [
        ("unhealthy", "system", "unreachable"),
        ("recovered", "system", "unreachable"),
    ]
    assert (entries[0]["before"], entries[0]["after"]) == ({"health": "healthy"}, {"health": "unhealthy"})
    assert (await account.call("GET", f"{BASE}/audit/verify")).json["intact"] is True


async def test_bad_credentials_are_reported_as_such(account: Organization, meta: MetaSimulator) -> None:
    await meta.set_default(account.numbers[0], EXPIRED, everything=True)
    answer = await health_of(account, "unhealthy")
    assert answer["reason"] == "credentials"
    shown = await current(account)
    assert shown["status"]["trouble"] == "credentials"
    printed = await command(account, "status")
    assert "unhealthy since" in printed
    assert "credentials" in printed
    assert answer["what_to_do"] in printed


async def test_who_hangs_is_unreachable_and_delays_nobody(
    account: Organization,
    gateway: Gateway,
    meta: MetaSimulator,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other accounts are looked at again and again while one look at this one lasts."""
    other = await gateway.organization()
    await other.configure()
    limit(monkeypatch, test_s=4.0)
    await meta.set_default(account.numbers[0], Hang(), everything=True)
    hanging = UUID(account.configs[0]["config_id"])
    await eventually(lambda: sql.fetchval("select lease_id from provider_health where config_id = $1", hanging))
    lease = await sql.fetchval("select lease_id from provider_health where config_id = $1", hanging)
    if lease is not None:
        await looks(sql, other.configs[0]["config_id"], 3)
        assert await sql.fetchval("select lease_id from provider_health where config_id = $1", hanging) == lease
    answer = await health_of(account, "unhealthy")
    assert (answer["reason"], "read_timeout" in answer["detail"]) == ("unreachable", True)


FOUND = StoredHealth("unhealthy")


async def test_a_look_whose_lease_was_lost_writes_nothing(account: Organization, settings: Settings) -> None:
    """Another process took it over: what the first one finds in the end comes too late."""
    organization_id, config_id = UUID(account.id), UUID(account.configs[0]["config_id"])
    async with Database(settings.database_url) as database, database.organization(organization_id) as connection:
        config = await configs.by_id(connection, organization_id, config_id)
        assert config is not None
        held = await health.store(connection, config, new_id(), FOUND, None, 1)
    assert held is False
    assert (await current(account))["health"]["state"] == "healthy"


@pytest.mark.parametrize("evidence", ["none", "webhook", "watched", "switched"])
async def test_evidence_ends_no_look_and_asks_for_the_next(
    organization: Organization, sql: asyncpg.Connection, evidence: str
) -> None:
    """Who looks at an account does so alone, and what it finds is written; soon after, it is due again."""
    pair = UUID(organization.id), UUID(organization.configs[0]["config_id"])
    transaction = sql.transaction()
    await transaction.start()  # and no end: of other organizations' accounts nothing is taken
    await sql.execute("update provider_health set due_at = now() where organization_id = $1", pair[0])
    lease_id = new_id()
    assert pair in map(tuple, await health.claim(sql, lease_id, 1_000_000, 20))
    match evidence:
        case "webhook":
            await health.look_soon(sql, [pair])
        case "watched":
            await health.watch(sql, *pair, 300, None)
        case "switched":
            made = Activation(
                config_id=pair[1],
                expected_version=1,
                session=None,
                sender=None,
                fallback_config_ids=[],
                stand_in=None,
            )
            assert await switches.activate(sql, pair[0], made)
    assert pair not in map(tuple, await health.claim(sql, new_id(), 1_000_000, 20))
    config = await configs.by_id(sql, *pair)
    assert config is not None
    assert await health.store(sql, config, lease_id, FOUND, None, 3600)
    due_in = "select due_at - now() from provider_health where organization_id = $1"
    assert await sql.fetchval(due_in, pair[0]) == timedelta(seconds=3600 if evidence == "none" else 2)
    await transaction.rollback()


async def test_what_a_dead_process_had_leased_is_looked_at_by_another(
    account: Organization, sql: asyncpg.Connection
) -> None:
    """When its lease is over."""
    config_id = UUID(account.configs[0]["config_id"])
    await sql.execute(
        """update provider_health set lease_id = $2, leased_until = now() + interval '0.5 s', due_at = now(),
        checked_at = null where config_id = $1""",
        config_id,
        new_id(),
    )
    checked = "select checked_at from provider_health where config_id = $1 and lease_id is null"
    assert await eventually(lambda: sql.fetchval(checked, config_id))


async def test_what_the_provider_says_is_the_session(
    account: Organization, settings: Settings, sql: asyncpg.Connection, meta: MetaSimulator
) -> None:
    """In the database, and in Redis, which gets it back after it lost everything."""
    client = redis.asyncio.Redis.from_url(settings.redis_url)
    key = f"org_{{{account.id}}}:provider:session"
    await current(account)
    await client.set(key, b'{"version":1,"session":null}', keepttl=True)
    await sql.execute(
        "update whatsapp_provider_configs set session = 'null' where organization_id = $1", UUID(account.id)
    )
    kept = await eventually(lambda: client.get(key), lambda held: held and json.loads(held)["session"])
    assert json.loads(kept)["session"]["is_connected"] is True
    await client.delete(key, key.replace("session", "active"))
    assert (await current(account))["status"]["is_connected"] is True
    await client.aclose()


# ---------------------------------------------------------------- what the traffic says


async def test_an_account_that_refuses_sends_is_unhealthy_at_once(account: Organization, meta: MetaSimulator) -> None:
    """Though it says of itself that it is well."""
    await meta.set_default(account.numbers[0], EXPIRED)
    assert (await account.send()).status == 502
    answer = await health_of(account, "unhealthy")
    assert answer["reason"] == "sends_refused"
    assert (await current(account))["status"]["is_connected"] is True


async def test_silence_after_sends_is_degraded(
    account: Organization, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages are taken, and no status of any of them comes."""
    monkeypatch.setattr(prober, "STATUS_AFTER", prober.STATUS_AFTER * 0)
    meta.set_statuses(account.numbers[0], StatusPolicy(statuses=()))
    for _ in range(5):
        assert (await account.send()).status == 200
    answer = await health_of(account, "degraded")
    assert answer["reason"] == "silent"
    assert await account.events(kind="provider.unhealthy") == []


@pytest.mark.parametrize("with_our_id", [True, False])
@pytest.mark.parametrize(
    "statuses",
    [StatusPolicy(statuses=("sent",)), StatusPolicy(), StatusPolicy(before_answer=True)],
    ids=["sent", "read", "early"],
)
async def test_who_reports_any_status_is_not_silent(
    organization: Organization,
    meta: MetaSimulator,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    statuses: StatusPolicy,
    with_our_id: bool,
) -> None:
    """Also one that says no more than our own answer did, or comes before it, with our id or without."""
    if not with_our_id:
        made = meta_bodies.status_item
        monkeypatch.setattr(
            meta_bodies, "status_item", lambda wamid, status, body, **more: made(wamid, status, unmarked(body), **more)
        )
    meta.set_statuses(organization.numbers[0], statuses)
    place = ConfigKey(UUID(organization.id), UUID(organization.configs[0]["config_id"]))
    for _ in range(5):
        assert (await organization.send()).status == 200
    now = datetime.now(UTC)
    since, until = id_at(now - prober.STATUS_WITHIN), id_at(now + timedelta(seconds=1))

    async def traffic() -> Traffic:
        async with database.worker() as connection:
            times = {"attempts_since": since, "sent_since": since, "sent_until": until}
            [seen] = (await health.traffic(connection, [place], **times)).values()
        return Traffic(**msgspec.structs.asdict(seen))

    async with Database(settings.database_url) as database:
        seen = await eventually(traffic, lambda seen: seen.acknowledged == 5)
    assert seen.sent == 5
    assert judge(ProviderStatus(is_connected=True, connection_quality="good"), seen) == Finding("healthy")


async def test_a_status_counts_that_comes_while_our_own_answer_is_stored(
    organization: Organization, meta: MetaSimulator, sql: asyncpg.Connection
) -> None:
    """It waits for the message, and finds that it says no more than that does by then."""
    number = meta.state_of(organization.numbers[0])
    meta.set_statuses(organization.numbers[0], StatusPolicy(statuses=()))
    sent = (await organization.send()).json
    message_id, accepted = UUID(sent["id"]), meta.by_wamid(sent["provider_message_id"])
    assert accepted is not None
    meta.set_statuses(organization.numbers[0], StatusPolicy(statuses=("sent",)))
    set_status = "update messages set status = $2, status_rank = $3 where id = $1"
    await sql.execute(set_status, message_id, "accepted", 0)
    blocks = "select exists (select from pg_locks where pg_backend_pid() = any (pg_blocking_pids(pid)))"
    async with sql.transaction():
        await sql.execute(set_status, message_id, "sent", 2)
        arriving = asyncio.create_task(meta.post_statuses(number, accepted))
        await eventually(lambda: sql.fetchval(blocks))
    await arriving
    assert await sql.fetchval("select acknowledged from messages where id = $1", message_id)


def unmarked(body: dict[str, Any]) -> dict[str, Any]:
    """What was sent, as if without our id."""
    return {name: value for name, value in body.items() if name != "biz_opaque_callback_data"}


# ---------------------------------------------------------------- what the service does by itself


async def policy(organization: Organization, *config_ids: str, **rules: Any) -> None:
    body = {"config_ids": list(config_ids), "policy": rules}
    answer = await organization.call("PUT", f"{BASE}/provider/fallback", body)
    assert answer.status == 200, answer.raw


async def fallbacks(organization: Organization) -> list[str]:
    found: list[str] = (await organization.call("GET", f"{BASE}/provider/fallback")).json["config_ids"]
    return found


async def pass_time(sql: asyncpg.Connection, organization: Organization, seconds: int) -> None:
    """As if all that is had been so for longer."""
    earlier = """update provider_health set since = since - make_interval(secs => $2), due_at = now()
        where config_id = $1 and lease_id is null returning 1"""  # who is looking would write what it has read
    for config in organization.configs:
        config_id = UUID(config["config_id"])
        await eventually(lambda config_id=config_id: sql.fetchval(earlier, config_id, seconds))
    await sql.execute(
        """update organizations set automatic = jsonb_set(automatic::jsonb, '{at}',
            to_jsonb((automatic ->> 'at')::timestamptz - make_interval(secs => $2)))::json
        where id = $1 and automatic is not null""",
        UUID(organization.id),
        seconds,
    )


async def all_healthy(sql: asyncpg.Connection, organization: Organization) -> None:
    await look_now(sql, organization)
    states = "select array_agg(distinct state) from provider_health where organization_id = $1"
    await eventually(lambda: sql.fetchval(states, UUID(organization.id)), lambda found: found == ["healthy"])


async def test_an_unhealthy_provider_is_replaced_and_returned_to(
    account: Organization,
    meta: MetaSimulator,
    settings: Settings,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the time the organization chose, by one of two processes; and back when it is well, to the same order.

    There it stays, though an organization may have bad switches undone: no person asked for this one.
    """
    await account.configure(active=False)
    first, second = (config["config_id"] for config in account.configs)
    await policy(account, second, auto_switch_after_s=3600, min_stay_s=7200, return_to_primary=True, auto_rollback=True)
    await all_healthy(sql, account)
    async with serving(msgspec.structs.replace(settings, health_interval_s=0.1)):
        await meta.set_default(account.numbers[0], Bare5xx(), everything=True)
        await health_of(account, "unhealthy")
        await looks(sql, first, 3)
        assert (await current(account))["config_id"] == first
        await pass_time(sql, account, 3600)
        await eventually(lambda: current(account), lambda answer: answer["config_id"] == second)
        assert await fallbacks(account) == [first]
        assert (await account.send()).json["config_id"] == second
        await meta.clear_faults(account.numbers[0])
        await all_healthy(sql, account)
        await pass_time(sql, account, 7100)
        await looks(sql, first, 3)
        assert (await current(account))["config_id"] == second, "it stays for as long as its policy says"
        await pass_time(sql, account, 200)
        await eventually(lambda: current(account), lambda answer: answer["config_id"] == first)
        assert await fallbacks(account) == [second]
        monkeypatch.setattr(
            automatic, "ROLLBACK_LEAST_SENDS", 1
        )  # who is called once is not called again: it is broken
        await meta.set_default(account.numbers[0], EXPIRED)
        await asyncio.gather(*(account.send(prefer="respond-async") for _ in range(12)))
        failed = "select count(*) from attempts where config_id = $1 and class in ('AccountBroken', 'Unavailable')"
        await eventually(lambda: sql.fetchval(failed, UUID(first)))
        await looks(sql, first, 3)
        assert (await current(account))["config_id"] == first
    made = await trail(account, "activated")
    assert [(entry["actor"], entry["version"]) for entry in made[1:]] == [("system", 3), ("system", 4)]
    switched = [event["data"] for event in await account.events(kind="provider.switched")]
    assert [event["kind"] for event in switched[1:]] == ["fallback", "switch"]
    assert switched[1]["reason"].startswith("unhealthy for 36")


async def test_a_rollback_of_a_stand_in_brings_back_the_order_of_then(
    account: Organization, meta: MetaSimulator, sql: asyncpg.Connection
) -> None:
    """Though the one that was left was the last fallback meanwhile."""
    for _ in range(2):
        await account.configure(active=False)
    first, second, third = (config["config_id"] for config in account.configs)
    await policy(account, second, third, auto_switch_after_s=3600)
    await all_healthy(sql, account)
    await meta.set_default(account.numbers[0], Bare5xx(), everything=True)
    await health_of(account, "unhealthy")
    await pass_time(sql, account, 3600)
    await eventually(lambda: current(account), lambda shown: shown["config_id"] == second)
    assert await fallbacks(account) == [third, first]
    await meta.clear_faults(account.numbers[0])
    answer = await account.call("POST", f"{BASE}/provider/rollback", {})
    assert (answer.json["config_id"], answer.json["fallback_config_ids"]) == (first, [second, third])
    assert await fallbacks(account) == [second, third]


async def test_without_a_policy_nothing_is_switched(
    account: Organization, meta: MetaSimulator, sql: asyncpg.Connection
) -> None:
    await account.configure(active=False)
    await account.fall_back_to(account.configs[1]["config_id"])
    await meta.set_default(account.numbers[0], Bare5xx(), everything=True)
    await health_of(account, "unhealthy")
    await pass_time(sql, account, 86400)
    await looks(sql, account.configs[0]["config_id"], 3)
    assert (await current(account))["version"] == 2


async def test_a_stand_in_that_fails_its_test_leaves_all_as_it_was(
    account: Organization,
    meta: MetaSimulator,
    settings: Settings,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trail says so, and it is not tried again and again: not by who found the same in the same moment either."""
    decide, decided, both = prober.Prober._step, [], asyncio.Event()

    async def at_once(*arguments: Any) -> Any:
        found = await decide(*arguments)
        if found[1] is not None:
            decided.append(found)
            if len(decided) > 1:
                both.set()
            await both.wait()
        return found

    await account.configure(active=False)
    first, second = (config["config_id"] for config in account.configs)
    await policy(account, second, auto_switch_after_s=3600)
    await all_healthy(sql, account)
    await sql.execute("update provider_health set due_at = 'infinity' where config_id = $1", UUID(second))
    await meta.set_default(account.numbers[1], Bare5xx(), everything=True)
    await meta.set_default(account.numbers[0], Bare5xx(), everything=True)
    await health_of(account, "unhealthy")
    monkeypatch.setattr(prober.Prober, "_step", at_once)
    # While nobody is looking: who is would write what it has read.
    earlier = """update provider_health set since = since - interval '1 h'
        where config_id = $1 and lease_id is null returning 1"""
    async with serving(msgspec.structs.replace(settings, health_interval_s=0.05)):
        await eventually(lambda: sql.fetchval(earlier, UUID(first)))
        await eventually(lambda: trail(account, "rolled_back"))
        await looks(sql, first, 12)
    assert len(decided) >= 2
    [entry] = await trail(account, "rolled_back")
    assert (entry["actor"], entry["reason"]) == ("system", "provider_unreachable")
    assert (await current(account))["config_id"] == first


async def test_a_switch_after_which_sends_fail_is_undone(
    account: Organization, meta: MetaSimulator, sql: asyncpg.Connection
) -> None:
    """By the service, as a rollback; once."""
    await account.configure(active=False)
    first, second = (config["config_id"] for config in account.configs)
    await policy(account, auto_rollback=True)
    await meta.set_default(account.numbers[1], EXPIRED)
    answer = await account.call("POST", f"{BASE}/provider/switch", {"config_id": second})
    assert answer.status == 200, answer.raw
    # One may be all that there is: the breaker opens, and what it refuses is no send.
    assert (await account.send()).json["error"]["class"] == "AccountBroken"
    await eventually(lambda: current(account), lambda shown: shown["config_id"] == first)
    assert (await account.send()).status == 200
    await looks(sql, first, 3)
    made = await trail(account, "activated")
    assert [(entry["actor"], entry["after"]["kind"]) for entry in made[-1:]] == [("system", "rollback")]
    assert made[-1]["reason"].endswith("sends after the switch failed")
    assert (await account.events(kind="provider.switched"))[-1]["data"]["kind"] == "rollback"


# ---------------------------------------------------------------- the live status


@asynccontextmanager
async def stream(gateway: Gateway, key: str, **headers: str) -> AsyncIterator[Any]:
    """A function that gives the next (event, data) of the status."""
    sent = {"authorization": f"Bearer {key}", **headers}
    async with gateway.session.get(gateway.url + f"{BASE}/status", headers=sent) as answer:
        assert answer.status == 200, await answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def next_event() -> Any:
            event, data = "", None
            async with asyncio.timeout(60):
                while line := await answer.content.readline():
                    name, _, value = line.decode().rstrip("\n").partition(": ")
                    event = value if name == "event" else event
                    data = json.loads(value) if name == "data" else data
                    if not line.strip() and data is not None:
                        return event, data
            return None

        yield next_event


async def test_the_status_is_sent_whole_and_then_as_it_changes(
    account: Organization, gateway: Gateway, meta: MetaSimulator, sql: asyncpg.Connection
) -> None:
    """In a process that looks at nothing itself: what another one finds arrives."""
    await account.configure(active=False)
    first, second = (config["config_id"] for config in account.configs)
    key = (await account.call("POST", "/keys", {"scopes": ["read"]})).json["key"]
    async with stream(gateway, key, **{"last-event-id": "no number"}) as next_event:
        event, whole = await next_event()
        assert event == "status"
        assert (whole["version"], whole["config_id"], whole["switching"]) == (1, first, None)
        assert [(one["config_id"], one["role"]) for one in whole["configs"]] == [(first, "active"), (second, None)]
        assert whole["configs"][0]["health"]["state"] == "healthy"
        await meta.set_default(account.numbers[0], Bare5xx(), everything=True)
        event, change = await next_event()
        assert event == "change"
        assert [one["health"]["reason"] for one in change["configs"]] == ["unreachable"]
        assert change["configs"][0]["health"]["what_to_do"]
        assert "version" not in change
        await account.call("POST", f"{BASE}/provider/switch", {"config_id": second})
        seen: dict[str, Any] = {}
        while seen.get("version") != 2:
            seen |= (await next_event())[1]
        assert seen["config_id"] == second
        await account.call("DELETE", f"{BASE}/provider/configs/{first}")
        while first not in seen.get("removed", []):
            seen |= (await next_event())[1]


async def test_breakers_are_part_of_the_status(account: Organization, gateway: Gateway, meta: MetaSimulator) -> None:
    async with stream(gateway, account.key) as next_event:
        assert (await next_event())[1]["configs"][0]["breaker"] is None
        await meta.set_default(account.numbers[0], EXPIRED)
        await account.send()
        breaker = None
        while breaker != "open":
            breaker = (await next_event())[1].get("configs", [{}])[0].get("breaker")


async def test_the_stream_needs_the_scope_and_ends_with_the_process(
    account: Organization, settings: Settings, meta: MetaSimulator
) -> None:
    key = (await account.call("POST", "/keys", {"scopes": ["send"]})).json["key"]
    assert (await account.gateway.call("GET", f"{BASE}/status", key=key)).status == 403
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        async with serving(settings) as url:
            there = Gateway(url, settings.platform_key, session, meta)
            opened = stream(there, account.key)
            next_event = await opened.__aenter__()
            assert (await next_event())[0] == "status"
        assert await next_event() is None
        await opened.__aexit__(None, None, None)


async def test_metrics_tell_who_is_not_well(account: Organization, watching: Gateway, meta: MetaSimulator) -> None:
    """By provider, without a word of whom."""
    await meta.set_default(account.numbers[0], EXPIRED, everything=True)
    await health_of(account, "unhealthy")
    text = (await watching.metrics()).raw.decode()
    assert 'whatsapp_ingress_provider_health_changes_total{provider="meta_business",state="unhealthy"}' in text
    assert 'whatsapp_ingress_provider_probe_seconds_count{outcome="credentials",provider="meta_business"}' in text
    assert account.id not in text
