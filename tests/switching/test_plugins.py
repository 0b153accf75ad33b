"""Plug-ins that come, go and fail while the service runs."""

import asyncio
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import aiohttp
import asyncpg
import msgspec
import pytest

from ingress import app
from ingress.dev.sandbox import MetaSimulator, Slow, StatusPolicy, example_number
from ingress.sending import recovery
from ingress.settings import Settings
from ingress.switching.manager import WhatsAppProviderManager
from ingress.switching.plugins import PLUGIN_STATES
from providers import Flow, MessageData, MessageResult, ProviderInfo, Registry, Rejected
from providers.meta_business import MetaBusiness
from providers.registry import ENTRY_POINT_GROUP, Installed

from ..conftest import serving
from ..gateway import Answer, Gateway, Organization, cut_off_listeners, eventually, leave

BASE = "/integrations/whatsapp"
PROVIDERS = f"{BASE}/providers"
# Far from the numbers of other tests.
_numbers = itertools.count(900_000)

BROKEN = {
    "unimportable": ("1 / 0", "ZeroDivisionError: division by zero"),
    "incomplete": (
        "from providers import WhatsAppProvider\nclass PROVIDER(WhatsAppProvider, frozen=True):\n    pass",
        "it does not implement challenge",
    ),
    "meta_business": ("1 / 0", "already has the name"),
}


class Visiting(MetaBusiness, frozen=True, kw_only=True):
    info: ClassVar[ProviderInfo] = msgspec.structs.replace(MetaBusiness.info, name="visiting")


class Passing(MetaBusiness, frozen=True, kw_only=True):
    info: ClassVar[ProviderInfo] = msgspec.structs.replace(MetaBusiness.info, name="passing")


