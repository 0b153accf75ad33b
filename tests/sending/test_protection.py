"""What keeps a failing or hanging provider from harming: policy, breakers, budgets, bulkheads, as clients see them."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest

from ingress import app
from ingress.dev.sandbox import ErrorCode, MetaSimulator, Refuse, ResetBeforeAccept, StatusPolicy, Throttle429
from ingress.sending import breakers, bulkhead, outbound, recovery
from ingress.sending.attempts import Attempts
from ingress.sending.budget import RetryBudgets
from ingress.settings import Settings
from prove import protection
from prove.protection import DOWN

from ..conftest import serving
from ..gateway import Answer, Gateway, Organization, eventually

PROVIDER = "/integrations/whatsapp/provider"
FALLBACK = f"{PROVIDER}/fallback"
DEFAULTS: dict[str, Any] = {
    "on_error": {
        "Unsupported": "fallback",
        "AccountBroken": "fallback",
        "Throttled": "retry_then_fallback",
        "Unavailable": "retry_then_fallback",
    },
    "on_uncertain": "hold",
    "min_stay_s": None,
    "auto_switch_after_s": None,
    "return_to_primary": False,
    "auto_rollback": False,
}


@pytest.fixture
async def pair(gateway: Gateway) -> Organization:
    """An organization with an active number and one to fall back to, each with a port of its own."""
    organization = await gateway.organization()
    await organization.configure(own_port=True)
    second = await organization.configure(active=False, own_port=True)
    await organization.fall_back_to(second["config_id"])
    return organization


@pytest.fixture
async def other(settings: Settings, meta: MetaSimulator) -> AsyncIterator[Gateway]:
    """Another process of the same service."""
    async with serving(settings) as url, aiohttp.ClientSession() as session:
        yield Gateway(url, settings.platform_key, session, meta)


def at(gateway: Gateway, organization: Organization) -> Organization:
    """The same organization, by way of another process."""
    there = Organization(gateway, organization.id, organization.key)
    there.configs, there.numbers = organization.configs, organization.numbers
    return there


async def set_policy(organization: Organization, **policy: Any) -> Answer:
    ids = [config["config_id"] for config in organization.configs[1:]]
    return await organization.call("PUT", FALLBACK, {"config_ids": ids, "policy": policy})


def calls(organization: Organization, config: int = 0) -> int:
    return organization.gateway.meta.call_count("POST messages", organization.numbers[config].phone_number_id)


async def metric(gateway: Gateway, start: str) -> float:
    text = (await gateway.metrics()).raw.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(start))


# ---------------------------------------------------------------- policy


async def test_a_policy_is_shown_kept_and_audited(pair: Organization) -> None:
    """In force at once, part of the version; an order without a policy leaves it as it is."""
    before = (await pair.call("GET", FALLBACK)).json
    assert before["policy"] == DEFAULTS
    wanted = {
        "on_error": DEFAULTS["on_error"] | {"Throttled": "stop"},
        "on_uncertain": "fallback",
        "min_stay_s": 600,
        "auto_switch_after_s": 60,
        "return_to_primary": True,
        "auto_rollback": False,
    }
    result = await set_policy(pair, **wanted)
    assert (result.status, result.json["policy"], result.json["version"]) == (200, wanted, before["version"] + 1)
    await pair.fall_back_to(pair.configs[1]["config_id"])
    assert (await pair.call("GET", FALLBACK)).json["policy"] == wanted
    second, first, *_ = (await pair.call("GET", "/integrations/whatsapp/audit")).json["entries"]
    assert (first["before"]["policy"], first["after"]["policy"]) == (DEFAULTS, wanted)
    assert second["before"]["policy"] == second["after"]["policy"] == wanted
    assert (await set_policy(pair)).json["policy"] == DEFAULTS


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        ({"on_error": {"Rejected": "retry"}}, "policy.on_error.Rejected"),
        ({"on_error": {"Restricted": "fallback"}}, "policy.on_error.Restricted"),
        ({"on_error": {"Uncertain": "retry"}}, "policy.on_error.Uncertain"),
        ({"on_error": {"AccountBroken": "retry"}}, "policy.on_error.AccountBroken"),
        ({"on_error": {"Unsupported": "retry"}}, "policy.on_error.Unsupported"),
        ({"on_error": {"Throttled": "panic"}}, "policy.on_error.Throttled"),
        ({"on_uncertain": "panic"}, "policy.on_uncertain"),
        ({"min_stay_s": 0}, "policy.min_stay_s"),
        ({"auto_switch_after_s": 5}, "policy.auto_switch_after_s"),
        ({"auto_switch_after_s": "soon"}, "policy.auto_switch_after_s"),
        ({"colour": "red"}, "policy.colour"),
    ],
)
async def test_what_no_policy_may_say(pair: Organization, policy: Any, path: str) -> None:
    """What is refused for good, or punished, is never sent again; the rest is a closed set of words."""
    before = (await pair.call("GET", FALLBACK)).json
    answer = await set_policy(pair, **policy)
    assert (answer.status, [error["path"] for error in answer.json["errors"]]) == (422, [path])
    assert (await pair.call("GET", FALLBACK)).json == before


@pytest.mark.parametrize(
    ("move", "classes", "status"),
    [
        ("retry_then_fallback", ["Unavailable", "Unavailable", "ok"], 200),
        ("retry", ["Unavailable", "Unavailable", "Unavailable"], 502),
        ("fallback", ["Unavailable", "ok"], 200),
        ("stop", ["Unavailable"], 502),
    ],
)
async def test_what_a_policy_makes_of_an_error(
    pair: Organization, gateway: Gateway, move: str, classes: list[str], status: int
) -> None:
    await set_policy(pair, on_error={"Unavailable": move})
    await gateway.meta.set_default(pair.numbers[0], DOWN)
    answer = await pair.send()
    assert answer.status == status
    assert [attempt["class"] for attempt in (await pair.message(answer.json["id"]))["attempts"]] == classes


async def test_a_broken_account_may_be_no_reason_to_move(pair: Organization, gateway: Gateway) -> None:
    """Neither when it is found, nor for the sends that come while its breaker is open."""
    await set_policy(pair, on_error={"AccountBroken": "stop"})
    await gateway.meta.script(pair.numbers[0], ErrorCode(code=190))
    assert (await pair.send()).status == 502
    assert (await pair.send()).json["code"] == "providers_resting"
    assert calls(pair, 1) == 0


async def test_the_organization_says_what_becomes_of_lost_answers(pair: Organization, gateway: Gateway) -> None:
    """Where the send does not: one that says `hold` is held all the same."""
    gateway.meta.set_statuses(pair.numbers[0], StatusPolicy(statuses=()))
    await set_policy(pair, on_uncertain="fallback")
    await gateway.meta.script(pair.numbers[0], ResetBeforeAccept(), ResetBeforeAccept())
    moved = await pair.send()
    assert (moved.json["config_id"], moved.json["fallback_reason"]) == (pair.configs[1]["config_id"], "Uncertain")
    held = await pair.send({"to": "+5511987654321", "body": "x", "on_uncertain": "hold"}, prefer="wait=1")
    assert (held.status, held.json["code"], held.json["attempts"]) == (504, "uncertain", 1)


@pytest.mark.parametrize("code", [131026, 131031, 368], ids=["rejected", "locked", "restricted"])
async def test_no_policy_sends_again_what_was_refused(pair: Organization, gateway: Gateway, code: int) -> None:
    moves = {name: "retry_then_fallback" for name in ("Throttled", "Unavailable")}
    await set_policy(pair, on_error=moves, on_uncertain="fallback")
    await gateway.meta.script(pair.numbers[0], ErrorCode(code=code))
    assert (await pair.send()).status == 422
    assert (calls(pair, 0), calls(pair, 1)) == (1, 0)


# ---------------------------------------------------------------- falling back, quickly and loudly


async def test_the_first_send_after_a_provider_died_is_answered_at_once(pair: Organization, gateway: Gateway) -> None:
    """Connections refused from one moment to the next: it is asked again once at most, and not waited for."""
    for _ in range(5):
        assert (await pair.send()).json["fallback_from"] is None
    await gateway.meta.set_default(pair.numbers[0], Refuse())
    answer = await pair.send()
    assert (answer.status, answer.json["fallback_from"]) == (200, pair.configs[0]["config_id"])
    assert answer.json["attempts"] <= 3


async def test_a_fallback_is_told_everywhere(pair: Organization, gateway: Gateway) -> None:
    """The answer, the stored message, its event and the metric say from where, and why."""
    counted = 'whatsapp_ingress_fallback_total{provider="meta_business",reason="AccountBroken"}'
    before = await metric(gateway, counted)
    await gateway.meta.script(pair.numbers[0], ErrorCode(code=190))
    result = (await pair.send(idempotency_key="loud")).json
    assert (result["fallback_from"], result["fallback_reason"]) == (pair.configs[0]["config_id"], "AccountBroken")
    assert (await pair.send(idempotency_key="loud")).json == result
    assert (await pair.message(result["id"]))["fallback_reason"] == "AccountBroken"
    reasons = {
        event["data"]["message"].get("fallback_reason")
        for event in await pair.events(kind="message.status")
        if event["data"]["message"].get("fallback_from")
    }
    assert reasons == {"AccountBroken"}
    assert await metric(gateway, counted) == before + 1


# ---------------------------------------------------------------- circuit breakers


async def test_a_dead_provider_is_left_alone(pair: Organization, gateway: Gateway) -> None:
    """After ten failing calls none is made: sends go to the fallback in one attempt, and say why."""
    await gateway.meta.set_default(pair.numbers[0], Refuse())
    for _ in range(10):
        assert (await pair.send()).status == 200
    opened = await metric(gateway, 'whatsapp_ingress_breakers{provider="meta_business",state="open"}')
    assert opened >= 1
    result = (await pair.send(idempotency_key="skipped")).json
    assert (result["attempts"], result["fallback_reason"]) == (1, "breaker_open")
    assert result["fallback_from"] == pair.configs[0]["config_id"]
    [attempt] = (await pair.message(result["id"]))["attempts"]
    assert (attempt["config_id"], attempt["class"]) == (pair.configs[1]["config_id"], "ok")
    counted = 'whatsapp_ingress_fallback_total{provider="meta_business",reason="breaker_open"}'
    assert await metric(gateway, counted) >= 1


async def test_a_provider_that_comes_back_is_used_again(
    pair: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sends go through one after the other, then all of them."""
    monkeypatch.setattr(breakers, "OPEN_S", 0.05)
    await gateway.meta.set_default(pair.numbers[0], DOWN)
    for _ in range(10):
        await pair.send()
    await gateway.meta.set_default(pair.numbers[0], None)

    async def back() -> bool:
        return (await pair.send()).json["fallback_from"] is None

    await eventually(back)
    await eventually(
        lambda: asyncio.gather(*(pair.send() for _ in range(8))),
        lambda answers: all(answer.json["fallback_from"] is None for answer in answers),
    )


