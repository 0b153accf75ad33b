"""A cluster of three nodes in the place of one server: the same features, also with a node killed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from uuid import UUID, uuid4

import aiohttp
import msgspec
import pytest
from redis.asyncio.cluster import RedisCluster

from ingress.api import events
from ingress.dev.sandbox import MetaSimulator
from ingress.doctor import redis
from ingress.doctor.environment import insecure
from ingress.doctor.findings import Examined
from ingress.settings import Settings, SettingsError, load, redis_nodes
from ingress.storage import redis_state
from ingress.storage.redis_state import Line, RedisState
from ingress.switching import routes
from providers import Registry

from ..conftest import serving
from ..gateway import Gateway, Organization, eventually
from ..valkey_cluster import ValkeyCluster, valkey_cluster


@pytest.fixture(scope="module", params=[True, False], ids=["full-coverage", "partial"])
def cluster(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ValkeyCluster]:
    """*full-coverage*: where a node is down the others refuse, too, as servers are delivered."""
    with valkey_cluster(tmp_path_factory.mktemp("cluster"), full_coverage=request.param) as made:
        yield made


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no Redis that is away."""
    monkeypatch.setattr(redis_state, "COMMAND_TIMEOUT_S", 5.0)
    monkeypatch.setattr(redis_state, "DISCOVERY_TIMEOUT_S", 5.0)


@pytest.fixture
async def state(cluster: ValkeyCluster, patient: None) -> AsyncIterator[RedisState]:
    async with RedisState(cluster.url) as made:
        yield made


def keys(organization_id: object) -> list[str]:
    return [f"org_{{{organization_id}}}:provider:{what}" for what in ("active", "session")]


async def test_every_script_finds_its_keys_at_one_node(cluster: ValkeyCluster, state: RedisState) -> None:
    """Of organizations all over the cluster; and every node has its part of them."""
    organizations = [uuid4() for _ in range(30)]
    lines = [Line("", 1.0, 1), Line(":person", 6.0, 1)]
    for organization_id in organizations:
        for version in (2, 1):
            await state.set_active(organization_id, version, b'{"version":%d}' % version, b'{"of":%d}' % version)
        assert await state.active(organization_id) == b'{"version":2}'
        await state.set_session(organization_id, 2, b'{"of":"two"}')
        assert await state.session(organization_id, 2) == b'{"of":"two"}'
        config_id = uuid4()
        first = await state.reserve(organization_id, config_id, lines, 60.0)
        await state.slow_down(organization_id, config_id, 60.0)
        second = await state.reserve(organization_id, config_id, lines, 60.0)
        assert first is not None
        assert second is not None
        assert (first.wait_s, second.wait_s > 0, second.shrunk) == (0.0, True, True)
    owners = [{cluster.owner(key) for key in keys(each)} for each in organizations]
    assert {len(each) for each in owners} == {1}
    assert set.union(*owners) == {*cluster.nodes}


async def test_each_wake_up_reaches_every_process_and_says_how_many_there_are(
    cluster: ValkeyCluster, patient: None
) -> None:
    async def next_of(state: RedisState) -> tuple[str, UUID, int]:
        async for notification in state.notifications():
            return notification
        raise AssertionError

    async with RedisState(cluster.url) as one, RedisState(cluster.url) as two, RedisState(cluster.url) as sender:
        heard = [asyncio.ensure_future(next_of(state)) for state in (one, two, one)]
        organization_id, node = uuid4(), cluster.owner(redis_state.CHANNEL)
        await eventually(lambda: "3" in node.run("PUBSUB", "NUMSUB", redis_state.CHANNEL))
        assert await sender.active(organization_id) is None  # redis-py sends a client's very first command anywhere
        await sender.notify("provider", organization_id, 7)
        assert await asyncio.gather(*heard) == [("provider", organization_id, 7)] * 3
        assert sender.processes == 3


@asynccontextmanager
async def service(settings: Settings, cluster: ValkeyCluster, meta: MetaSimulator) -> AsyncIterator[Gateway]:
    own = msgspec.structs.replace(settings, redis_url=cluster.url)
    async with serving(own) as url, aiohttp.ClientSession() as session:
        yield Gateway(url, settings.platform_key, session, meta)


async def works(organization: Organization, config: int) -> None:
    """A send goes out through that config, and a webhook becomes an event."""
    answer = await organization.send()
    assert answer.status == 200, answer.raw
    accepted = organization.gateway.meta.by_wamid(answer.json["provider_message_id"])
    assert accepted is not None
    assert accepted.phone_number_id == organization.numbers[config].phone_number_id
    before = len(await organization.events(kind="message.received"))
    hook = organization.gateway.meta.inbound(organization.numbers[config]).text("x")
    assert (await organization.post_webhook(hook, config=config)).status == 200
    await eventually(lambda: organization.events(kind="message.received"), lambda found: len(found) == before + 1)


