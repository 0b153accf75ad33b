"""What a review found: each of these was wrong once."""

import asyncio
import base64
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import msgspec
import pytest

from ingress import app, cache, metrics
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.sandbox import ErrorCode, MetaSimulator, StatusPolicy
from ingress.dev.sandbox.meta.bodies import envelope, status_item
from ingress.receiving import ingestion
from ingress.retention.retention import Retention
from ingress.sending import recovery
from ingress.settings import Settings
from ingress.storage import changes
from ingress.storage.database import Database, StoreUnavailable, is_data_error, store_errors
from ingress.storage.migration import migrate
from ingress.storage.redis_state import RedisState
from ingress.storage.statements import audit, configs, switches
from ingress.storage.statements.receiving import inbound, statuses
from ingress.storage.statements.sending import sends
from ingress.storage.vault import Vault, generate_key
from ingress.switching import routes
from ingress.switching.manager import WhatsAppProviderManager
from ingress.web import auth
from providers import Registry
from providers.meta_business import MetaBusiness

from ..conftest import serving
from ..gateway import Gateway, Organization, eventually, leave
from ..health.test_prober import stream


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(settings.database_url)
    try:
        yield connection
    finally:
        await connection.close()


# ---------------------------------------------------------------- what the database will never take


def too_long(organization: Organization) -> dict[str, Any]:
    """A webhook with a status whose id is too long for an index; random, so that it cannot be compressed into one."""
    item = status_item(f"wamid.{secrets.token_hex(8000)}", "delivered", {"to": "+5511987654321"})
    return envelope((organization.numbers[0], {"statuses": [item]}))


async def test_what_no_index_takes_is_put_aside(
    organization: Organization, monkeypatch: pytest.MonkeyPatch, trusting: None
) -> None:
    """Not 503 for a week. Read again, once, it is refused again and stays where it is, once."""
    assert (await organization.post_webhook(too_long(organization))).status == 200
    [item] = (await organization.call("GET", "/quarantine")).json["quarantine"]
    assert item["reason"] == "refused_by_store"

    read: list[Any] = []
    parse = MetaBusiness.parse
    monkeypatch.setattr(MetaBusiness, "parse", lambda self, hook: read.append(hook) or parse(self, hook))
    answer = await organization.call("POST", f"/quarantine/{item['id']}/replay")
    assert (answer.status, answer.json["code"]) == (409, "still_unreadable")
    assert len(read) == 1
    assert (await organization.call("GET", "/quarantine")).json["quarantine"] == [item]


async def test_a_refused_body_with_items_of_others_is_the_platforms(
    organization: Organization, gateway: Gateway, trusting: None
) -> None:
    """The tenants of an app share its secret: such a body is not the organization's to see, and counts for nobody."""
    body = too_long(organization)
    foreign = gateway.meta.inbound(organization.numbers[0]).text("of somebody else")["entry"]
    foreign[0]["changes"][0]["value"]["metadata"]["phone_number_id"] = "1"
    body["entry"] += foreign
    assert (await organization.post_webhook(body)).status == 200
    assert (await organization.call("GET", "/quarantine")).json["quarantine"] == []
    for query in ("", "/" + str(UUID(int=1))):
        answer = await organization.call("GET", f"/quarantine{query}?foreign=1")
        assert (answer.status, answer.json["code"]) == (403, "forbidden")

    async def asked(method: str, path: str) -> Any:
        return await gateway.call(method, path, key=gateway.platform_key, x_org_id=organization.id)

    listed = (await asked("GET", "/quarantine?foreign=1")).json["quarantine"]
    assert [item["reason"] for item in listed] == ["refused_by_store"]
    assert (await asked("GET", "/quarantine")).json["quarantine"] == []
    for item in listed:
        assert (await organization.call("GET", f"/quarantine/{item['id']}")).status == 404
        assert (await asked("GET", f"/quarantine/{item['id']}")).status == 404
        shown = (await asked("GET", f"/quarantine/{item['id']}?foreign=1")).json
        assert b"of somebody else" in base64.b64decode(shown["body"])
        # It says nothing new: it is refused again.
        replayed = await asked("POST", f"/quarantine/{item['id']}/replay?foreign=1")
        assert (replayed.status, replayed.json["code"]) == (409, "still_unreadable")
    assert (await asked("GET", "/quarantine?foreign=1")).json["quarantine"] == listed
    for item in listed:
        assert (await asked("POST", f"/quarantine/{item['id']}/discard?foreign=1")).json == {"state": "discarded"}
    assert (await asked("GET", "/quarantine?foreign=1")).json["quarantine"] == []


