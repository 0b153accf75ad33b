"""Changing the provider: what is tested before, what is one transaction, who hears of it, and what a failure leaves."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import aiohttp
import asyncpg
import msgspec
import pytest
import redis.asyncio
from yarl import URL

from ingress import app
from ingress.accounts import accounts
from ingress.dev.embedded.launcher import EmbeddedServers
from ingress.dev.sandbox import (
    ErrorCode,
    Hang,
    MetaSimulator,
    Refuse,
    Slow,
    Throttle429,
    TwilioSimulator,
    example_number,
)
from ingress.dev.sandbox.twilio.bodies import example_sender
from ingress.settings import Settings
from ingress.storage import changes, database, redis_state
from ingress.storage.connections import EXCLUSIVE_IDLE_S, STATEMENT_TIMEOUT_S, USES, Use
from ingress.storage.statements import audit, switches
from ingress.switching import manager, report, routes
from ingress.switching import switch as switching
from providers import Flow, Rejected, TimeLimits
from providers.meta_business import MetaBusiness

from ..conftest import serving
from ..gateway import Answer, Gateway, Organization, Process, cut_off_listeners, eventually, limit

BASE = "/integrations/whatsapp"
EXPIRED = ErrorCode(code=190)
ROUNDS, CALLERS = int(os.environ.get("PROVE_ROUNDS", "4")), 32
TROUBLES = int(os.environ.get("PROVE_TROUBLES", "2"))
# Within which a process must use a change: measured where nothing else keeps the machine busy.
PROPAGATED_WITHIN_S = 2 if "PROVE_TROUBLES" in os.environ else 60


COMPLETE = {name: value for name, value in example_number(1).config_data("").items() if name != "base_url"}


async def switch(organization: Organization, place: int | None = None, **more: Any) -> Answer:
    body = more if place is None else {"config_id": organization.configs[place]["config_id"], **more}
    return await organization.call("POST", f"{BASE}/provider/switch", body)


async def rollback(organization: Organization, **more: Any) -> Answer:
    return await organization.call("POST", f"{BASE}/provider/rollback", more)


async def current(organization: Organization) -> Any:
    return (await organization.call("GET", f"{BASE}/provider/current")).json


async def states(organization: Organization) -> list[str]:
    listed = (await organization.call("GET", f"{BASE}/provider/configs")).json["configs"]
    return [config["state"] for config in listed]


async def trail(organization: Organization, *actions: str) -> list[Any]:
    """The trail, oldest first, of these actions or of all."""
    entries = (await organization.call("GET", f"{BASE}/audit?limit=200")).json["entries"]
    return [entry for entry in entries[::-1] if not actions or entry["action"] in actions]


async def sent_through(organization: Organization) -> int:
    """Send: which of its numbers the message went out from."""
    answer = await organization.send()
    assert answer.status == 200, answer.raw
    return [config["config_id"] for config in organization.configs].index(answer.json["config_id"])


async def metric(gateway: Gateway, name: str) -> float:
    text = (await gateway.metrics()).raw.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


@asynccontextmanager
async def service(settings: Settings, meta: MetaSimulator, redis_url: str | None = None) -> AsyncIterator[Gateway]:
    """Another process of the service, as far as it matters: all it shares with the others is the servers."""
    own = msgspec.structs.replace(settings, redis_url=settings.redis_url if redis_url is None else redis_url)
    async with serving(own) as url, aiohttp.ClientSession() as session:
        yield Gateway(url, settings.platform_key, session, meta)


def at(gateway: Gateway, organization: Organization) -> Organization:
    there = Organization(gateway, organization.id, organization.key)
    there.configs, there.numbers = organization.configs, organization.numbers
    return there


@pytest.fixture
async def two(organization: Organization) -> Organization:
    """Two configs, the first one active, at version 1."""
    await organization.configure(active=False, own_port=True)
    return organization


# ---------------------------------------------------------------- a switch


async def test_a_switch_to_a_config_that_is_there(two: Organization) -> None:
    """State, version, trail, event, webhook, sends: all of it, once."""
    answer = await switch(two, 1, expected_version=1, reason="cheaper")
    assert answer.status == 200, answer.raw
    first, second = (config["config_id"] for config in two.configs)
    shown = answer.json
    assert (shown["config_id"], shown["from_config_id"], shown["version"]) == (second, first, 2)
    assert (shown["state"], shown["changed"], shown["provider"]) == ("active", True, "meta_business")
    assert shown["webhook_url"] == two.configs[1]["webhook_url"]
    assert {check["name"]: check["passed"] for check in shown["checks"]}["credentials"] is True
    assert await states(two) == ["inactive", "active"]
    assert await sent_through(two) == 1
    entries = await trail(two, "switching", "deactivated", "activated")
    assert [entry["action"] for entry in entries[-3:]] == ["switching", "deactivated", "activated"]
    assert entries[-1]["reason"] == "cheaper"
    assert entries[-3]["before"] == {"state": "configured"}
    [event] = (await two.events(kind="provider.switched"))[1:]
    assert event["data"]["config_id"] == second
    assert {name: event["data"][name] for name in ("version", "from_config_id", "reason", "kind")} == {
        "version": 2,
        "from_config_id": first,
        "reason": "cheaper",
        "kind": "switch",
    }
    # The one that was left goes on receiving.
    hook = two.gateway.meta.inbound(two.numbers[0]).text("still here")
    assert (await two.post_webhook(hook, config=0)).status == 200


async def test_a_switch_to_a_new_configuration(organization: Organization, gateway: Gateway) -> None:
    """The body of provider/configure: validated, tested, saved, set up, active."""
    number = example_number(7201)
    config_data = number.config_data(await gateway.meta.add_number(number))
    answer = await switch(organization, provider_type="meta_business", name="New", config_data=config_data)
    assert (answer.status, answer.json["version"]) == (200, 2), answer.raw
    assert gateway.meta.webhook_url(number) == answer.json["webhook_url"]
    assert await states(organization) == ["inactive", "active"]
    assert [entry["action"] for entry in (await trail(organization))[-4:]] == [
        "configured",
        "switching",
        "deactivated",
        "activated",
    ]


async def test_a_repeated_switch_changes_nothing(two: Organization) -> None:
    """Who lost the answer asks again, and learns how things stand."""
    first = (await switch(two, 1)).json
    before = len(await trail(two))
    again = await switch(two, 1)
    assert (again.status, again.json["version"], again.json["changed"]) == (200, first["version"], False)
    conflict = await switch(two, 1, expected_version=1)
    assert (conflict.status, conflict.json["code"]) == (409, "version_conflict")
    assert (conflict.json["version"], conflict.json["active_config_id"]) == (2, two.configs[1]["config_id"])
    [refused] = (await trail(two))[before:]
    assert (refused["action"], refused["outcome"], refused["reason"]) == ("switch", "refused", "version_conflict")
    assert len(await two.events(kind="provider.switched")) == 2


async def test_the_log_tells_the_version_that_was_made(two: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the one that it stayed at."""
    reported: list[Any] = []

    def noted(event: str, **fields: Any) -> None:
        if event == "switch" and str(fields["organization"]) == two.id:
            reported.append((fields["outcome"], fields["version"]))

    monkeypatch.setattr(report.log, "wide", noted)
    for expected in (1, 1, None):
        await switch(two, 1, expected_version=expected)
    assert reported == [("switched", 2), ("version_conflict", 2), ("unchanged", 2)]


