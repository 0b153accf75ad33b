"""Redis: what it holds, and that nothing is lost, stuck or sent the wrong way when it lies, forgets or is away."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import msgspec
import pytest
import redis.asyncio

from ingress.api import events
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.sandbox import MetaSimulator
from ingress.settings import Settings
from ingress.storage import changes, redis_state
from ingress.storage.redis_state import ACTIVE_TTL_S, RedisState
from ingress.switching import routes

from ..conftest import serving
from ..gateway import Gateway, Organization, eventually, logged

STALE_CLAIMS = 'whatsapp_ingress_fence_rejections_total{reason="claim"}'
NOBODY = "unix:///nonexistent/redis.sock"


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[redis.asyncio.Redis]:
    """Somebody else at the Redis of the shared service."""
    async with redis.asyncio.Redis.from_url(settings.redis_url) as connection:
        yield connection


def keys(organization: Organization) -> tuple[str, str]:
    """Active and session, the braces are part of the name."""
    slot = "{" + organization.id + "}"
    return f"org_{slot}:provider:active", f"org_{slot}:provider:session"


async def held(client: redis.asyncio.Redis, organization: Organization) -> Any:
    """What Redis has of the organization's active provider, or None."""
    value = await client.get(keys(organization)[0])
    return None if value is None else msgspec.json.decode(value)


async def accepted_by(organization: Organization) -> str:
    """Send; the provider's id of the number that the message went out from."""
    answer = await organization.send()
    assert answer.status == 200, answer.raw
    accepted = organization.gateway.meta.by_wamid(answer.json["provider_message_id"])
    assert accepted is not None
    return accepted.phone_number_id


async def current(organization: Organization) -> Any:
    answer = await organization.call("GET", "/integrations/whatsapp/provider/current")
    assert answer.status == 200, answer.raw
    return answer.json


async def receives(organization: Organization) -> None:
    """A webhook is acknowledged, and its event is there."""
    hook = organization.gateway.meta.inbound(organization.numbers[0]).text("x")
    before = len(await organization.events(kind="message.received"))
    assert (await organization.post_webhook(hook)).status == 200
    await eventually(lambda: organization.events(kind="message.received"), lambda found: len(found) == before + 1)


async def metric(gateway: Gateway, name: str) -> float:
    text = (await gateway.metrics()).raw.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


# ---------------------------------------------------------------- what it holds


async def test_the_active_provider_and_its_session(organization: Organization, client: redis.asyncio.Redis) -> None:
    """Both keys, in one hash slot, as JSON, for a while, without credentials; and no other key of the organization."""
    active, session = [await client.get(key) for key in keys(organization)]
    [config] = organization.configs
    assert msgspec.json.decode(active) == {
        "version": config["version"],
        "provider": "meta_business",
        "order": [config["config_id"]],
    }
    answer = msgspec.json.decode(session)
    assert (answer["version"], answer["session"]["is_connected"]) == (config["version"], True)
    for key in keys(organization):
        assert 0 < await client.ttl(key) <= ACTIVE_TTL_S
    number = organization.numbers[0]
    for secret in (number.access_token, number.app_secret, number.verify_token):
        assert secret.encode() not in active + session
    assert {key async for key in client.scan_iter(f"*{organization.id}*")} == {
        key.encode() for key in keys(organization)
    }