async def waiting(connection: asyncpg.Connection) -> Counter[tuple[str, str]]:
    """What the gauge shows, by provider and reason."""
    rows = await inbound.count_quarantined(connection)
    return Counter({(row.provider, row.reason): row.items for row in rows})


async def test_items_of_others_wait_for_nobody(
    organization: Organization, gateway: Gateway, settings: Settings
) -> None:
    async with connected(settings) as connection:
        before = await waiting(connection)
        foreign = gateway.meta.inbound(organization.numbers[0]).text("x")
        foreign["entry"][0]["changes"][0]["value"]["metadata"]["phone_number_id"] = "1"
        assert (await organization.post_webhook(foreign)).status == 200
        assert await waiting(connection) == before
        assert (await organization.post_webhook(b"unreadable")).status == 200
        assert await waiting(connection) == before + Counter({("meta_business", "malformed"): 1})


@pytest.mark.parametrize(
    ("error", "unavailable"),
    [
        (asyncpg.LockNotAvailableError, True),
        (asyncpg.IdleInTransactionSessionTimeoutError, True),
        (asyncpg.SerializationError, True),
        (asyncpg.PostgresIOError, True),
        (asyncpg.DiskFullError, True),
        (asyncpg.AdminShutdownError, True),
        (asyncpg.CannotConnectNowError, True),
        (asyncpg.QueryCanceledError, True),
        (asyncpg.ReadOnlySQLTransactionError, True),
        (asyncpg.ProgramLimitExceededError, False),
        (asyncpg.CharacterNotInRepertoireError, False),
        (asyncpg.UniqueViolationError, False),
    ],
)
def test_whose_fault_an_error_is(error: type[asyncpg.PostgresError], unavailable: bool) -> None:
    """Either the database's, and then trying again helps, or the row's."""
    with pytest.raises(StoreUnavailable if unavailable else error), store_errors("worker"):
        raise error("x")
    assert is_data_error(error("x")) is not unavailable


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**70, -(2**63) - 1])
async def test_a_number_that_no_column_takes(organization: Organization, number: int) -> None:
    """A mistake of the caller, not an absent database."""
    raw = b'{"sequences":[%d]}' % number
    answer = await organization.call("POST", "/callback/replay", raw=raw, content_type="application/json")
    assert (answer.status, answer.json["code"]) == (422, "invalid_request"), answer.raw