async def test_another_version_than_expected(two: Organization) -> None:
    answer = await switch(two, 1, expected_version=7)
    assert (answer.status, answer.json["version"]) == (409, 1)
    assert await states(two) == ["active", "configured"]
    assert await two.events(kind="provider.rolled_back") == []


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        ({}, 422, "config_id"),
        ({"config_id": "x"}, 422, "config_id"),
        ({"provider_type": "meta_business"}, 422, "config_id"),
        ({"config_id": str(UUID(int=1)), "provider_type": "meta_business", "config_data": {}}, 422, "config_id"),
        ({"provider_type": "meta_business", "config_data": COMPLETE, "is_active": False}, 422, "is_active"),
        ({"config_id": str(UUID(int=1)), "expected_version": -1}, 422, "expected_version"),
        ({"config_id": str(UUID(int=1)), "reason": "x" * 501}, 422, "reason"),
        ({"config_id": str(UUID(int=1)), "nobody": 1}, 422, "nobody"),
        ({"provider_type": "nobody", "config_data": {}}, 400, "provider_type"),
        (
            {"provider_type": "meta_business", "config_data": {**COMPLETE, "x": 1}},
            400,
            "config_data.x",
        ),
    ],
    ids=str,
)
async def test_bodies_that_are_refused(two: Organization, body: Any, status: int, path: str) -> None:
    answer = await switch(two, **body)
    assert (answer.status, path in [error["path"] for error in answer.json["errors"]]) == (status, True), answer.raw
    assert (await switch(two, config_id=str(UUID(int=1)))).status == 404
    assert await trail(two, "rolled_back") == []


# ---------------------------------------------------------------- one after the other


async def test_of_those_who_expect_the_same_version_one_wins(
    two: Organization, settings: Settings, meta: MetaSimulator
) -> None:
    """From three processes, round after round: versions are dense, and every one has its entry and its event."""
    await two.configure(active=False)
    active = two.configs[0]["config_id"]
    async with service(settings, meta) as other, service(settings, meta) as third:
        doors = [two, at(other, two), at(third, two)]
        for version in range(1, ROUNDS + 1):
            others = [place for place, config in enumerate(two.configs) if config["config_id"] != active]
            answers = await asyncio.gather(
                *(switch(doors[turn % 3], others[turn % 2], expected_version=version) for turn in range(CALLERS))
            )
            [won] = [answer.json for answer in answers if answer.status == 200]
            assert [answer.status for answer in answers].count(409) == CALLERS - 1
            assert {answer.json["version"] for answer in answers} == {version + 1}
            active = won["config_id"]
    made = list(range(1, ROUNDS + 2))
    connection = await asyncpg.connect(settings.database_url)  # the API shows pages
    rows = await connection.fetch(
        "select version from provider_audit_log where organization_id = $1 and action = 'activated' order by id",
        UUID(two.id),
    )
    await connection.close()
    assert [row["version"] for row in rows] == made
    assert [event["data"]["version"] for event in await two.events(kind="provider.switched")] == made
    shown = await current(two)
    assert (shown["version"], shown["config_id"]) == (made[-1], active)


async def test_who_expects_nothing_waits_for_the_others(
    two: Organization, settings: Settings, meta: MetaSimulator
) -> None:
    """A queue: each is made, one after the other."""
    async with service(settings, meta) as other:
        doors = [two, at(other, two)]
        answers = await asyncio.gather(*(switch(doors[turn % 2], turn % 2) for turn in range(10)))
    assert {answer.status for answer in answers} == {200}
    made = sorted(answer.json["version"] for answer in answers if answer.json["changed"])
    assert made == list(range(2, len(made) + 2))
    assert [entry["version"] for entry in await trail(two, "activated")] == [1, *made]
    assert sorted(await states(two)) == ["active", "inactive"]