async def test_every_change_is_told_to_redis(organization: Organization, client: redis.asyncio.Redis) -> None:
    second = await organization.configure()
    assert await held(client, organization) == {
        "version": second["version"],
        "provider": "meta_business",
        "order": [second["config_id"]],
    }
    first = organization.configs[0]["config_id"]
    await organization.fall_back_to(first)
    answer = await held(client, organization)
    assert (answer["version"], answer["order"]) == (second["version"] + 1, [second["config_id"], first])


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no Redis that is away."""
    monkeypatch.setattr(redis_state, "COMMAND_TIMEOUT_S", 2.0)


@pytest.fixture
async def state(settings: Settings, patient: None) -> AsyncIterator[RedisState]:
    async with RedisState(settings.redis_url) as made:
        yield made


async def test_only_a_newer_version_is_stored(state: RedisState) -> None:
    """Late and repeated writes change nothing, neither the provider nor its session."""
    organization_id = uuid4()
    for version, stays in ((2, 2), (1, 2), (2, 2), (10, 10), (9, 10), (11, 11)):
        # Each write is another one: a second write of version 2 must not be taken for the first.
        value = b'{"version":%d,"written":"%s"}' % (version, uuid4().hex.encode())
        before = await state.active(organization_id)
        await state.set_active(organization_id, version, value, b'{"of":%d}' % version)
        active = await state.active(organization_id)
        assert active in (before, value)
        assert msgspec.json.decode(active or b"")["version"] == stays
        assert (active == value) == (before is None or version > msgspec.json.decode(before)["version"])
        assert await state.session(organization_id, stays) == b'{"of":%d}' % stays


@pytest.mark.parametrize(
    "garbage", [b"", b"x", b"[]", b"5", b"null", b"{}", b'{"version":null}', b'{"version":"x"}', b"[" * 2000]
)
async def test_what_cannot_be_read_is_overwritten(
    state: RedisState, client: redis.asyncio.Redis, garbage: bytes
) -> None:
    organization_id = uuid4()
    await client.set(f"org_{{{organization_id}}}:provider:active", garbage)
    await state.set_active(organization_id, 1, b'{"version":1}', b"null")
    assert await state.active(organization_id) == b'{"version":1}'


# ---------------------------------------------------------------- when it lies


@pytest.fixture
async def switched(organization: Organization, monkeypatch: pytest.MonkeyPatch) -> Organization:
    """Two configs, the second one active; each request asks Redis, as one in another second would."""
    monkeypatch.setattr(routes, "CACHE_S", 0.0)
    monkeypatch.setattr(changes, "HEARD_S", 0.0)
    await organization.configure()
    return organization


async def test_a_stale_value_is_mended(switched: Organization, client: redis.asyncio.Redis) -> None:
    """By the process that knows better, at the next use."""
    right = await held(client, switched)
    await client.set(keys(switched)[0], stale_value(switched))
    assert await accepted_by(switched) == switched.numbers[1].phone_number_id
    assert await held(client, switched) == right
    await client.set(keys(switched)[0], stale_value(switched))
    assert (await current(switched))["config_id"] == switched.configs[1]["config_id"]
    assert await held(client, switched) == right


@pytest.fixture
def stopped(organization: Organization, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Filled as the fence stops a send of the organization; the metric is of all services in this process."""
    found: list[str] = []
    route = routes.Routes.route

    async def seen(self: routes.Routes, organization_id: UUID, **how: Any) -> routes.Route:
        if how.get("source") == "fence" and str(organization_id) == organization.id:
            found.append("fence")
        return await route(self, organization_id, **how)

    monkeypatch.setattr(routes.Routes, "route", seen)
    return found


async def test_a_stale_value_sends_nothing_the_old_way(
    organization: Organization,
    stopped: list[str],
    settings: Settings,
    meta: MetaSimulator,
    client: redis.asyncio.Redis,
    monkeypatch: pytest.MonkeyPatch,
    patient: None,
) -> None:
    """Without notifications a process finds its belief confirmed, and is stopped by the fence. Then Redis is mended."""
    monkeypatch.setattr(routes, "CACHE_S", 0.0)
    monkeypatch.setattr(changes, "HEARD_S", 0.0)
    listens, forget_all = asyncio.Event(), routes.Routes.forget_all

    def forget_and_tell(self: routes.Routes) -> None:
        forget_all(self)
        if self._changes.is_notified:
            listens.set()

    monkeypatch.setattr(routes.Routes, "forget_all", forget_and_tell)
    async with service(settings, settings.redis_url, meta) as other:
        await asyncio.wait_for(listens.wait(), 30)  # before that it believes nobody, and is never refused
        there = at(other, organization)
        assert await accepted_by(there) == organization.numbers[0].phone_number_id
        monkeypatch.setattr(routes.Routes, "notified", lambda *_: None)
        await organization.configure()
        right = await held(client, organization)
        refused = await metric(other, STALE_CLAIMS)
        await client.set(keys(organization)[0], stale_value(organization))
        assert await accepted_by(there) == organization.numbers[1].phone_number_id
        assert await held(client, organization) == right
        assert stopped == ["fence"]
        assert await metric(other, STALE_CLAIMS) > refused