@pytest.fixture
async def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry of a service that is started after: with plug-ins that are broken in three ways."""
    monkeypatch.syspath_prepend(tmp_path)
    points = []
    for name, (source, _) in BROKEN.items():
        (tmp_path / f"plugin_{name}.py").write_text(source)
        points.append(EntryPoint(name=name, value=f"plugin_{name}", group=ENTRY_POINT_GROUP))
    made = Registry(points)
    monkeypatch.setattr(app, "Registry", lambda **_: made)
    return made


@pytest.fixture
def managers(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> list[WhatsAppProviderManager]:
    """Those of services that are started after."""
    made = []

    class Kept(WhatsAppProviderManager):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(app, "WhatsAppProviderManager", Kept)
    return made


@pytest.fixture
async def service(
    managers: list[WhatsAppProviderManager], settings: Settings, meta: MetaSimulator
) -> AsyncIterator[Gateway]:
    async with serving(settings) as url, aiohttp.ClientSession() as session:
        yield Gateway(url, settings.platform_key, session, meta)


@pytest.fixture
def manager(service: Gateway, managers: list[WhatsAppProviderManager]) -> WhatsAppProviderManager:
    """The manager of the service."""
    return managers[0]


async def configured(organization: Organization, provider: str) -> Answer:
    """A new simulated number, and the answer to the config of it at *provider*."""
    number = example_number(next(_numbers))
    base_url = await organization.gateway.meta.add_number(number)
    organization.numbers.append(number)
    body = {"provider_type": provider, "config_data": number.config_data(base_url), "is_active": True}
    answer = await organization.call("POST", f"{BASE}/provider/configure", body)
    organization.configs.append(answer.json)
    return answer


async def metric(gateway: Gateway, name: str) -> float:
    lines = (await gateway.metrics()).raw.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"whatsapp_ingress_{name}"))


async def listed(organization: Organization) -> dict[str, list[Any]]:
    """What is listed of each name; two plug-ins may want the same."""
    found: dict[str, list[Any]] = {}
    for entry in (await organization.call("GET", f"{PROVIDERS}?details=true")).json["providers"]:
        found.setdefault(entry["name"], []).append(entry)
    return found


async def test_broken_plugins_are_listed_with_their_reason_and_the_others_go_on(service: Gateway) -> None:
    """One that cannot be imported, one that lacks methods, one that takes a name."""
    organization = await service.organization()
    found = await listed(organization)
    for name, (_, reason) in BROKEN.items():
        [failed] = [entry for entry in found[name] if entry["state"] == "failed"]
        assert reason in failed["reason"]
        assert "fields" not in failed
    assert {entry["state"] for entry in found["meta_business"]} == {"registered", "failed"}

    async def counted() -> dict[str, float]:
        """Of what the list has imported; a service that begins to listen discovers anew what failed."""
        await listed(organization)
        return {state: await metric(service, f'plugins{{state="{state}"}}') for state in PLUGIN_STATES}

    expected = {"discovered": 0, "registered": len(found) - 2, "failed": len(BROKEN)}
    await eventually(counted, lambda found: found == expected)
    assert (await configured(organization, "meta_business")).status == 200
    assert (await organization.send()).status == 200
    refused = await configured(organization, "unimportable")
    assert (refused.status, "unimportable" in refused.json["detail"]) == (400, True)


async def test_a_plugin_that_leaves_takes_no_send_with_it(service: Gateway, manager: WhatsAppProviderManager) -> None:
    """What is in flight ends as it would have; then nobody can configure it, and it is listed no more."""
    manager.register(Visiting)
    organization = await service.organization()
    assert (await configured(organization, "visiting")).status == 200
    assert [entry["state"] for entry in (await listed(organization))["visiting"]] == ["registered"]
    [number] = organization.numbers
    await service.meta.set_default(number, Slow(seconds=0.5))
    before = service.meta.call_count(owner=number.phone_number_id)
    people = [{"to": f"+551198765432{place}", "body": "Hello"} for place in range(5)]  # to one they would go in order
    sends = [asyncio.create_task(organization.send(message)) for message in people]
    await eventually(lambda: service.meta.call_count(owner=number.phone_number_id) >= before + 5)
    assert not any(send.done() for send in sends)
    manager.unregister("visiting")
    answers = await asyncio.gather(*sends)
    assert [(answer.status, answer.json["provider"]) for answer in answers] == [(200, "visiting")] * 5
    assert "visiting" not in await listed(organization)
    assert (await configured(organization, "visiting")).status == 400


async def test_plugins_come_and_go_under_load(service: Gateway, manager: WhatsAppProviderManager) -> None:
    """Others send and are listed meanwhile, undisturbed; each time it comes, it can be used."""
    organization = await service.organization()
    assert (await configured(organization, "meta_business")).status == 200
    sends = [asyncio.create_task(organization.send()) for _ in range(40)]
    for _ in range(10):
        manager.register(Passing)
        assert (await listed(organization))["passing"][0]["state"] == "registered"
        manager.unregister("passing")
        assert "passing" not in await listed(organization)
    answers = await asyncio.gather(*sends)
    assert [answer.status for answer in answers] == [200] * 40


@pytest.fixture
async def visiting(service: Gateway, manager: WhatsAppProviderManager) -> Organization:
    """An organization with an active config of a plug-in, and a fallback of another one."""
    manager.register(Visiting)
    organization = await service.organization()
    assert (await configured(organization, "visiting")).status == 200
    fallback = await organization.configure(active=False)
    await organization.fall_back_to(fallback["config_id"])
    return organization


async def test_a_plugin_that_leaves_is_passed_over_until_it_comes_back(
    visiting: Organization, manager: WhatsAppProviderManager
) -> None:
    """Its config is shown in error, sends go to the fallback and say why, webhooks shall come again."""
    first, second = (config["config_id"] for config in visiting.configs)
    hook = visiting.gateway.meta.inbound(visiting.numbers[0]).text("x")

    async def shown() -> list[Any]:
        current = (await visiting.call("GET", f"{BASE}/provider/current")).json
        listed = (await visiting.call("GET", f"{BASE}/provider/configs")).json["configs"]
        assert (current["config_id"], current["provider"], current["version"]) == (first, "visiting", 2)
        return [current["state"], current["status"]["is_connected"], *(config["state"] for config in listed)]

    assert (await visiting.send()).json["provider"] == "visiting"
    assert (await visiting.post_webhook(hook)).status == 200
    well = await shown()
    assert well == ["active", True, "active", "configured"]
    for _ in range(2):
        manager.unregister("visiting")
        assert [entry.name for entry in manager.list_providers()].count("visiting") == 0
        sent = (await visiting.send()).json
        assert (sent["config_id"], sent["fallback_from"]) == (second, first)
        assert sent["fallback_reason"] == "plugin_missing"
        refused = await visiting.send({"to": "+5511987654321", "body": "x", "fallback": False})
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        answer = await visiting.post_webhook(hook)
        assert (answer.status, "retry-after" in answer.headers) == (503, True)
        assert await shown() == ["error", False, "error", "configured"]
        manager.register(Visiting)
        assert await shown() == well
        assert (await visiting.send()).json["provider"] == "visiting"
        assert (await visiting.post_webhook(hook)).status == 200
    assert (active := await manager.provider_for(UUID(visiting.id)))
    assert (str(active.id), type(active.provider)) == (first, Visiting)


async def test_a_send_that_was_left_waits_for_its_plugin(
    managers: list[WhatsAppProviderManager], settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process died, and who takes it over has no plug-in for it: another process may."""
    monkeypatch.setattr(recovery, "SWEEP_S", 0.05)
    go_round = recovery.Recovery._round

    async def ours(self: Any) -> int:
        return await go_round(self) if self._manager in managers else 0  # what other tests share knows no such plug-in

    monkeypatch.setattr(recovery.Recovery, "_round", ours)
    connection = await asyncpg.connect(settings.database_url)
    async with serving(settings) as url, aiohttp.ClientSession() as session:
        [manager] = managers
        manager.register(Visiting)
        organization = await Gateway(url, settings.platform_key, session, meta).organization()
        assert (await configured(organization, "visiting")).status == 200
        meta.set_statuses(organization.numbers[0], StatusPolicy(statuses=()))
        sent = (await organization.send()).json["id"]
        manager.unregister("visiting")
        await leave(connection, UUID(sent), minutes=5)
        taken = "select leased_until > now() from messages where id = $1"
        await eventually(lambda: connection.fetchval(taken, UUID(sent)))
        assert (await organization.message(sent))["state"] == "sending"
        manager.register(Visiting)
        await connection.execute("update messages set leased_until = now() where id = $1", UUID(sent))
        assert (await organization.settled(sent, "sent"))["provider"] == "visiting"
    await connection.close()