async def test_when_all_rest_nothing_is_called_and_nothing_accepted(
    organization: Organization, gateway: Gateway
) -> None:
    """503 with the time to come back; the key is free for then, and a send from before is answered as it was."""
    taken = await organization.send(idempotency_key="before")
    await gateway.meta.set_default(organization.numbers[0], DOWN)
    for _ in range(5):
        await organization.send()
    before = calls(organization)
    answer = await organization.send(idempotency_key="later")
    assert (answer.status, answer.json["code"]) == (503, "providers_resting")
    assert 5 <= int(answer.headers["retry-after"]) <= 13
    assert calls(organization) == before
    assert (await organization.send(idempotency_key="before")).json == taken.json


async def test_refusals_open_no_breaker(organization: Organization, gateway: Gateway) -> None:
    await gateway.meta.set_default(organization.numbers[0], ErrorCode(code=131026))
    answers = [await organization.send() for _ in range(25)]
    assert {answer.status for answer in answers} == {422}


async def test_one_organizations_breaker_is_its_own(gateway: Gateway) -> None:
    """Two accounts at the same address: one fails, the other is called as before."""
    failing, well = await gateway.organization(), await gateway.organization()
    for organization in (failing, well):
        await organization.configure()
    await gateway.meta.set_default(failing.numbers[0], DOWN)
    for _ in range(10):
        await failing.send()
    assert (await failing.send()).status == 503
    assert (await well.send()).status == 200