async def test_background_work_lives_on(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it stumbles over: what is past its time would stay for ever, and gauges would stand still."""
    times = 0

    async def look(_: object) -> None:
        nonlocal times
        times += 1
        raise RuntimeError("a mistake of ours")

    async def done() -> int:
        return times

    monkeypatch.setattr(app, "RETENTION_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(Retention, "look", look)
    async with serving(settings):
        await eventually(done, lambda count: count > 2)


# ---------------------------------------------------------------- streams and keys


@pytest.mark.parametrize("path", ["/events/stream", "/events?wait=20"])
async def test_a_revoked_key_stops_reading(gateway: Gateway, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what it began to read before."""
    monkeypatch.setattr(auth, "KEY_CACHE_S", 0.05)
    organization = await gateway.organization()
    made = (await organization.call("POST", "/keys", {"scopes": ["read"]})).json
    headers = {"authorization": f"Bearer {made['key']}"}
    began = time.monotonic()
    asking = asyncio.create_task(gateway.session.request("GET", gateway.url + path, headers=headers).__aenter__())
    if "stream" in path:
        assert (await asking).status == 200
    assert (await organization.call("DELETE", f"/keys/{made['id']}")).status == 204
    answer = await asking
    async with asyncio.timeout(15):
        shown = await answer.read()
    assert time.monotonic() - began < 15
    assert answer.status == (200 if "stream" in path else 401), shown
    assert b"data:" not in shown


# ---------------------------------------------------------------- configs that cannot be opened


@asynccontextmanager
async def unreadable(settings: Settings, organization: Organization, config: int) -> AsyncIterator[None]:
    """One config's record is damaged, as a restore with half of the keys leaves it; later mended."""
    change = "update whatsapp_provider_configs set config_data = $2, updated_at = clock_timestamp() where id = $1"
    config_id = UUID(organization.configs[config]["config_id"])
    async with connected(settings) as connection:
        kept = await connection.fetchval("select config_data from whatsapp_provider_configs where id = $1", config_id)
        await connection.execute(change, config_id, kept[:-1] + bytes([kept[-1] ^ 1]))
        try:
            yield
        finally:
            await connection.execute(change, config_id, kept)


async def fresh_service(stack: AsyncExitStack, settings: Settings, gateway: Gateway) -> Gateway:
    """A process that has no config at hand yet."""
    url = await stack.enter_async_context(serving(settings))
    return Gateway(url, settings.platform_key, gateway.session, gateway.meta)


async def test_one_unreadable_config_fails_itself_alone(settings: Settings, gateway: Gateway) -> None:
    """It is shown in error. A fallback is passed over; an active one is not replaced by its fallback in silence."""
    owner = await gateway.organization()
    for active in (True, False, False):
        await owner.configure(active=active)
    await owner.fall_back_to(owner.configs[1]["config_id"], owner.configs[2]["config_id"])
    ids = [config["config_id"] for config in owner.configs]

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(unreadable(settings, owner, 1))
        organization = Organization(await fresh_service(stack, settings, gateway), owner.id, owner.key)
        current = (await organization.call("GET", "/integrations/whatsapp/provider/current")).json
        assert current["config_id"] == ids[0]
        assert [config["config_id"] for config in current["fallback"]] == ids[1:]
        listed = (await organization.call("GET", "/integrations/whatsapp/provider/configs")).json["configs"]
        assert [(config["config_id"], config["state"]) for config in listed] == list(
            zip(ids, ["active", "error", "configured"], strict=True)
        )
        await gateway.meta.set_default(owner.numbers[0], ErrorCode(code=131016, http_status=503))
        sent = (await organization.send()).json
        assert (sent["status"], sent["config_id"]) == ("sent", ids[2])
        await gateway.meta.clear_faults(owner.numbers[0])

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(unreadable(settings, owner, 0))
        organization = Organization(await fresh_service(stack, settings, gateway), owner.id, owner.key)
        # Every process's cache of the route is in Redis, too: a change makes all read again.
        await organization.fall_back_to(ids[1])
        answer = await organization.send()
        assert (answer.status, answer.json["code"]) == (503, "cannot_be_opened")
        assert ("INGRESS_ENCRYPTION_KEYS" in answer.json["detail"], "retry-after" in answer.headers) == (True, True)
        current = (await organization.call("GET", "/integrations/whatsapp/provider/current")).json
        assert (current["config_id"], current["state"]) == (ids[0], "error")
        assert (current["status"]["is_connected"], "cannot be opened" in current["status"]["detail"]) == (False, True)
        assert [config["config_id"] for config in current["fallback"]] == [ids[1]]
        assert "INGRESS_ENCRYPTION_KEYS" in current["detail"]
        body = gateway.meta.inbound(owner.numbers[0]).text("x")
        url = owner.configs[0]["webhook_url"].replace(gateway.url, organization.gateway.url)
        organization.configs, organization.numbers = [owner.configs[0] | {"webhook_url": url}], owner.numbers[:1]
        answer = await organization.post_webhook(body)
        assert (answer.status, "retry-after" in answer.headers) == (503, True), "it shall come again"
        # It is mended over the API.
        await organization.configure()
        assert (await organization.send()).json["status"] == "sent"


async def test_who_asks_for_an_unreadable_config_is_told_what_to_do(settings: Settings, gateway: Gateway) -> None:
    """By whatever is done with it; it can be deleted."""
    owner = await gateway.organization()
    for active in (True, False):
        await owner.configure(active=active)
    config_id = owner.configs[1]["config_id"]
    base = "/integrations/whatsapp"
    async with unreadable(settings, owner, 1):
        for method, path, body in (
            ("POST", f"{base}/provider/test", {"config_id": config_id}),
            ("POST", f"{base}/provider/switch", {"config_id": config_id}),
            ("POST", f"{base}/provider/switch", {"config_id": config_id, "dry_run": True}),
            ("PATCH", f"{base}/provider/configs/{config_id}", {"name": "x"}),
            ("GET", f"{base}/templates?config_id={config_id}", None),
            ("POST", f"{base}/provider/pairing", {"config_id": config_id}),
        ):
            answer = await owner.call(method, path, body)
            assert (answer.status, answer.json["code"]) == (400, "invalid_configuration"), path
            assert "INGRESS_ENCRYPTION_KEYS" in answer.json["detail"], path
        assert (await owner.call("DELETE", f"{base}/provider/configs/{config_id}")).status == 204


async def test_an_unreadable_config_is_unhealthy_until_it_is_mended(settings: Settings, gateway: Gateway) -> None:
    owner = await gateway.organization()
    config_id = UUID((await owner.configure())["config_id"])
    async with connected(settings) as connection:
        # Nobody else's is looked at.
        due = "update provider_health set due_at = case when config_id = $1 then now() else 'infinity' end"
        await connection.execute(due, config_id)

    async def health(state: str) -> Any:
        current = "/integrations/whatsapp/provider/current"
        answer = await eventually(
            lambda: owner.call("GET", current), lambda answer: answer.json["health"]["state"] == state
        )
        return answer.json["health"]

    async def live_state() -> str:
        async with stream(gateway, owner.key) as answer:
            _, whole = await answer()
        state: str = whole["configs"][0]["state"]
        return state

    async with serving(msgspec.structs.replace(settings, health_interval_s=0.1)):
        await health("healthy")
        async with unreadable(settings, owner, 0):
            answer = await health("unhealthy")
            assert answer["reason"] == "cannot_be_opened"
            assert "INGRESS_ENCRYPTION_KEYS" in answer["what_to_do"]
            assert await live_state() == "error"
        await health("healthy")
        assert await live_state() == "active"
        for kind in ("unhealthy", "recovered"):
            [event] = await owner.events(kind=f"provider.{kind}")
            assert event["data"]["reason"] == "cannot_be_opened"
        # Who wants an automatic switch has one: an event says so, and it hides nothing.
        fallback = (await owner.configure(active=False))["config_id"]
        body = {"config_ids": [fallback], "policy": {"auto_switch_after_s": 3600}}
        assert (await owner.call("PUT", "/integrations/whatsapp/provider/fallback", body)).status == 200
        async with unreadable(settings, owner, 0), connected(settings) as connection:
            await health("unhealthy")
            await connection.execute("update provider_health set due_at = now() where config_id = $1", UUID(fallback))

            async def switched() -> list[Any]:
                ago = "update provider_health set since = now() - interval '1 h' where config_id = $1"
                await connection.execute(ago, config_id)
                return [event["data"] for event in await owner.events(kind="provider.switched")][1:]

            [answer] = await eventually(switched)
            assert (answer["from_config_id"], answer["kind"]) == (str(config_id), "fallback")
            assert (await owner.send()).json["config_id"] == fallback


async def test_a_send_that_nobody_can_go_on_with_ends_in_time(
    settings: Settings, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process died, and its config cannot be opened: it waits for that to be mended, and no longer than it may."""
    monkeypatch.setattr(recovery, "SWEEP_S", 0.05)
    owner = await gateway.organization()
    await owner.configure()
    gateway.meta.set_statuses(owner.numbers[0], StatusPolicy(statuses=()))
    sent = (await owner.send()).json["id"]
    before = await owner.message(sent)
    message_id = UUID(sent)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(connected(settings))
        await stack.enter_async_context(unreadable(settings, owner, 0))
        await fresh_service(stack, settings, gateway)
        await leave(connection, message_id, minutes=1)
        taken = "select lease_id is not null and leased_until > now() from messages where id = $1"
        await eventually(lambda: connection.fetchval(taken, message_id))
        assert (await owner.message(sent))["state"] == "sending"
        await leave(connection, message_id, minutes=-1)
        after = await owner.settled(sent, "failed")
    assert (after["state"], after["error"]["class"], after["error"]["code"]) == ("done", "Rejected", "expired")
    [event] = [event["data"] for event in await owner.events(kind="message.status")][1:]
    assert (event["message"]["id"], event["status"]["value"]) == (sent, "failed")
    assert event["conversation"]["id"] == before["conversation_id"]


async def test_a_send_that_nobody_ends_is_counted_as_lost(
    settings: Settings, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the sweep takes it up again and again. Ended late, it is none any more."""
    monkeypatch.setattr(recovery, "SWEEP_S", 0.05)
    owner = await gateway.organization()
    await owner.configure()
    gateway.meta.set_statuses(owner.numbers[0], StatusPolicy(statuses=()))
    sent = (await owner.send()).json["id"]
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(connected(settings))
        await fresh_service(stack, settings, gateway)

        async def lost() -> int:
            return (await sends.gauges(connection)).lost

        before = await lost()
        with monkeypatch.context() as broken:
            go_on = AsyncMock(side_effect=RuntimeError)
            broken.setattr(recovery.Recovery, "_resume", go_on)
            await leave(connection, UUID(sent), minutes=-4)
            assert await lost() == before
            await leave(connection, UUID(sent), minutes=-6)
            await eventually(lambda: go_on.await_count)
            assert await lost() == before + 1
        await leave(connection, UUID(sent), minutes=-6)
        await owner.settled(sent, "failed")
        assert await lost() == before


async def test_not_ready_with_the_wrong_keys(settings: Settings, organization: Organization) -> None:
    """OBS-6: a process that cannot open what is stored must not be given traffic."""
    assert organization.configs
    changed = msgspec.structs.replace(settings, encryption_keys=generate_key())
    async with serving(changed) as url, aiohttp.ClientSession() as session, session.get(f"{url}/readyz") as answer:
        assert answer.status == 503
        assert "INGRESS_ENCRYPTION_KEYS" in (await answer.json())["detail"]


@pytest.mark.parametrize("same_id", [False, True])
async def test_not_ready_with_the_wrong_keys_though_nothing_is_configured(
    servers: EmbeddedServers, settings: Settings, meta: MetaSimulator, same_id: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Every key of the API would be refused, and the trail gone on with by keys that are not its own."""
    assert servers.database_url
    name = f"keys_{uuid4().hex}"
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute(f"create database {name}")
    own = msgspec.structs.replace(settings, database_url=servers.database_url.replace("/postgres?", f"/{name}?"))
    await migrate(own.database_url)
    other = generate_key()
    if same_id:
        other = settings.encryption_keys.partition(":")[0] + ":" + other.partition(":")[2]
    wrong = msgspec.structs.replace(own, encryption_keys=other)
    for given, status in ((wrong, 200), (own, 200), (wrong, 503), (own, 200)):  # with nothing stored, any key is right
        async with serving(given) as url, aiohttp.ClientSession() as session:
            gateway = Gateway(url, settings.platform_key, session, meta)
            answer = await gateway.call("GET", "/readyz")
            assert answer.status == status, answer.raw
            if status == 503:
                doubt = answer.json["detail"]
                assert "INGRESS_ENCRYPTION_KEYS" in doubt
            elif given is own:
                await gateway.organization()
    assert [line for line in caplog.messages if line.startswith("not ready: ")] == [f"not ready: {doubt}"]
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


# ---------------------------------------------------------------- the manager


async def test_a_committed_change_is_not_told_as_failed(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it again may fail; it is in force all the same."""
    organization = await gateway.organization()
    route = routes.Routes.route

    async def away(self: Any, organization_id: UUID, *, fresh: bool = False, source: str = "") -> Any:
        if fresh:
            raise StoreUnavailable("away")
        return await route(self, organization_id)

    with monkeypatch.context() as patch:
        patch.setattr(routes.Routes, "route", away)
        for version in (1, 2):
            assert (await organization.configure())["version"] == version
        await organization.fall_back_to(organization.configs[0]["config_id"])
    current = (await organization.call("GET", "/integrations/whatsapp/provider/current")).json
    assert (current["config_id"], current["version"]) == (organization.configs[1]["config_id"], 3)


async def test_changes_are_made_within_the_organization(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row-level security stands behind what a request writes, too."""
    seen: dict[str, tuple[str, str]] = {}

    def watched(module: Any, name: str) -> Any:
        statement = getattr(module, name)

        async def run(connection: asyncpg.Connection, *arguments: Any, **more: Any) -> Any:
            answer = await connection.fetchrow("select current_user::text, current_setting('app.org_id', true)")
            seen[name] = tuple(answer)
            return await statement(connection, *arguments, **more)

        return run

    changing = {"add": configs, "activate": switches, "set_fallbacks": configs, "append": audit}
    for name, module in changing.items():
        monkeypatch.setattr(module, name, watched(module, name))
    organization = await gateway.organization()
    await organization.configure()
    await organization.fall_back_to()
    assert seen == dict.fromkeys(changing, ("ingress_app", organization.id))


def test_who_sends_is_part_of_the_contract() -> None:
    """The service knows no field of a provider."""
    assert "display_phone_number" not in Path(routes.__file__).read_text()
    fields = dict.fromkeys(("access_token", "phone_number_id", "waba_id", "app_secret", "verify_token"), "1")
    assert MetaBusiness(**fields).sender is None  # type: ignore[arg-type]
    assert MetaBusiness(**fields, display_phone_number="+15550001111").sender == "+15550001111"  # type: ignore[arg-type]


# ---------------------------------------------------------------- finding the config of a webhook


class Lookups:
    """A manager of its own, a count of what it asks the database, and its clock."""

    def __init__(self, database: Database, manager: WhatsAppProviderManager) -> None:
        self.database = database
        self.manager = manager
        self.count = 0
        self.later_s = 0.0
        self.open = asyncio.Event()
        self.open.set()


@pytest.fixture
async def lookups(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lookups]:
    vault = Vault(settings.encryption_keys)
    async with Database(settings.database_url) as database, RedisState(settings.redis_url) as redis:
        made: Lookups
        for module in (routes, cache, changes):
            monkeypatch.setattr(module, "monotonic", lambda: time.monotonic() + made.later_s)
        manager = WhatsAppProviderManager(Registry(), database, redis, vault, None, None, "")  # type: ignore[arg-type]
        made, load = Lookups(database, manager), manager.routes._load_webhook

        async def counted(token: str) -> Any:
            made.count += 1
            await made.open.wait()
            return await load(token)

        monkeypatch.setattr(manager.routes, "_load_webhook", counted)
        yield made


def token_of(organization: Organization) -> str:
    token: str = organization.configs[0]["webhook_url"].rpartition("/")[2]
    return token


async def test_webhooks_do_not_wait_for_background_work(lookups: Lookups, organization: Organization) -> None:
    """Every connection of the workers is taken; a webhook's config is found."""
    async with AsyncExitStack() as stack:
        for _ in range(6):
            await stack.enter_async_context(lookups.database.worker())
        async with asyncio.timeout(60):
            found = await lookups.manager.routes.config_of_webhook(token_of(organization))
    assert found is not None
    assert str(found.id) == organization.configs[0]["config_id"]


async def test_a_known_config_is_served_while_it_is_read_again(lookups: Lookups, organization: Organization) -> None:
    """For a few seconds, and not for ever."""
    token, find = token_of(organization), lookups.manager.routes.config_of_webhook
    known = await find(token)
    lookups.open.clear()  # the database is slow from now on
    lookups.later_s = routes.CACHE_S + 0.5
    for _ in range(3):
        assert await find(token) is known
        await asyncio.sleep(0)
    assert lookups.count == 2, "one reads it again for all"
    lookups.later_s = routes.CACHE_S + routes.STALE_S + 0.5
    assert lookups.later_s < 5
    waiting = asyncio.create_task(find(token))
    assert await asyncio.wait([waiting], timeout=0.1) == (set(), {waiting})
    lookups.open.set()
    assert await waiting is known


async def test_a_removed_config_stops_within_five_seconds(lookups: Lookups, organization: Organization) -> None:
    token, find = token_of(organization), lookups.manager.routes.config_of_webhook
    assert await find(token)
    with pytest.MonkeyPatch.context() as patch:

        async def gone(connection: asyncpg.Connection, token_hash: bytes) -> None:
            return None

        patch.setattr(configs, "by_token", gone)
        lookups.later_s = routes.CACHE_S + 0.5
        await eventually(lambda: find(token), lambda found: found is None)
        assert await find(token) is None


async def test_unknown_tokens_are_remembered_for_a_second(lookups: Lookups, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of one is one query; a flood of many fills no memory."""
    monkeypatch.setattr(lookups.manager.routes._unknown_tokens, "_size", 10)
    for _ in range(50):
        assert await lookups.manager.routes.config_of_webhook("unknown") is None
    assert lookups.count == 1
    lookups.later_s = routes.CACHE_S + 0.1
    assert await lookups.manager.routes.config_of_webhook("unknown") is None
    assert lookups.count == 2
    for number in range(50):
        assert await lookups.manager.routes.config_of_webhook(f"unknown {number}") is None
    assert len(lookups.manager.routes._unknown_tokens) <= 10


# ---------------------------------------------------------------- what is logged of a webhook


async def test_a_webhook_has_a_request_id(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OBS-5: the same in the answer and in the log. And no answer is for a cache."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(ingestion.log, "is_wide", lambda: True)
    monkeypatch.setattr(ingestion.log, "put", lambda line: lines.append(msgspec.to_builtins(line)))
    answers = [
        await organization.post_webhook(gateway.meta.inbound(organization.numbers[0]).text("x")),
        await gateway.call("POST", "/webhooks/meta_business/unknown", raw=b"{}"),
        await gateway.call(
            "POST",
            organization.configs[0]["webhook_url"],
            raw=b"{}",
            traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
    ]
    assert [answer.status for answer in answers] == [200, 404, 401]
    shown = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(shown)) == 3
    assert [line["request"] for line in lines if "request" in line][:3] == shown
    [event] = await organization.events(kind="message.received")
    hooks = [line for line in lines if line.get("request") in shown]
    assert [list(line["sequences"]) for line in hooks] == [[event["sequence"]], [], []]
    assert [line["trace_id"] for line in hooks] == [None, None, "4bf92f3577b34da6a3ce929d0e0e4736"]

    many = gateway.meta.inbound(organization.numbers[0]).batch(ingestion.SEQUENCES_LOGGED)
    answer = await organization.post_webhook(many)
    [line] = [line for line in lines if line.get("request") == answer.headers["x-request-id"]]
    sequences = [event["sequence"] for event in await organization.events(after=event["sequence"])]
    assert (line["fresh"], line["sequences"]) == (len(sequences), [sequences[0], sequences[-1]])
    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}


async def test_statuses_are_counted(organization: Organization) -> None:
    """Whether a message took them, had a higher one already, or is none of ours."""

    def counted() -> dict[str, float]:
        return {
            f"{value} {outcome}": metrics.REGISTRY.get_sample_value(
                "whatsapp_ingress_status_updates_total",
                {"provider": "meta_business", "kind": value, "outcome": outcome},
            )
            or 0.0
            for value in ("read", "delivered")
            for outcome in ("applied", "stale", "orphan")
        }

    sent = (await organization.send()).json
    await organization.settled(sent["id"], "read")
    before = counted()
    items = [
        status_item(wamid, "delivered", {"to": "+5511987654321"}, at=time.time() + 1)
        for wamid in (sent["provider_message_id"], "wamid.unknown-1", "wamid.unknown-2")
    ]
    assert (await organization.post_webhook(envelope((organization.numbers[0], {"statuses": items})))).status == 200
    after = counted()
    assert after["delivered stale"] == before["delivered stale"] + 1
    assert after["delivered orphan"] == before["delivered orphan"] + 2
    assert after["delivered applied"] == before["delivered applied"]
    assert before["read applied"] >= 1


async def test_statuses_of_no_message_are_counted_after_a_day(organization: Organization, settings: Settings) -> None:
    """Its answer may be stored after them; who is not known by then will not be."""
    item = status_item("wamid.nobody", "delivered", {"to": "+5511987654321"})
    assert (await organization.post_webhook(envelope((organization.numbers[0], {"statuses": [item]})))).status == 200
    async with connected(settings) as connection:
        before = await statuses.orphans(connection)
        aged = "update message_statuses set received_at = now() - interval '25 hours' where organization_id = $1"
        assert await connection.execute(aged, UUID(organization.id)) == "UPDATE 1"
        assert await statuses.orphans(connection) == before + 1