async def test_no_config_without_its_plugin_becomes_active(
    visiting: Organization, manager: WhatsAppProviderManager
) -> None:
    """Not even by force; it can be deleted."""
    first, second = (config["config_id"] for config in visiting.configs)
    assert (await visiting.call("POST", f"{BASE}/provider/switch", {"config_id": second})).status == 200
    manager.unregister("visiting")
    for force in (False, True):
        answer = await visiting.call("POST", f"{BASE}/provider/switch", {"config_id": first, "force": force})
        assert (answer.status, answer.json["code"]) == (400, "invalid_configuration")
    renamed = await visiting.call("PATCH", f"{BASE}/provider/configs/{first}", {"name": "x"})
    assert (renamed.status, renamed.json["code"]) == (400, "invalid_configuration")
    assert (await visiting.send()).json["config_id"] == second
    assert (await visiting.call("DELETE", f"{BASE}/provider/configs/{first}")).status == 204


async def test_who_takes_a_plugin_from_the_registry_itself_is_noticed(
    visiting: Organization, registry: Registry
) -> None:
    """Within a second, though Redis says that nothing has changed; also where another plug-in takes the name."""
    assert (await visiting.send()).json["provider"] == "visiting"
    registry.unregister("visiting")
    await eventually(visiting.send, lambda answer: answer.json["provider"] == "meta_business", timeout=10)

    class Refusing(Visiting, frozen=True, kw_only=True):
        def send_message(self, message: MessageData) -> Flow[MessageResult]:
            raise Rejected("not today")

    registry.register(Refusing)
    await eventually(visiting.send, lambda answer: answer.status == 422, timeout=10)