def stale_value(organization: Organization) -> bytes:
    """What Redis had of an organization before its second config."""
    first = organization.configs[0]
    return msgspec.json.encode(
        {"version": first["version"], "provider": "meta_business", "order": [first["config_id"]]}
    )


@pytest.mark.parametrize(
    ("active", "session"),
    [("former", "former"), ("present", "former"), ("present", "none"), ("present", "garbage")],
    ids=["both-stale", "session-stale", "session-lost", "session-garbage"],
)
async def test_the_session_that_is_shown_is_of_the_config_in_force(
    organization: Organization, client: redis.asyncio.Redis, monkeypatch: pytest.MonkeyPatch, active: str, session: str
) -> None:
    """Not the former one's, where a write was lost; the database has it at once, and Redis gets it back."""
    monkeypatch.setattr(routes, "CACHE_S", 60.0)  # the route is known: nobody mends Redis on its account
    active_key, session_key = keys(organization)
    former = msgspec.json.decode(await client.get(session_key))
    former["session"]["connection_quality"] = "poor"
    stale = {"former": msgspec.json.encode(former), "garbage": b'{"version":2,"session":'}
    before = await client.get(active_key)
    await organization.configure()
    shown = (await current(organization))["status"]
    assert shown["connection_quality"] != "poor"
    right = await client.get(active_key), await client.get(session_key)
    if active == "former":
        await client.set(active_key, before)
    if session == "none":
        await client.delete(session_key)
    else:
        await client.set(session_key, stale[session])
    assert (await current(organization))["status"] == shown
    assert (await client.get(active_key), await client.get(session_key)) == right


@pytest.mark.parametrize(
    "lie",
    [
        b"",
        b"garbage",
        b"[]",
        b'{"version":2,"provider":"meta_business","order":[]}',
        b'{"version":2,"provider":"meta_business","order":["01a202b3-6905-7e00-bf87-8a05ab56d744"]}',
        b'{"version":"2","provider":1,"order":{}}',
        b'{"version":999,"provider":"meta_business","order":[%s]}',
        b'{"version":-1,"provider":"meta_business","order":[%s]}',
    ],
    ids=["empty", "text", "array", "no-config", "unknown-config", "types", "from-the-future", "negative"],
)
async def test_no_value_of_redis_stops_a_send(switched: Organization, client: redis.asyncio.Redis, lie: bytes) -> None:
    """Not even one from the future, which is what Redis has when the database was restored or lost its last second."""
    wrong = msgspec.json.encode(switched.configs[0]["config_id"])
    for key in keys(switched):
        await client.set(key, lie.replace(b"%s", wrong))
    async with asyncio.timeout(30):
        for _ in range(2):
            assert await accepted_by(switched) == switched.numbers[1].phone_number_id
    await receives(switched)
    assert (await current(switched))["version"] in (2, 999)  # what it tells until the value runs out


async def test_all_data_lost(switched: Organization, client: redis.asyncio.Redis) -> None:
    """FLUSHALL: everything goes on, and the next reader puts back what was there."""
    right = [await client.get(key) for key in keys(switched)]
    for use in (accepted_by, receives, current):
        await client.flushall()
        await use(switched)
        if use is not receives:  # a webhook asks Redis for nothing
            assert [await client.get(key) for key in keys(switched)] == right
    assert (await current(switched))["config_id"] == switched.configs[1]["config_id"]


# ---------------------------------------------------------------- several processes


@asynccontextmanager
async def service(settings: Settings, redis_url: str, meta: MetaSimulator) -> AsyncIterator[Gateway]:
    """A service of the test's own on the database of the others, with this Redis."""
    own = msgspec.structs.replace(settings, redis_url=redis_url)
    async with serving(own) as url, aiohttp.ClientSession() as session:
        yield Gateway(url, settings.platform_key, session, meta)


def at(gateway: Gateway, organization: Organization) -> Organization:
    """The same organization, by way of another service."""
    there = Organization(gateway, organization.id, organization.key)
    there.configs, there.numbers = organization.configs, organization.numbers
    return there