async def test_processes_work_together_by_way_of_a_cluster(
    cluster: ValkeyCluster, settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch, patient: None
) -> None:
    """A switch here is known there, an event stored here ends a long poll there: by no expiry, no second look."""
    monkeypatch.setattr(events, "POLL_S", 60.0)
    monkeypatch.setattr(routes, "CACHE_S", 60.0)
    async with service(settings, cluster, meta) as here, service(settings, cluster, meta) as there:
        organization = await here.organization()
        await organization.configure()
        other = Organization(there, organization.id, organization.key)
        node = cluster.owner(redis_state.CHANNEL)
        await eventually(lambda: "2" in node.run("PUBSUB", "NUMSUB", redis_state.CHANNEL))
        after = (await organization.events())[-1]["sequence"]
        poll = asyncio.ensure_future(other.events(after, wait=30))
        second = await organization.configure()
        assert [event["type"] for event in await poll][:1] == ["provider.switched"]
        current = await other.call("GET", "/integrations/whatsapp/provider/current")
        assert current.json["version"] == second["version"]
        await works(organization, 1)


async def test_a_node_that_dies_costs_speed_only(
    cluster: ValkeyCluster, settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them in turn: sends, webhooks and switches go on; and the cluster is used again when it is whole."""
    monkeypatch.setattr(redis_state, "PROBE_EVERY_S", 0.2)
    monkeypatch.setattr(redis_state, "COMMAND_TIMEOUT_S", 0.5)
    async with service(settings, cluster, meta) as gateway:
        organizations = [await gateway.organization() for _ in range(4)]
        for organization in organizations:
            await organization.configure()
        for node in cluster.nodes:
            node.kill()
            started = monotonic()
            for organization in organizations:
                await organization.configure()
                await works(organization, -1)
            assert (await gateway.call("GET", "/readyz")).status == 200
            assert monotonic() - started < 60
            node.start()
            cluster.wait()
            async with RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port) as client:
                for organization in organizations:
                    held = partial(is_held, client, organization)
                    await eventually(held, timeout=15)  # not when it would be read again anyway


async def is_held(client: RedisCluster, organization: Organization) -> bool:
    """Whether, after one more send, the cluster has the version that is in force."""
    assert (await organization.send()).status == 200
    held = await client.get(keys(organization.id)[0])
    return held is not None and msgspec.json.decode(held)["version"] == organization.configs[-1]["version"]


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("redis://:p@h:1/0", None),
        ("redis+cluster://h", ["redis://h"]),
        ("rediss+cluster://u:p%2C@h:1,g:2/0?x=y", ["rediss://u:p%2C@h:1/0?x=y", "rediss://u:p%2C@g:2/0?x=y"]),
        ("redis+cluster://[::1]:7000,[::1]:7001", ["redis://[::1]:7000", "redis://[::1]:7001"]),
    ],
)
def test_the_nodes_of_an_address(url: str, nodes: list[str] | None) -> None:
    assert redis_nodes(url) == nodes
    assert load({"REDIS_URL": url.replace("?x=y", "")}).redis_url


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://",
        "redis+cluster://a,,b",
        "redis+cluster://a:x",
        "redis+cluster://a/1",
        "unix+cluster:///a.sock",
    ],
)
def test_an_address_that_is_none_of_a_cluster(url: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL: must be like"):
        load({"REDIS_URL": url})


@pytest.mark.parametrize(
    ("url", "is_right"),
    [
        ("rediss+cluster://a,b", True),
        ("redis+cluster://a,b", False),
        ("rediss+cluster://a,b?ssl_cert_reqs=none", False),
    ],
)
def test_tls_is_demanded_of_a_cluster_too(url: str, is_right: bool) -> None:
    settings = Settings(require_tls=True, redis_url=url)
    assert (insecure(settings, "redis_url") == []) == is_right


async def test_the_doctor_knows_a_cluster_and_a_node_of_one(
    cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "SLOW_S", 5.0)
    monkeypatch.setattr(redis, "COMMAND_TIMEOUT_S", 5.0)
    nodes = redis_nodes(cluster.url)
    assert nodes
    for url, severity, words in ((cluster.url, "ok", "Valkey"), (nodes[0], "warning", "a node of a cluster")):
        examined = Examined(environment={}, settings=Settings(redis_url=url), wrong=[], registry=Registry([]))
        [finding] = [finding async for finding in redis.reachable(examined)]
        assert (finding.severity, words in finding.found) == (severity, True), finding