async def test_organizations_are_notified_when_a_plugin_leaves_and_comes_back(
    managers: list[WhatsAppProviderManager], settings: Settings, meta: MetaSimulator
) -> None:
    """Each whose config it is, once: an event and an entry in its trail, as of any account that fails."""
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("update provider_health set due_at = 'infinity'")
    await connection.close()
    often = msgspec.structs.replace(settings, health_interval_s=0.1)
    async with serving(often) as url, aiohttp.ClientSession() as session:
        service = Gateway(url, settings.platform_key, session, meta)
        [manager] = managers
        manager.register(Visiting)
        organization = await service.organization()
        assert (await configured(organization, "visiting")).status == 200

        async def health(state: str) -> Any:
            current = f"{BASE}/provider/current"
            answer = await eventually(
                lambda: organization.call("GET", current), lambda answer: answer.json["health"]["state"] == state
            )
            return answer.json["health"]

        await health("healthy")
        manager.unregister("visiting")
        answer = await health("unhealthy")
        assert answer["reason"] == "plugin_missing"
        assert "ingress providers" in answer["what_to_do"]
        manager.register(Visiting)
        await health("healthy")
        for kind in ("unhealthy", "recovered"):
            [event] = await organization.events(kind=f"provider.{kind}")
            assert event["data"]["reason"] == "plugin_missing"
        entries = (await organization.call("GET", f"{BASE}/audit")).json["entries"]
        assert [(entry["action"], entry["reason"]) for entry in entries[1::-1]] == [
            ("unhealthy", "plugin_missing"),
            ("recovered", "plugin_missing"),
        ]


# ---------------------------------------------------------------- installed while the service runs