async def test_a_broken_account_is_left_alone_by_every_process(
    pair: Organization, gateway: Gateway, other: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by one, known to the other without a call of its own; the first one that gets through clears it."""
    monkeypatch.setattr(breakers, "SYNC_S", 60.0)  # by word of mouth, not by a second look
    there = at(other, pair)
    assert (await there.send()).json["fallback_from"] is None
    await gateway.meta.set_default(pair.numbers[0], ErrorCode(code=190))
    assert (await pair.send()).json["fallback_reason"] == "AccountBroken"
    known = calls(pair)

    async def result() -> Any:
        return (await there.send()).json["fallback_reason"]

    await eventually(result, lambda reason: reason == "breaker_open")
    assert calls(pair) - known <= 3  # what was sent before the other knew


async def test_the_first_send_that_gets_through_ends_it_for_all(
    pair: Organization, gateway: Gateway, other: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repaired at the provider: found out by a probe, and passed on."""
    monkeypatch.setattr(breakers, "OPEN_S", 0.1)
    there = at(other, pair)
    await gateway.meta.script(pair.numbers[0], ErrorCode(code=190))
    await pair.send()
    database = await asyncpg.connect(settings.database_url)

    async def broken_at() -> Any:
        config_id = pair.configs[0]["config_id"]
        return await database.fetchval("select broken_at from whatsapp_provider_configs where id = $1", config_id)

    assert await eventually(broken_at)

    async def back(organization: Organization) -> bool:
        return (await organization.send()).json["fallback_from"] is None

    await eventually(lambda: back(pair))
    await eventually(broken_at, lambda at: at is None)
    await eventually(lambda: back(there))
    await database.close()


@pytest.mark.parametrize("change", ["switch", "edit", "edit of a fallback", "edit of one that becomes a fallback"])
async def test_a_test_that_passed_ends_it_for_all(
    pair: Organization, gateway: Gateway, other: Gateway, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Whatever the calls before it did, in every process: who switched or mended the account may send."""
    monkeypatch.setattr(breakers, "OPEN_S", 100.0)
    there = at(other, pair)
    first, second = (config["config_id"] for config in pair.configs)
    for number in pair.numbers:
        await gateway.meta.set_default(number, DOWN)
    for _ in range(10):
        await pair.send()
        await there.send()
    assert [(await organization.send()).json["code"] for organization in (pair, there)] == ["providers_resting"] * 2
    for number in pair.numbers:
        await gateway.meta.set_default(number, None)
    if change == "switch":
        answer = await pair.call("POST", f"{PROVIDER}/switch", {"config_id": second})
    else:
        edited = first if change == "edit" else second
        if change == "edit of one that becomes a fallback":
            await pair.fall_back_to()
        answer = await pair.call("PATCH", f"{PROVIDER}/configs/{edited}", {"config_data": {"pin": "123456"}})
    assert answer.status == 200, answer.raw
    if change == "edit of one that becomes a fallback":
        await pair.fall_back_to(second)
    through = first if change == "edit" else second
    assert (await pair.send()).json["config_id"] == through
    sent = await eventually(there.send, lambda answer: answer.status == 200)
    assert sent.json["config_id"] == through


async def test_what_was_not_tested_is_left_alone_as_before(pair: Organization, gateway: Gateway) -> None:
    """The config that a switch leaves, and the others, after any change."""
    await gateway.meta.set_default(pair.numbers[0], DOWN)
    for _ in range(10):
        await pair.send()
    answer = await pair.call("POST", f"{PROVIDER}/switch", {"config_id": pair.configs[1]["config_id"]})
    assert answer.status == 200, answer.raw
    await pair.fall_back_to(pair.configs[0]["config_id"])
    known = calls(pair)
    await gateway.meta.set_default(pair.numbers[1], ErrorCode(code=190))
    assert (await pair.send()).status >= 500
    assert calls(pair) == known


async def test_a_broken_template_breaks_no_account(pair: Organization, gateway: Gateway) -> None:
    await gateway.meta.script(pair.numbers[0], ErrorCode(code=132001))
    assert (await pair.send()).json["fallback_reason"] == "AccountBroken"
    assert (await pair.send()).json["fallback_from"] is None


# ---------------------------------------------------------------- retry budgets


async def test_a_provider_that_fails_altogether_is_hardly_called_more_often(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 to everything, 15 sends at once and 300 at 100 a second, and no breaker: at most 1.25 calls a send."""
    monkeypatch.setattr(breakers, "LEAST_CALLS", 10**9)
    began = time.monotonic()
    calls_of_each, statuses = await protection.calls_per_send(organization)
    late_s = time.monotonic() - began - protection.SENDS * protection.EVERY_S
    assert statuses == {502}
    assert 1 <= calls_of_each <= 1.25 + late_s / protection.SENDS  # one more a second is what an account may always
    assert (
        await metric(
            gateway, 'whatsapp_ingress_retry_budget_exhausted_total{provider="meta_business",reason="account"}'
        )
        > 0
    )


async def test_with_its_breaker_it_is_called_until_that_opens(
    organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same sends: what opens it, and a look now and then."""
    for name in ("OPEN_S", "OPEN_AT_MOST_S"):  # those under way when it opens look one after the other, so far apart
        monkeypatch.setattr(breakers, name, 0.2)
    calls_of_each, statuses = await protection.calls_per_send(organization)
    assert statuses <= {502, 503}
    assert 0 < calls_of_each <= 0.25


def test_accounts_of_one_host_share_a_budget() -> None:
    """A hundred accounts, quiet but for failures: the host gets three repetitions a second, not a hundred."""
    now = 1000.0
    budgets = RetryBudgets(lambda: now)
    configs: list[Any] = [
        msgspec.defstruct("Config", [("id", int), ("provider_type", str), ("provider", object)])(place, "p", None)
        for place in range(100)
    ]
    while budgets.take(configs[0]) is None or budgets.take(configs[1]) is None or budgets.take(configs[2]) is None:
        continue
    refused = [budgets.take(config) for config in configs[4:]]
    assert "host" in refused
    for _ in range(60):
        now += 1.0
        assert sum(budgets.take(config) is None for config in configs) <= 3


# ---------------------------------------------------------------- bulkheads


async def test_a_hanging_provider_of_one_organization_slows_down_no_other(
    settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A floods a provider that hangs; B's sends go by those of A that wait, and none of A's is lost.

    How much longer B's take is for `make prove` to judge.
    """
    monkeypatch.setattr(breakers, "LEAST_CALLS", 10**9)  # the breaker would end the flood: the bulkhead alone
    monkeypatch.setattr(outbound, "DRAIN_S", 0.1)
    async with serving(settings) as url, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        gateway = Gateway(url, settings.platform_key, session, meta)
        flooding, steady = await gateway.organization(), await gateway.organization()
        for organization in (flooding, steady):
            await organization.configure()
        *_, flood = await protection.flooded(flooding, steady)
        assert await protection.waiting(flooding) > 0  # B's sends went by
        assert {answer.status for answer in flood} == {202}
        # What waits for a slot is written down as surely not sent, whatever becomes of this process.
        waits = await flooding.message(flood[-1].json["id"])
        assert [(attempt["class"], attempt["code"]) for attempt in waits["attempts"]] == [("Throttled", "bulkhead")]
        await meta.set_default(flooding.numbers[0], None)
    # It stopped; another one goes on with what was waiting.
    monkeypatch.setattr(recovery, "SWEEP_S", 0.05)
    async with serving(settings) as url, aiohttp.ClientSession() as session:
        there = at(Gateway(url, settings.platform_key, session, meta), flooding)
        await asyncio.gather(*(there.settled(answer.json["id"], "sent", "delivered", "read") for answer in flood[100:]))


async def test_what_was_accepted_waits_for_its_provider(
    settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The breaker opens over the heads of those in the queue: they are sent when it is closed again."""
    monkeypatch.setattr(breakers, "LEAST_CALLS", 4)
    monkeypatch.setattr(breakers, "OPEN_S", 0.5)
    monkeypatch.setattr(app, "Bulkhead", lambda: bulkhead.Bulkhead(4))
    accepted, through = asyncio.Event(), Attempts.through

    async def later(*arguments: Any) -> Any:
        await accepted.wait()
        return await through(*arguments)

    monkeypatch.setattr(Attempts, "through", later)
    async with serving(settings) as url, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        organization = await Gateway(url, settings.platform_key, session, meta).organization()
        await organization.configure()
        await meta.script(organization.numbers[0], *[ErrorCode(code=131016, http_status=503)] * 4)
        answers = await asyncio.gather(*(organization.send(prefer="respond-async") for _ in range(20)))
        accepted.set()
        ids = [answer.json["id"] for answer in answers]
        ended = [await organization.settled(id, "failed", "sent", "delivered", "read") for id in ids]
        waited = [message for message in ended if message["attempts"][0]["code"] == "breaker_open"]
        assert waited
        assert {message["status"] for message in waited} <= {"sent", "delivered", "read"}


async def test_a_flood_is_refused_before_it_is_accepted(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has as many waiting as is good for anybody gets 503 with Retry-After: nothing of it is stored."""
    monkeypatch.setattr(bulkhead, "MAX_WAITING", 0)
    answer = await organization.send(idempotency_key="flood")
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]
    monkeypatch.undo()
    assert (await organization.send(idempotency_key="flood")).status == 200


async def test_throttling_stays_within_the_patience_of_who_waits(pair: Organization, gateway: Gateway) -> None:
    """Half a minute is asked for, another number is ready: it is used."""
    await gateway.meta.script(pair.numbers[0], Throttle429(retry_after=30))
    answer = await pair.send()
    assert (answer.status, answer.json["attempts"], answer.json["fallback_reason"]) == (200, 2, "Throttled")