async def test_one_organization_does_not_wait_for_another(
    two: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose provider hangs."""
    limit(monkeypatch, test_s=1.0)
    other = await gateway.organization()
    await other.configure()
    await other.configure(active=False)
    await gateway.meta.set_default(two.numbers[1], Hang(), everything=True)
    try:
        waiting = asyncio.create_task(switch(two, 1))
        await eventually(lambda: states(two), lambda found: found == ["active", "switching"])
        assert (await switch(other, 1)).status == 200
        assert await sent_through(two) == 0
        assert not waiting.done()
    finally:
        await gateway.meta.clear_faults(two.numbers[1])
    answer = await waiting
    assert answer.status == 504


# ---------------------------------------------------------------- what fails


async def unchanged(organization: Organization, code: str, state: str) -> None:
    """The first config is in force, the second in *state*; the trail and an event say why."""
    answer = await current(organization)
    assert (answer["config_id"], answer["version"]) == (organization.configs[0]["config_id"], 1)
    assert await states(organization) == ["active", state]
    assert await sent_through(organization) == 0
    entry = (await trail(organization, "rolled_back"))[-1]
    assert (entry["outcome"], entry["reason"], entry["version"]) == ("undone", code, 1)
    assert set(entry["after"]) <= {"state", "active_config_id", "phases_ms", "failed_checks"}
    assert (entry["after"]["state"], entry["after"]["active_config_id"]) == (state, answer["config_id"])
    event = (await organization.events(kind="provider.rolled_back"))[-1]
    assert event["data"]["reason"] == code
    assert event["data"]["config_id"] == organization.configs[0]["config_id"]
    assert event["data"]["failed_config_id"] == organization.configs[1]["config_id"]


async def test_credentials_that_do_not_work_any_more(two: Organization, gateway: Gateway) -> None:
    """422 with what to do; the config is marked; once it is repaired the switch is made."""
    before = await metric(gateway, 'whatsapp_ingress_rollbacks_total{reason="test_failed"}')
    await gateway.meta.set_default(two.numbers[1], EXPIRED, everything=True)
    answer = await switch(two, 1)
    assert (answer.status, answer.json["code"]) == (400, "invalid_configuration"), answer.raw
    assert "nothing was changed" in answer.json["detail"]
    assert any(check.get("fix") for check in answer.json["checks"])
    await unchanged(two, "test_failed", "error")
    assert await metric(gateway, 'whatsapp_ingress_rollbacks_total{reason="test_failed"}') == before + 1
    await gateway.meta.clear_faults(two.numbers[1])
    assert (await switch(two, 1)).status == 200
    assert await states(two) == ["inactive", "active"]


async def test_a_test_that_hangs(two: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """504, and nobody says that the credentials are bad."""
    assert TimeLimits().test_s + 0.5 < 6
    limit(monkeypatch, test_s=0.2)
    await gateway.meta.set_default(two.numbers[1], Hang(), everything=True)
    answer = await switch(two, 1)
    await gateway.meta.clear_faults(two.numbers[1])
    assert (answer.status, answer.json["code"]) == (504, "test_timed_out"), answer.raw
    await unchanged(two, "test_timed_out", "configured")


async def test_a_provider_that_refuses_connections(two: Organization, gateway: Gateway) -> None:
    await gateway.meta.set_default(two.numbers[1], Refuse())
    answer = await switch(two, 1)
    await gateway.meta.clear_faults(two.numbers[1])
    assert (answer.status, answer.json["code"]) == (502, "provider_unreachable"), answer.raw
    await unchanged(two, "provider_unreachable", "configured")


@pytest.mark.parametrize("route", ["switch", "configure"])
async def test_a_new_configuration_that_does_not_work(organization: Organization, gateway: Gateway, route: str) -> None:
    """Nothing is saved; that it was tried is reported all the same."""
    number = example_number(7202)
    config_data = number.config_data(await gateway.meta.add_number(number)) | {"access_token": "EAAG-not-this-one"}
    body = {"provider_type": "meta_business", "config_data": config_data}
    answer = await organization.call("POST", f"{BASE}/provider/{route}", body)
    assert answer.status == 400, answer.raw
    assert "config_id" not in answer.json
    assert await states(organization) == ["active"]
    entry = (await trail(organization))[-1]
    assert (entry["action"], entry["reason"], entry["config_id"]) == ("rolled_back", "test_failed", None)
    [event] = await organization.events(kind="provider.rolled_back")
    assert "failed_config_id" not in event["data"]
    assert b"not-this-one" not in answer.raw


@pytest.fixture
def no_address(two: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider takes no webhook address."""

    def refused(self: MetaBusiness, callback_url: str) -> Flow[None]:
        raise Rejected("the handshake failed")
        yield

    monkeypatch.setattr(MetaBusiness, "receive_messages", refused)


@pytest.mark.usefixtures("no_address")
async def test_an_account_whose_webhooks_would_not_arrive(two: Organization, gateway: Gateway) -> None:
    """Its messages go elsewhere, and it cannot be set otherwise: refused with what to do, unless it is forced."""
    before = await metric(gateway, 'whatsapp_ingress_rollbacks_total{reason="webhook_not_set"}')
    gateway.meta.state_of(two.numbers[1]).override_url = "https://old.example.org/hook"
    answer = await switch(two, 1)
    assert (answer.status, answer.json["code"]) == (422, "webhook_not_set"), answer.raw
    [check] = [check for check in answer.json["checks"] if check["name"] == "webhook"]
    assert (check["passed"], check["detail"]) == (False, "the handshake failed")
    assert two.configs[1]["webhook_url"] in check["fix"]
    assert check["fix"] in answer.json["detail"]
    assert await metric(gateway, 'whatsapp_ingress_rollbacks_total{reason="webhook_not_set"}') == before + 1
    await unchanged(two, "webhook_not_set", "configured")
    assert (await switch(two, 1, force=True)).status == 200


@pytest.mark.usefixtures("no_address")
async def test_an_account_whose_webhooks_arrive_already_need_not_be_set(two: Organization) -> None:
    """That its address cannot be set again stops nobody."""
    answer = await switch(two, 1)
    assert answer.status == 200, answer.raw
    assert [check["passed"] for check in answer.json["checks"] if check["name"] == "webhook"] == [True]


async def test_an_account_that_only_people_can_set_up(two: Organization) -> None:
    """Whether its webhooks arrive cannot be checked: that is shown, with what to look at, and stops nobody."""
    async with TwilioSimulator() as twilio:
        sender = msgspec.structs.replace(example_sender(802), phone_number="+14155238886")
        config_data = sender.config_data(await twilio.add_number(sender))
        answer = await switch(two, provider_type="twilio_whatsapp", config_data=config_data)
        assert (answer.status, answer.json["version"]) == (200, 2), answer.raw
        [check] = [check for check in answer.json["checks"] if check["name"] == "webhook"]
        assert (check["passed"], check["checkable"]) == (True, False)
        assert "console" in check["fix"]
        assert (await rollback(two)).status == 200


async def test_force_is_without_a_test(two: Organization, gateway: Gateway) -> None:
    """Audited as such."""
    await gateway.meta.set_default(two.numbers[1], EXPIRED, everything=True)
    answer = await switch(two, 1, force=True, reason="they say it is up")
    await gateway.meta.clear_faults(two.numbers[1])
    assert (answer.status, answer.json["checks"]) == (200, [])
    entry = (await trail(two, "activated"))[-1]
    assert entry["after"].pop("phases_ms").keys() == {"lock", "set_up"}
    assert entry["after"] == {
        "active_config_id": two.configs[1]["config_id"],
        "kind": "switch",
        "forced": True,
    }


def is_of_version_2(*arguments: Any) -> bool:
    """Whether what is written to the trail notifies of a switch that is made."""
    return str(arguments[-1]).endswith(":2")


@pytest.mark.parametrize("step", ["activate", "append"])
async def test_a_failure_in_the_transaction_undoes_all_of_it(
    two: Organization, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """At its first statement or after its last one."""
    module: Any = switches if step == "activate" else audit
    statement = getattr(module, step)

    async def broken(*arguments: Any) -> Any:
        answer = await statement(*arguments)
        if step == "activate" or is_of_version_2(*arguments):  # a switch that begins is written down, too
            raise RuntimeError("broken")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(module, step, broken)
        assert (await switch(two, 1)).status == 500
    await unchanged(two, "error", "configured")
    assert [entry["version"] for entry in await trail(two, "activated")] == [1]
    assert (await switch(two, 1)).json["version"] == 2


async def test_a_commit_that_nobody_confirmed(two: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is lost with the answer: 503, and whoever looks sees one of the two, whole."""
    append = audit.append

    async def cut(connection: Any, *arguments: Any) -> None:
        if is_of_version_2(connection, *arguments):
            asyncpg.Connection.terminate(connection)
        else:
            await append(connection, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(audit, "append", cut)
        assert (await switch(two, 1)).status == 503
    # The lock went with the connection. Who comes next puts right what is left of it.
    answer = await switch(two, 1, expected_version=1)
    assert (answer.status, answer.json["version"]) == (200, 2), answer.raw
    [entry] = await trail(two, "rolled_back")
    assert (entry["actor"], entry["reason"], entry["config_id"]) == (
        "system",
        "process_died",
        two.configs[1]["config_id"],
    )
    assert entry["after"]["state"] == "configured"


async def test_a_commit_that_was_made_is_not_undone(
    two: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong after it: the new config is in force, and nobody reads otherwise, in no metric either."""
    before = await metric(gateway, "whatsapp_ingress_rollbacks_total")
    transaction = database.Exclusive.transaction
    notified = asyncio.Event()
    append = audit.append

    async def noted(*arguments: Any) -> None:
        await append(*arguments)
        if is_of_version_2(*arguments):
            notified.set()

    @asynccontextmanager
    async def lossy(self: Any) -> AsyncIterator[Any]:
        async with transaction(self) as connection:
            yield connection
        if notified.is_set():
            notified.clear()
            raise RuntimeError("after the commit")

    with monkeypatch.context() as patch:
        patch.setattr(audit, "append", noted)
        patch.setattr(database.Exclusive, "transaction", lossy)
        assert (await switch(two, 1)).status == 500
    assert await states(two) == ["inactive", "active"]
    assert await sent_through(two) == 1
    assert await trail(two, "rolled_back") == []
    assert await two.events(kind="provider.rolled_back") == []
    assert await metric(gateway, "whatsapp_ingress_rollbacks_total") == before


async def test_a_process_that_dies_in_the_middle(
    two: Organization,
    gateway: Gateway,
    settings: Settings,
    free_port: int,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kill -9 while the test is under way: the other processes restore what it left, by themselves."""
    environment = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "INGRESS_PORT": str(free_port),
        "INGRESS_PLATFORM_KEY": settings.platform_key,
        "INGRESS_ENCRYPTION_KEYS": settings.encryption_keys,
        "INGRESS_EGRESS_ALLOW": settings.egress_allow,
    }
    process = Process(environment, tmp_path / "log")
    await process.start()
    dying = at(Gateway(f"http://127.0.0.1:{free_port}", settings.platform_key, gateway.session, gateway.meta), two)
    await gateway.meta.set_default(two.numbers[1], Hang(), everything=True)
    try:
        under_way = asyncio.create_task(switch(dying, 1))
        await eventually(lambda: states(two), lambda found: found == ["active", "switching"])
        process.kill()
        with pytest.raises(aiohttp.ClientError):
            await under_way
    finally:
        await gateway.meta.clear_faults(two.numbers[1])
    monkeypatch.setattr(app, "RECOVER_EVERY_S", 0.05)
    async with service(settings, gateway.meta):
        await eventually(lambda: states(two), lambda found: found == ["active", "configured"])
    await unchanged(two, "process_died", "configured")
    assert (await switch(two, 1)).status == 200


async def test_all_that_was_left_is_restored_at_once(
    two: Organization, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many: each with its event."""
    third = await two.configure(active=False)
    left = [two.configs[1]["config_id"], third["config_id"]]
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute(
        "with taken as (update whatsapp_provider_configs set state = 'switching', updated_at = now() where id = any($1)"
        " returning organization_id, id) insert into switches (organization_id, config_id, kind, actor, former_state)"
        " select organization_id, id, 'switch', 'platform', 'configured' from taken",
        [UUID(each) for each in left],
    )
    await connection.close()
    monkeypatch.setattr(app, "RECOVER_EVERY_S", 0.05)
    async with service(settings, gateway.meta):
        await eventually(lambda: states(two), lambda found: found == ["active", "configured", "configured"])
    rolled_back = [event["data"] for event in await two.events(kind="provider.rolled_back")]
    assert [each["reason"] for each in rolled_back] == ["process_died", "process_died"]
    assert sorted(each["failed_config_id"] for each in rolled_back) == sorted(left)


async def test_a_switch_under_way_is_nothing_to_recover(
    two: Organization, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is held, so nobody takes it for a rest."""
    await gateway.meta.set_default(two.numbers[1], Slow(seconds=0.1), everything=True)
    monkeypatch.setattr(app, "RECOVER_EVERY_S", 0.01)
    async with service(settings, gateway.meta):
        answer = await switch(two, 1)
    await gateway.meta.clear_faults(two.numbers[1])
    assert answer.status == 200, answer.raw
    assert await trail(two, "rolled_back") == []


# ---------------------------------------------------------------- back again


async def test_a_rollback_returns_to_the_former_config(two: Organization) -> None:
    """One call, a new version, and back again."""
    nothing = await rollback(two)
    assert (nothing.status, nothing.json["code"]) == (409, "no_former_config")
    await switch(two, 1)
    for version, place in ((3, 0), (4, 1)):
        answer = await rollback(two, expected_version=version - 1, reason="as it was")
        assert (answer.status, answer.json["version"]) == (200, version), answer.raw
        assert answer.json["config_id"] == two.configs[place]["config_id"]
        assert await sent_through(two) == place
    assert (await rollback(two, expected_version=1)).status == 409
    assert (await two.events(kind="provider.switched"))[-1]["data"]["kind"] == "rollback"


async def test_the_config_that_is_left_takes_the_place_of_the_new_one_in_the_order(two: Organization) -> None:
    """So nobody gets lost, whatever is switched to; a dry run and the answer say what the order becomes."""
    for _ in range(2):
        await two.configure(active=False, own_port=True)
    ids = [config["config_id"] for config in two.configs]

    async def order() -> list[int]:
        return [ids.index(config["config_id"]) for config in (await current(two))["fallback"]]

    await two.fall_back_to(ids[1], ids[2])
    for place, becomes in ((2, [1, 0]), (1, [2, 0]), (0, [2, 1]), (3, [2, 1]), (2, [3, 1])):
        foreseen = (await switch(two, place, dry_run=True)).json
        answer = (await switch(two, place)).json
        assert foreseen["fallback_config_ids"] == answer["fallback_config_ids"] == [ids[other] for other in becomes]
        assert await order() == becomes
    same = (await switch(two, 2)).json
    assert (same["changed"], same["fallback_config_ids"]) == (False, [ids[3], ids[1]])
    foreseen = (await rollback(two, dry_run=True)).json
    assert foreseen["fallback_config_ids"] == (await rollback(two)).json["fallback_config_ids"] == [ids[2], ids[1]]
    await two.fall_back_to()
    assert (await switch(two, 0)).json["fallback_config_ids"] == []  # who has none gets none by a switch


async def test_a_rollback_to_what_does_not_work(two: Organization, gateway: Gateway) -> None:
    """Is refused as any switch is, and can be forced."""
    await switch(two, 1)
    await gateway.meta.set_default(two.numbers[0], EXPIRED, everything=True)
    assert (await rollback(two)).status == 400
    assert (await current(two))["version"] == 2
    assert (await rollback(two, force=True)).json["version"] == 3
    await gateway.meta.clear_faults(two.numbers[0])


# ---------------------------------------------------------------- what is under way


async def test_calls_that_began_before_end_where_they_began(two: Organization, gateway: Gateway) -> None:
    """They are counted at the flip and until the last one; nothing is sent again, nothing lost."""
    counted = "whatsapp_ingress_provider_switch_in_flight_sum"
    # Of seconds: a process that has nothing under way adds none.
    drained = 'whatsapp_ingress_provider_switch_phase_seconds_sum{phase="drain"}'
    before = await metric(gateway, counted), await metric(gateway, drained)
    await gateway.meta.set_default(two.numbers[0], Slow(seconds=1))
    people = [{"to": f"+551198765432{place}", "body": "Hello"} for place in range(3)]  # to one they would go in order
    sends = [asyncio.create_task(two.send(message)) for message in people]
    number_id = two.numbers[0].phone_number_id
    arrived = lambda: sum(call.phone_number_id == number_id for call in gateway.meta.sends)  # noqa: E731
    await eventually(arrived, lambda count: count == 3)
    assert (await switch(two, 1)).status == 200
    assert await sent_through(two) == 1
    assert not any(send.done() for send in sends)
    assert (await metric(gateway, counted), await metric(gateway, drained)) == (before[0] + 3, before[1])
    answers = [await send for send in sends]
    await gateway.meta.clear_faults(two.numbers[0])
    assert {(answer.status, answer.json["config_id"]) for answer in answers} == {(200, two.configs[0]["config_id"])}
    assert await metric(gateway, drained) > before[1]


async def test_a_repetition_after_a_switch_goes_the_new_way(
    two: Organization, gateway: Gateway, settings: Settings
) -> None:
    """Every attempt is fenced, not the first alone: each is at the version that was in force when it began."""
    refused = 'whatsapp_ingress_fence_rejections_total{reason="attempt"}'
    before = await metric(gateway, refused)
    await gateway.meta.script(two.numbers[0], Throttle429(retry_after=1))
    sending = asyncio.create_task(two.send())
    number_id = two.numbers[0].phone_number_id
    await gateway.meta.wait_for(lambda: any(call.phone_number_id == number_id for call in gateway.meta.sends))
    assert (await switch(two, 1)).json["version"] == 2
    answer = await sending
    first, second = (UUID(config["config_id"]) for config in two.configs)
    assert (answer.status, answer.json["config_id"]) == (200, str(second)), answer.raw
    connection = await asyncpg.connect(settings.database_url)
    rows = await connection.fetch(
        "select version, config_id from attempts where message_id = $1 order by number", UUID(answer.json["id"])
    )
    await connection.close()
    assert [tuple(row) for row in rows] == [(1, first), (2, second)]
    assert await metric(gateway, refused) == before + 1


# ---------------------------------------------------------------- who hears of it


@pytest.mark.parametrize("redis_there", [True, False], ids=["redis", "no-redis"])
async def test_every_process_hears_of_it(
    two: Organization, settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch, redis_there: bool
) -> None:
    """By no expiry: what they know would be good for a minute."""
    monkeypatch.setattr(routes, "CACHE_S", 60.0)
    redis_url = None if redis_there else "unix:///nonexistent/redis.sock"
    async with service(settings, meta, redis_url) as one, service(settings, meta, redis_url) as other:
        doors = [at(one, two), at(other, two)]
        for version in range(1, 6):
            for door in doors:
                answer = await eventually(lambda: current(door), lambda answer, v=version: answer["version"] == v)  # noqa: B023
                assert answer["config_id"] == two.configs[(version - 1) % 2]["config_id"]
            assert (await switch(doors[version % 2], version % 2)).status == 200


async def test_a_change_is_used_before_redis_has_it(
    two: Organization, settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was notified does not wait for a Redis that hangs."""
    monkeypatch.setattr(routes, "CACHE_S", 60.0)
    answers = asyncio.Event()
    remember = redis_state.RedisState.set_active

    async def late(*arguments: Any) -> None:
        await answers.wait()
        await remember(*arguments)

    async with service(settings, meta) as other:
        for held in routes_here():
            held.forget_all()  # what was taken up before the patch is good for a second

        async def knowing_it() -> list[routes.Routes]:
            """Who begins to listen to the database meanwhile forgets all once more."""
            for door in (two, at(other, two)):
                assert (await current(door))["version"] == 1
            return [held for held in routes_here() if held.known_route(UUID(two.id))]

        knowing = await eventually(knowing_it, lambda found: len(found) == 2)
        monkeypatch.setattr(redis_state.RedisState, "set_active", late)
        try:
            switching = asyncio.create_task(switch(two, 1))
            await eventually(lambda: [held.known_route(UUID(two.id)) for held in knowing], _all_at(2))
        finally:
            answers.set()
        assert (await switching).json["version"] == 2


def _all_at(version: int) -> Callable[[list[routes.Route | None]], bool]:
    return lambda routes: all(route is not None and route.version == version for route in routes)


async def test_who_hears_of_nothing_looks_for_itself(
    two: Organization, settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No notification, no message, and a Redis that holds the old value: it is used within a second all the same."""
    key = f"org_{{{two.id}}}:provider:active"
    async with service(settings, meta) as other, redis.asyncio.Redis.from_url(settings.redis_url) as client:
        there = at(other, two)
        assert (await current(there))["version"] == 1
        stale = await client.get(key)
        for held in routes_here():
            held._changes.notified(False)
        monkeypatch.setattr(routes.Routes, "notified", lambda *_: None)
        assert (await current(there))["version"] == 1
        assert (await switch(two, 1)).status == 200
        await client.set(key, stale)
        assert routes.CACHE_S <= 1
        await eventually(lambda: current(there), lambda answer: answer["version"] == 2)


def routes_here() -> list[routes.Routes]:
    """What every service of this process knows."""
    import gc

    return [found for found in gc.get_objects() if type(found) is routes.Routes]


async def test_a_listener_that_was_cut_off_misses_nothing(
    two: Organization, settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It listens again, and reads everything again: the notification may have passed in between."""
    monkeypatch.setattr(routes, "CACHE_S", 60.0)
    monkeypatch.setattr("ingress.storage.listener.LISTEN_RETRY_S", 0.01)
    async with service(settings, meta, "unix:///nonexistent/redis.sock") as other:
        there = at(other, two)
        assert (await current(there))["version"] == 1
        await cut_off_listeners(settings.database_url)
        assert (await switch(two, 1)).status == 200
        await eventually(lambda: current(there), lambda answer: answer["version"] == 2)


# ---------------------------------------------------------------- Redis, at any moment of a switch


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """One to kill."""
    with EmbeddedServers(tmp_path_factory.mktemp("valkey"), postgres=False) as running:
        yield running


@pytest.mark.parametrize("moment", ["before", "tested", "committing", "committed"])
@pytest.mark.parametrize("trouble", ["killed", "paused", "flushed", "stale"])
async def test_redis_goes_in_the_middle_of_a_switch(
    valkey: EmbeddedServers,
    settings: Settings,
    meta: MetaSimulator,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    trouble: str,
) -> None:
    """The switch is made, sends and webhooks go on, the session is there, and Redis is mended when it is back."""
    assert valkey.redis_url
    monkeypatch.setattr(redis_state, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(routes, "CACHE_S", 0.0)
    monkeypatch.setattr(changes, "HEARD_S", 0.0)
    async with (
        service(settings, meta, valkey.redis_url) as gateway,
        redis.asyncio.Redis.from_url(valkey.redis_url) as client,
    ):
        organization = await gateway.organization()
        await organization.configure()
        await organization.configure(active=False)
        key = f"org_{{{organization.id}}}:provider:active"
        old = await client.get(key)
        assert old is not None

        async def strike() -> None:
            if trouble == "killed":
                valkey.valkey.kill()
            elif trouble == "paused":
                os.kill(valkey.pids["valkey"], signal.SIGSTOP)
            elif trouble == "flushed":
                await client.flushall()
            else:
                await client.set(key, old)

        def struck(owner: Any, name: str) -> None:
            wrapped: Callable[..., Any] = getattr(owner, name)

            async def first(*arguments: Any, **more: Any) -> Any:
                await strike()
                return await wrapped(*arguments, **more)

            monkeypatch.setattr(owner, name, first)

        if moment == "before":
            await strike()
        elif moment == "tested":
            struck(accounts.Accounts, "set_up")
        elif moment == "committing":
            struck(switches, "notify")
        else:
            struck(routes.Routes, "_take_up")
        async with asyncio.timeout(60):
            answer = await switch(organization, 1)
        assert (answer.status, answer.json["version"]) == (200, 2), answer.raw
        for place in (0, 1):
            hook = meta.inbound(organization.numbers[place]).text("x")
            assert (await organization.post_webhook(hook, config=place)).status == 200
        assert await sent_through(organization) == 1
        shown = await current(organization)
        assert (shown["config_id"], shown["version"]) == (organization.configs[1]["config_id"], 2)
        assert shown["status"] != "unknown"  # the session, out of the database
        if trouble == "killed":
            valkey.valkey.start()
        elif trouble == "paused":
            os.kill(valkey.pids["valkey"], signal.SIGCONT)

        async def mended() -> bool:
            assert await sent_through(organization) == 1
            await current(organization)
            held = await client.get(key)
            return held is not None and msgspec.json.decode(held)["version"] == 2

        await eventually(mended)
        if trouble == "paused":  # what was written to it while it stood still comes late, and changes nothing
            assert await mended()


@pytest.mark.parametrize("trouble", ["redis-down", "no-notices", "late-notices", "flushed", "stale"])
async def test_every_process_uses_a_change_within_two_seconds(
    valkey: EmbeddedServers, settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """SW-2: whatever becomes of Redis and of the notifications. What comes late, the newest first, changes nothing."""
    kind = routes.Routes
    hear, listens = kind.notified, changes.Changes.notified
    late: list[Callable[[], None]] = []
    if trouble in ("no-notices", "late-notices", "stale"):
        monkeypatch.setattr(kind, "notified", lambda *notice: late.append(lambda: hear(*notice)))
        monkeypatch.setattr(changes.Changes, "notified", lambda self, is_notified: listens(self, False))
    assert valkey.redis_url
    async with (
        service(settings, meta, valkey.redis_url) as here,
        service(settings, meta, valkey.redis_url) as other,
        redis.asyncio.Redis.from_url(valkey.redis_url) as client,
    ):
        organization = await here.organization()
        for active in (True, False):
            await organization.configure(active=active)
        there, key = at(other, organization), f"org_{{{organization.id}}}:provider:active"
        for version in range(2, TROUBLES + 2):
            assert (await current(there))["version"] == version - 1
            place, former = (version - 1) % 2, len(late)
            if trouble == "redis-down":
                valkey.valkey.kill()
            old = await client.get(key) if trouble == "stale" else None
            assert (await switch(organization, place)).json["version"] == version
            started = monotonic()
            if trouble == "flushed":
                await client.flushall()
            elif old is not None:
                await client.set(key, old)
            await eventually(lambda: current(there), lambda answer, version=version: answer["version"] == version)  # type: ignore[misc]  # mypy infers no lambda with a default
            assert monotonic() - started < PROPAGATED_WITHIN_S
            assert await sent_through(there) == place
            if trouble == "redis-down":
                valkey.valkey.start()
            elif trouble == "late-notices":
                assert len(late) > former
                for deliver in reversed(late):
                    deliver()
                late = late[former:]  # some of it comes again, and later than what followed
                assert (await current(there))["version"] == version


# ---------------------------------------------------------------- the lock, and what it is not trusted with


@pytest.fixture
def overtaken(two: Organization, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a switch sets the account up, the version goes up by five."""
    set_up = accounts.Accounts.set_up

    async def first(*arguments: Any) -> Any:
        connection = await asyncpg.connect(settings.database_url)
        await connection.execute("update organizations set version = version + 5 where id = $1", UUID(two.id))
        await connection.close()
        return await set_up(*arguments)

    monkeypatch.setattr(accounts.Accounts, "set_up", first)


@pytest.mark.usefixtures("overtaken")
async def test_the_commit_compares_what_it_sets(two: Organization) -> None:
    """Lock or not: who is at another version by then is refused."""
    answer = await switch(two, 1)
    assert (answer.status, answer.json["code"], answer.json["version"]) == (409, "version_conflict", 6)
    assert "Nothing was changed" in answer.json["detail"]
    assert await states(two) == ["active", "configured"]
    assert (await trail(two))[-1]["reason"] == "version_conflict"


@pytest.mark.usefixtures("overtaken")
@pytest.mark.parametrize("route", ["configure", "switch"])
async def test_a_new_configuration_that_is_saved_and_refused_is_answered_as_saved(
    two: Organization, gateway: Gateway, route: str
) -> None:
    """Under which id, so that it is not made a second time."""
    number = example_number({"configure": 7203, "switch": 7204}[route])
    config_data = number.config_data(await gateway.meta.add_number(number))
    body = {"provider_type": "meta_business", "config_data": config_data}
    answer = await two.call("POST", f"{BASE}/provider/{route}", body)
    assert (answer.status, answer.json["code"], answer.json["version"]) == (409, "version_conflict", 6)
    listed = (await two.call("GET", f"{BASE}/provider/configs")).json["configs"]
    assert [config["state"] for config in listed] == ["active", "configured", "configured"]
    assert answer.json["config_id"] == listed[2]["config_id"]
    assert "othing was changed" not in answer.json["detail"]
    assert f"saved as {listed[2]['config_id']}" in answer.json["detail"]
    entry = (await trail(two))[-1]
    assert (entry["action"], entry["reason"], entry["config_id"]) == (
        "rolled_back",
        "version_conflict",
        answer.json["config_id"],
    )


@pytest.mark.parametrize("where", ["here", "there"])
async def test_who_waits_for_too_long_is_answered(
    two: Organization, settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """In the queue of its own process, or among processes: 503, and nothing was changed."""
    limit(monkeypatch, test_s=2.0)
    monkeypatch.setattr(database, "EXCLUSIVE_WAIT_S", 0.1)
    await meta.set_default(two.numbers[1], Hang(), everything=True)
    async with service(settings, meta) as one, service(settings, meta) as other:
        under_way = asyncio.create_task(switch(at(one, two), 1))
        await eventually(lambda: states(two), lambda found: found == ["active", "switching"])
        answer = await switch(at(one if where == "here" else other, two), 1)
        assert (answer.status, answer.json["code"]) == (503, "unavailable"), answer.raw
        assert "Nothing was changed" in answer.json["detail"]
        assert answer.headers["retry-after"]
        assert (await under_way).status == 504
    await meta.clear_faults(two.numbers[1])
    await unchanged(two, "test_timed_out", "configured")


async def test_a_process_that_hangs_loses_the_lock_and_the_right_to_commit(
    two: Organization, settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It believes that it holds it. Whoever came meanwhile is not undone by it."""
    third = await two.configure(active=False)
    hasty = msgspec.structs.replace(USES["exclusive"].kind, settings=(("idle_session_timeout", "200ms"),))
    monkeypatch.setitem(USES, "exclusive", Use(hasty))
    await meta.set_default(two.numbers[1], Slow(seconds=0.3), everything=True)
    async with service(settings, meta) as hanging:
        under_way = asyncio.create_task(switch(at(hanging, two), 1))
        await eventually(lambda: states(two), lambda found: "switching" in found)
        answer = await switch(two, 2)
        assert (answer.status, answer.json["version"]) == (200, 2), answer.raw
        assert (await under_way).status == 503
    await meta.clear_faults(two.numbers[1])
    shown = await current(two)
    assert (shown["config_id"], shown["version"]) == (third["config_id"], 2)
    assert await states(two) == ["inactive", "configured", "active"]
    assert [entry["version"] for entry in await trail(two, "activated")] == [1, 2]


async def test_a_provider_that_is_slow_does_not_cost_the_lock(
    two: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step may take its time, all of them together may not: 504 that says what took so long."""
    assert switching.TESTED_WITHIN_S < EXCLUSIVE_IDLE_S - STATEMENT_TIMEOUT_S
    assert TimeLimits().set_up_s > 1
    set_up = accounts.Accounts.set_up

    async def hanging(*arguments: Any) -> Any:
        await gateway.meta.set_default(two.numbers[1], Hang(), everything=True)
        return await set_up(*arguments)

    monkeypatch.setattr(switching, "TESTED_WITHIN_S", 1.0)
    monkeypatch.setattr(accounts.Accounts, "set_up", hanging)
    answer = await switch(two, 1)
    await gateway.meta.clear_faults(two.numbers[1])
    assert (answer.status, answer.json["code"]) == (504, "too_slow"), answer.raw
    assert "the set-up had not ended 1 seconds after" in answer.json["detail"]
    await unchanged(two, "too_slow", "configured")


async def test_hanging_switches_of_others_are_waited_for(
    two: Organization, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as a process makes at once: one more is late, and is made."""
    limit(monkeypatch, test_s=1.5)
    other = await gateway.organization()
    await other.configure()
    await other.configure(active=False)
    await gateway.meta.set_default(two.numbers[1], Hang(), everything=True)
    few = msgspec.structs.replace(settings, database_connections=len(USES))
    async with service(few, gateway.meta) as one:
        hanging = asyncio.create_task(switch(at(one, two), 1))
        await eventually(lambda: states(two), lambda found: found == ["active", "switching"])
        monkeypatch.setattr(database, "ACQUIRE_TIMEOUT_S", 0.5)  # the other connections are open by now
        answer = await switch(at(one, other), 1)
        assert (await hanging).status == 504
    await gateway.meta.clear_faults(two.numbers[1])
    assert (answer.status, answer.json["version"]) == (200, 2), answer.raw


async def test_a_lock_that_is_lost_is_reported_and_undone(
    two: Organization, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the process that lost it: 503 that says so, and no wait for whoever comes next."""
    set_up = accounts.Accounts.set_up

    async def cut_off(*arguments: Any) -> Any:
        connection = await asyncpg.connect(settings.database_url)
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and objsubid = 1 and granted"
            " and database = (select oid from pg_database where datname = current_database())"
        )
        await connection.close()
        return await set_up(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(accounts.Accounts, "set_up", cut_off)
        answer = await switch(two, 1)
    assert (answer.status, answer.json["code"]) == (503, "unavailable"), answer.raw
    assert "ended the lock that this change needs" in answer.json["detail"]
    await unchanged(two, "lock_lost", "configured")
    assert (await switch(two, 1, expected_version=1)).status == 200


async def test_late_notifications_change_nothing(
    two: Organization, settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that were delayed and reordered, and some that are none."""
    monkeypatch.setattr(routes, "CACHE_S", 60.0)
    assert (await switch(two, 1)).status == 200
    async with redis.asyncio.Redis.from_url(settings.redis_url) as client:
        assert (await current(two))["version"] == 2
        loads = []
        load = routes.Routes._load_route

        async def counted(self: Any, *arguments: Any) -> Any:
            loads.append(arguments)
            return await load(self, *arguments)

        monkeypatch.setattr(routes.Routes, "_load_route", counted)
        for version in (1, 2, 1):
            await client.publish(redis_state.CHANNEL, f"provider:{two.id}:{version}")
        assert await sent_through(two) == 1
        assert loads == []
        await client.publish(redis_state.CHANNEL, f"provider:{two.id}")  # of a release that tells no version
        await eventually(lambda: bool(loads))
        assert (await current(two))["version"] == 2


@pytest.mark.parametrize(
    ("late", "module", "name"),
    [
        pytest.param(True, routes.configs, "route", id="database"),
        pytest.param(False, redis_state.RedisState, "active", id="redis"),
    ],
)
async def test_a_late_answer_brings_no_old_version_back(
    two: Organization,
    settings: Settings,
    meta: MetaSimulator,
    monkeypatch: pytest.MonkeyPatch,
    late: bool,
    module: Any,
    name: str,
) -> None:
    """Of two loads at once the one that was asked first, and is answered last, knows the lower version."""
    managers: list[manager.WhatsAppProviderManager] = []

    class Kept(manager.WhatsAppProviderManager):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            managers.append(self)

    monkeypatch.setattr(app, "WhatsAppProviderManager", Kept)
    monkeypatch.setattr(routes, "CACHE_S", 0.0)
    monkeypatch.setattr(changes, "HEARD_S", 0.0)
    organization_id = UUID(two.id)
    async with service(settings, meta), asyncio.timeout(60):
        [there] = [made.routes for made in managers]
        await eventually(lambda: there._changes.is_notified)
        assert (await there.route(organization_id)).version == 1
        answered, go_on, ask = asyncio.Event(), asyncio.Event(), getattr(module, name)

        async def delayed(*arguments: Any) -> Any:
            answer = await ask(*arguments)
            if not answered.is_set():
                answered.set()
                await go_on.wait()
            return answer

        monkeypatch.setattr(module, name, delayed)
        first = asyncio.create_task(there.route(organization_id, fresh=late))
        await answered.wait()
        connection = await asyncpg.connect(settings.database_url)
        await connection.execute("update organizations set version = version + 1 where id = $1", organization_id)
        await connection.close()
        there.forget(organization_id)
        assert (await there.route(organization_id, fresh=not late)).version == 2
        go_on.set()
        assert (await first).version == 2
        held = there._routes.get(organization_id)
        assert held is not None
        assert held.route.version == 2


async def test_an_edit_of_a_config_that_nothing_is_sent_through_is_notified(
    two: Organization, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its version is none of the organization's, and its webhooks are answered with what was edited all the same."""
    monkeypatch.setattr(
        "ingress.switching.routes.CACHE_S", 60.0
    )  # by the notification, not because it was looked at again
    config = two.configs[1]
    address = URL(config["webhook_url"]).path

    async with service(settings, gateway.meta) as other:

        async def shaken_with(token: str) -> int:
            query = {"hub.mode": "subscribe", "hub.challenge": "1", "hub.verify_token": token}
            return (await other.call("GET", f"{address}?{urlencode(query)}")).status

        assert await sent_through(at(other, two)) == 0
        assert await shaken_with(two.numbers[1].verify_token) == 200
        change = {"config_data": {"verify_token": "another-verify-token"}}
        answer = await two.call("PATCH", f"{BASE}/provider/configs/{config['config_id']}", change)
        assert (answer.status, answer.json["version"]) == (200, 1), answer.raw
        await eventually(lambda: shaken_with("another-verify-token"), lambda status: status == 200)
        assert await shaken_with(two.numbers[1].verify_token) == 403