SOURCE = """
from typing import ClassVar
import msgspec
from providers import ProviderInfo
from providers.meta_business import MetaBusiness

class Tourist(MetaBusiness, frozen=True, kw_only=True):
    info: ClassVar[ProviderInfo] = msgspec.structs.replace(MetaBusiness.info, name="tourist")
"""
RELOAD = f"{PROVIDERS}/reload"
NOTHING: dict[str, Any] = {"added": [], "removed": [], "failed": {}, "needs_restart": {}}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts a version of the distribution `tourism` on the path of Python, in place of any other; None takes it away."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(version: str | None, source: str = SOURCE) -> None:
        for former in tmp_path.glob("tourism-*"):
            shutil.rmtree(former)
        (tmp_path / "tourism.py").unlink(missing_ok=True)
        if version is not None:
            (tmp_path / "tourism.py").write_text(source)
            about = tmp_path / f"tourism-{version}.dist-info"
            about.mkdir()
            (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tourism\nVersion: {version}\n")
            (about / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\ntourist = tourism:Tourist\n")

    yield put
    sys.modules.pop("tourism", None)


async def reloaded(gateway: Gateway) -> dict[str, Any]:
    """The answer of one process that is asked to look, and the others are to do so, too."""
    answer = await gateway.call("POST", RELOAD, key=gateway.platform_key)
    assert answer.status == 200
    return dict(answer.json)


async def test_a_plugin_is_installed_and_uninstalled_without_a_restart(
    gateway: Gateway, settings: Settings, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every process; its configs wait for it, and another version says that it needs a restart."""
    looks = []
    reload = Registry.reload
    monkeypatch.setattr(Registry, "reload", lambda *arguments: [looks.append(1), reload(*arguments)][1])

    async def all_looked(gateway: Gateway) -> dict[str, Any]:
        """`reloaded`, when both processes have seen the notification; who was asked has then looked twice."""
        looks.clear()
        found = await reloaded(gateway)
        await eventually(lambda: len(looks) >= 3)
        return found

    async with serving(settings) as url:
        await eventually(lambda: len(looks) >= 2)  # made, and listening; the other listens again after some tests
        other = Gateway(url, settings.platform_key, gateway.session, gateway.meta)
        organization = await gateway.organization()
        there = Organization(other, organization.id, organization.key)
        assert (await configured(organization, "tourist")).status == 400
        assert await all_looked(gateway) == NOTHING
        install("1.0")
        assert await all_looked(gateway) == NOTHING | {"added": ["tourist"]}
        assert [entry["state"] for entry in (await listed(there))["tourist"]] == ["registered"]
        assert (await configured(organization, "tourist")).status == 200
        assert (await there.send()).json["provider"] == "tourist"
        install("2.0")
        [(name, reason)] = (await all_looked(gateway))["needs_restart"].items()
        assert (name, reason) == ("tourist", "tourism 2.0 is installed, but this process has imported 1.0: restart it")
        assert [entry["reason"] for entry in (await listed(there))["tourist"]] == [reason]
        assert (await organization.send()).json["provider"] == "tourist"
        for _ in range(2):
            install(None)
            assert await all_looked(other) == NOTHING | {"removed": ["tourist"]}
            for each in (organization, there):
                refused = await each.send()
                assert (refused.status, refused.json["code"]) == (503, "plugin_missing")
                current = (await each.call("GET", f"{BASE}/provider/current")).json
                assert (current["provider"], current["state"]) == ("tourist", "error")
            install("1.0")
            assert await all_looked(other) == NOTHING | {"added": ["tourist"]}
            for each in (organization, there):
                sent = await each.send()
                assert (sent.status, sent.json["provider"]) == (200, "tourist")
        install(None)
        await all_looked(gateway)


async def test_a_process_that_missed_it_looks_when_it_listens_again(
    service: Gateway, registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A notification does not wait for who is away."""
    organization = await service.organization()
    (tmp_path / "latecomer.py").write_text(SOURCE)
    late = Installed(EntryPoint(name="tourist", value="latecomer:Tourist", group=ENTRY_POINT_GROUP), "late", "1")
    assert "tourist" not in await listed(organization)
    monkeypatch.setattr(registry, "scan", lambda: [late])
    await cut_off_listeners(settings.database_url)
    await eventually(lambda: listed(organization), lambda found: "tourist" in found)


async def test_reloading_is_for_the_platform_and_needs_an_environment_that_can_be_read(
    service: Gateway, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nothing changes, and the answer says why."""
    organization = await service.organization()
    refused = await organization.call("POST", RELOAD)
    assert (refused.status, refused.json["code"]) == (403, "forbidden")
    failed = (await reloaded(service))["failed"]
    assert {name: reason for name, (_, reason) in BROKEN.items() if reason not in failed[name]} == {}

    def unreadable() -> Any:
        raise OSError("half of it is there")

    monkeypatch.setattr(registry, "scan", unreadable)
    looked = 'plugin_discovery_seconds_count{outcome="failed"}'
    before = await metric(service, looked)
    answer = await service.call("POST", RELOAD, key=service.platform_key)
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert "half of it is there" in answer.json["detail"]
    assert await metric(service, looked) > before
    assert (await listed(organization))["meta_business"]


async def test_reloading_from_the_command_line(gateway: Gateway, service: Gateway) -> None:
    """What came, went and failed, a line each; 1 where one failed."""

    async def run(asked: Gateway, *options: str) -> "subprocess.CompletedProcess[str]":
        command = ["providers", "reload", "--url", asked.url, "--key", asked.platform_key, *options]
        return await asyncio.to_thread(
            subprocess.run, [sys.executable, "-m", "ingress", *command], capture_output=True, text=True, timeout=60
        )

    done = await run(gateway)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Nothing changed.\n", "")
    assert json.loads((await run(gateway, "--json")).stdout) == NOTHING
    done = await run(service)
    assert (done.returncode, len(done.stdout.splitlines())) == (1, len(BROKEN))
    assert "unimportable failed: ZeroDivisionError: division by zero\n" in done.stdout