async def test_wake_ups_reach_other_processes(
    organization: Organization,
    settings: Settings,
    meta: MetaSimulator,
    client: redis.asyncio.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A switch here is known there, an event stored here ends a long poll there: by no expiry, no second look."""
    monkeypatch.setattr(events, "POLL_S", 60.0)
    monkeypatch.setattr(routes, "CACHE_S", 60.0)
    async with service(settings, settings.redis_url, meta) as other:
        listeners = [(redis_state.CHANNEL.encode(), 2)]
        await eventually(lambda: client.pubsub_numsub(redis_state.CHANNEL), lambda answer: answer == listeners)
        there = at(other, organization)
        assert (await current(there))["version"] == 1
        second = await organization.configure()
        answer = await eventually(lambda: current(there), lambda answer: answer["version"] == second["version"])
        assert answer["config_id"] == second["config_id"]

        after = (await there.events())[-1]["sequence"]
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            polling = group.create_task(there.call("GET", f"/events?after={after}&wait=15"))
            assert await there.events(after) == []
            assert not polling.done()
            await receives(organization)
        assert len(polling.result().json["events"]) == 1


async def test_a_process_that_heard_of_no_switch_uses_it_at_once(
    organization: Organization,
    stopped: list[str],
    settings: Settings,
    meta: MetaSimulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No Redis, no notification, a cache that is sure of the old config: the fence has the last word."""
    monkeypatch.setattr(routes, "CACHE_S", 60.0)
    monkeypatch.setattr(routes.Routes, "notified", lambda *_: None)
    # Nor does it read all anew when it begins to listen, which may be before or after the switch.
    monkeypatch.setattr(routes.Routes, "forget_all", lambda *_, **__: None)
    monkeypatch.setattr(changes.Changes, "since", lambda *_: False)
    async with service(settings, NOBODY, meta) as other:
        there = at(other, organization)
        assert await accepted_by(there) == organization.numbers[0].phone_number_id
        await organization.configure()
        assert (await current(there))["version"] == 1
        refused = await metric(other, STALE_CLAIMS)
        assert await accepted_by(there) == organization.numbers[1].phone_number_id
        assert stopped == ["fence"]
        assert await metric(other, STALE_CLAIMS) > refused


# ---------------------------------------------------------------- when it is away


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """One to kill."""
    with EmbeddedServers(tmp_path_factory.mktemp("valkey"), postgres=False) as running:
        yield running


def away(valkey: EmbeddedServers, how: str) -> None:
    if how == "killed":
        valkey.valkey.kill()
    else:
        os.kill(valkey.pids["valkey"], signal.SIGSTOP)


def back(valkey: EmbeddedServers, how: str) -> None:
    if how == "killed":
        valkey.valkey.start()
    else:
        os.kill(valkey.pids["valkey"], signal.SIGCONT)


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_everything_goes_on_without_redis(
    valkey: EmbeddedServers, settings: Settings, meta: MetaSimulator, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Webhooks, sends, a switch that is used at once. Back again, with its old data, Redis gets the new."""
    monkeypatch.setattr(redis_state, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(routes, "CACHE_S", 0.0)
    monkeypatch.setattr(changes, "HEARD_S", 0.0)
    assert valkey.redis_url
    async with (
        service(settings, valkey.redis_url, meta) as gateway,
        redis.asyncio.Redis.from_url(valkey.redis_url) as client,
    ):
        organization = await gateway.organization()
        first = await organization.configure()
        assert (await held(client, organization))["version"] == first["version"]
        assert await metric(gateway, "whatsapp_ingress_redis_up") == 1

        away(valkey, how)
        started = monotonic()
        for _ in range(10):
            await receives(organization)
            assert await accepted_by(organization) == organization.numbers[0].phone_number_id
        second = await organization.configure()
        assert await accepted_by(organization) == organization.numbers[1].phone_number_id
        answer = await current(organization)
        assert (answer["config_id"], answer["version"]) == (second["config_id"], second["version"])
        assert answer["status"] != "unknown"  # the session, out of the database
        assert (await gateway.call("GET", "/readyz")).status == 200
        assert await metric(gateway, "whatsapp_ingress_redis_up") == 0
        assert monotonic() - started < 60

        back(valkey, how)
        await eventually(lambda: mended(organization, client, second["version"]))
        assert await metric(gateway, "whatsapp_ingress_redis_up") == 1
        assert await accepted_by(organization) == organization.numbers[1].phone_number_id


async def mended(organization: Organization, client: redis.asyncio.Redis, version: int) -> bool:
    """Whether, after one more send, Redis has this version."""
    assert await accepted_by(organization) == organization.numbers[-1].phone_number_id
    answer = await held(client, organization)
    return answer is not None and answer["version"] == version


async def test_a_webhook_waits_for_no_redis(
    valkey: EmbeddedServers, settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even for one that would be waited for very long."""
    monkeypatch.setattr(redis_state, "COMMAND_TIMEOUT_S", 60.0)
    assert valkey.redis_url
    async with service(settings, valkey.redis_url, meta) as gateway:
        organization = await gateway.organization()
        await organization.configure()
        away(valkey, "paused")
        started = monotonic()
        for _ in range(3):
            await receives(organization)
        assert monotonic() - started < 60
        back(valkey, "paused")


async def test_a_start_without_redis(settings: Settings, meta: MetaSimulator) -> None:
    async with service(settings, NOBODY, meta) as gateway:
        assert (await gateway.call("GET", "/readyz")).status == 200
        organization = await gateway.organization()
        await organization.configure()
        await receives(organization)
        assert await accepted_by(organization) == organization.numbers[0].phone_number_id


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda url: url.replace("://", "://somebody:geheim@"), "invalid username-password pair or user is disabled"),
        (lambda _: "redis://127.0.0.1:1", "Error 111 connecting to 127.0.0.1:1. Connection refused"),
    ],
    ids=["password", "port"],
)
async def test_a_redis_that_cannot_be_used_is_logged_at_the_start(
    settings: Settings, change: Callable[[str], str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, before anybody sends: what is wrong, and what to look at."""
    with caplog.at_level("WARNING", "ingress.redis"):
        async with listening(change(settings.redis_url)):
            await eventually(lambda: logged(caplog, "ingress.redis"))
            assert redis_up() == 0
    [line] = logged(caplog, "ingress.redis")
    assert line.startswith(f"Redis does not answer ({reason}): check REDIS_URL")


async def test_what_becomes_of_redis_is_known_though_nobody_uses_it(
    valkey: EmbeddedServers, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_state, "PROBE_EVERY_S", 0.05)
    assert valkey.redis_url

    def logged_away() -> list[bool]:
        return ["does not answer" in line for line in logged(caplog, "ingress.redis")]

    with caplog.at_level("WARNING", "ingress.redis"):
        async with listening(valkey.redis_url):
            await eventually(lambda: redis_up() == 1)
            for how in ("killed", "paused"):
                away(valkey, how)
                await eventually(lambda: logged_away()[-1:] == [True])
                await eventually(lambda: redis_up() == 0)
                back(valkey, how)
                await eventually(lambda: logged_away()[-1:] == [False])
                await eventually(lambda: redis_up() == 1)
    # On a busy machine it may have seemed away, and back, once more.
    assert len(logged_away()) >= 4
    assert logged_away() == [True, False] * (len(logged_away()) // 2)


def redis_up() -> float | None:
    return redis_state.metrics.REGISTRY.get_sample_value("whatsapp_ingress_redis_up")


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[None]:
    """A process that has nothing to do."""

    async def listen(state: RedisState) -> None:
        async for _ in state.notifications():
            pass

    async with RedisState(url) as state:
        task = asyncio.create_task(listen(state))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_an_absent_redis_is_asked_now_and_then_only(
    valkey: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five failures, then one try a probe: whoever asks in between has the answer at once."""
    monkeypatch.setattr(redis_state, "PROBE_EVERY_S", 3600.0)
    assert valkey.redis_url
    organization_id = uuid4()
    async with RedisState(valkey.redis_url) as state:
        valkey.valkey.kill()
        for _ in range(50):
            assert await state.active(organization_id) is None
            await state.notify("events", organization_id)
            await state.set_active(organization_id, 1, b'{"version":1}', b"null")
        assert state._failures == redis_state.OPEN_AFTER_FAILURES
        valkey.valkey.start()
        await state.set_active(organization_id, 1, b'{"version":1}', b"null")
        assert state._failures == redis_state.OPEN_AFTER_FAILURES  # it is not known yet
        state._probe_at = 0.0
        await state.set_active(organization_id, 1, b'{"version":1}', b"null")
        assert state._failures == 0
        assert await state.active(organization_id) == b'{"version":1}'
