"""How often somebody may ask, who is refused, and what is written down of it."""

import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from ingress import log
from ingress.accounts import config
from ingress.api import organizations
from ingress.metrics import REGISTRY
from ingress.settings import Settings
from ingress.storage.vault import new_api_key, split_api_key
from ingress.web import auth, limits, refusals
from ingress.web.bodies import Paged, RequestQuery
from ingress.web.limits import Limiter

from ..conftest import serving
from ..gateway import SCOPES, Answer, Gateway, Organization

CONFIG = "/integrations/whatsapp/provider"
NOWHERE = {
    "provider_type": "whatsapp_web",
    "config_data": {"base_url": "http://127.0.0.1:9", "api_key": "k", "hmac_key": "h"},
}


# ---------------------------------------------------------------- the piece


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_then_the_rate() -> None:
    clock = Clock()
    line = Limiter(0.5, 4, clock)
    assert [line.take("a") for _ in range(5)] == pytest.approx([0, 0, 0, 0, 0.5], abs=1e-3)
    assert line.take("b") == 0, "each has a line of its own"
    clock.now += 0.5
    assert [line.take("a") for _ in range(2)] == pytest.approx([0, 0.5], abs=1e-3)
    clock.now += 60
    saved_up = [line.take("a") for _ in range(5)]
    assert saved_up == pytest.approx([0, 0, 0, 0, 0.5], abs=1e-3), "no more than the burst"
    assert [Limiter(0, 0, clock).take("a") for _ in range(3)] == [0, 0, 0]


def test_to_look_takes_no_turn_and_a_part_of_a_turn_is_a_part() -> None:
    clock = Clock()
    line = Limiter(1, 2, clock)
    assert [line.wait_s("a") for _ in range(9)] == [0] * 9
    assert [line.take("a", 0.25) for _ in range(5)] == [0] * 5
    assert line.take("a") == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_never_more_than_the_rate_whatever_the_order(seed: int) -> None:
    """In any stretch of time: the burst, and what the rate gives."""
    dice, clock = random.Random(seed), Clock()
    line, taken = Limiter(0.1, 7, clock), []
    for _ in range(2000):
        clock.now += dice.choice([0, 0, 0.01, 0.3])
        if line.take("a") == 0:
            taken.append(clock.now)
    for first in range(0, len(taken), 50):
        for last in range(first, min(len(taken), first + 200)):
            assert last - first + 1 <= 7 + (taken[last] - taken[first]) / 0.1 + 1e-3


def test_strangers_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked the longest ago is forgotten; who asks again and again is not."""
    monkeypatch.setattr(limits, "KEPT", 100)
    line = Limiter(60, 1000, Clock())
    for number in range(1000):
        line.take("me")
        line.take(number)
    assert len(line._due) == 100
    assert line.take("me") > 0


# ---------------------------------------------------------------- over HTTP


@pytest.fixture
async def limited(settings: Settings, gateway: Gateway) -> AsyncIterator[Gateway]:
    """A process with the limits that a service has unless it is said otherwise, behind a proxy at this address."""
    defaults = {name: getattr(Settings(), name) for name in LIMITS}
    own = msgspec.structs.replace(settings, **defaults, trusted_proxies="127.0.0.0/8")
    async with serving(own) as url:
        yield Gateway(url, settings.platform_key, gateway.session, gateway.meta)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What every limit goes by."""
    clock, take = Clock(), Limiter.take

    def taken(self: Limiter, *who: Any) -> float:
        self._clock = self._due._clock = clock
        return take(self, *who)

    monkeypatch.setattr(Limiter, "take", taken)
    return clock


LIMITS = ("requests_per_key", "sign_in_failures_per_minute", "connection_tests_per_minute")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is written to the log, of refusals."""
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "wide", lambda event, **fields: written.append({"event": event, **fields}))
    return written


def at(gateway: Gateway, organization: Organization) -> Organization:
    """The organization, at another process."""
    return Organization(gateway, organization.id, organization.key)


async def ask(gateway: Gateway, key: str | None, address: str) -> Answer:
    return await gateway.call("GET", "/events", key=key, x_forwarded_for=address)


def is_too_many(answer: Answer) -> bool:
    if answer.status != 429:
        return False
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["code"] == "too_many_requests"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    return True


def test_a_page_of_a_list_has_two_hundred_at_most() -> None:
    """Of every list but `/events`, whose pages are bounded in bytes, too."""
    assert [Paged(limit=limit).size for limit in (0, 1, 200, 201, 10**18 - 1)] == [1, 1, 200, 200, 200]

    def below(kind: type[RequestQuery]) -> set[type[RequestQuery]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    limited = [kind for kind in below(RequestQuery) if "limit" in kind.__struct_fields__]
    assert len(limited) > 10
    assert {kind.__name__ for kind in limited if not issubclass(kind, Paged)} == {"EventsQuery"}


def test_the_defaults_are_as_promised() -> None:
    assert [getattr(Settings(), name) for name in LIMITS] == [50, 5, 10]


async def test_an_address_may_fail_five_times_a_minute(limited: Gateway, gateway: Gateway) -> None:
    """Then it is refused unseen: a right key as well, which says nothing about itself. Others are not concerned."""
    organization = await gateway.organization()
    guesses = [new_api_key("live")[2] for _ in range(4)] + ["nonsense"]
    assert [(await ask(limited, key, "203.0.113.7")).status for key in guesses] == [401] * 5
    for key in (new_api_key("live")[2], "nonsense", organization.key, limited.platform_key):
        assert is_too_many(await ask(limited, key, "203.0.113.7"))
    assert (await ask(limited, None, "203.0.113.7")).status == 401, "without a key nothing was tried"
    assert (await ask(limited, organization.key, "203.0.113.8")).status == 200


async def test_whoever_was_right_once_is_not_locked_out(
    limited: Gateway, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By strangers behind the same address, though they name the same key."""
    monkeypatch.setattr(auth.Authenticator, "_is_good", lambda *_: False)  # looked up each time
    organization = await gateway.organization()
    parts = split_api_key(organization.key)
    assert parts
    assert (await ask(limited, organization.key, "198.51.100.1")).status == 200
    _, _, other = new_api_key("live")
    forged = f"{other[: len('ingress_live_')]}{parts[0]}{other[len('ingress_live_') + 8 :]}"
    await ask(limited, forged, "198.51.100.1")
    answers = [await ask(limited, new_api_key("live")[2], "198.51.100.1") for _ in range(8)]
    assert any(map(is_too_many, answers))
    assert (await ask(limited, organization.key, "198.51.100.1")).status == 200
    await organization.call("DELETE", f"/keys/{parts[0]}")
    assert (await ask(limited, organization.key, "198.51.100.1")).status == 401, "looked up, and known no more"
    assert is_too_many(await ask(limited, organization.key, "198.51.100.1"))


async def test_an_address_that_failed_costs_the_database_nothing(
    limited: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    lookup = auth.organizations.key

    async def counted(connection: Any, key_id: str) -> Any:
        asked.append(key_id)
        return await lookup(connection, key_id)

    monkeypatch.setattr(auth.organizations, "key", counted)
    for _ in range(20):
        await ask(limited, new_api_key("live")[2], "203.0.113.9")
    assert len(asked) == 5


async def test_a_network_of_ipv6_is_one_address(limited: Gateway) -> None:
    answers = [await ask(limited, "nonsense", f"2001:db8:0:1::{number:x}") for number in range(1, 8)]
    assert [is_too_many(answer) for answer in answers] == [False] * 5 + [True] * 2
    assert (await ask(limited, "nonsense", "2001:db8:0:2::1")).status == 401
    mapped = [await ask(limited, "nonsense", address) for address in ["::ffff:203.0.113.20", "203.0.113.20"] * 3]
    assert [answer.status for answer in mapped] == [401] * 5 + [429], "one address, however it is written"


async def test_a_key_may_ask_fifty_times_a_second(limited: Gateway, gateway: Gateway, clock: Clock) -> None:
    """A hundred at once; another key of the organization has turns of its own."""
    organization = await gateway.organization()
    other = (await organization.call("POST", "/keys", {"scopes": SCOPES})).json["key"]
    answers = [await ask(limited, organization.key, "192.0.2.1") for _ in range(103)]
    assert Counter(answer.status for answer in answers) == {200: 100, 429: 3}
    assert all(map(is_too_many, answers[100:]))
    assert (await ask(limited, other, "192.0.2.1")).status == 200
    clock.now += 0.1
    assert [(await ask(limited, organization.key, "192.0.2.1")).status for _ in range(6)] == [200] * 5 + [429]


async def test_a_stream_is_one_request(limited: Gateway, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often its key is looked at again."""
    monkeypatch.setattr(auth.Authenticator, "_is_good", lambda *_: False)  # looked up each time
    organization = at(limited, await gateway.organization())
    taken: list[Any] = []
    take = Limiter.take
    monkeypatch.setattr(Limiter, "take", lambda self, who, *rest: taken.append(who) or take(self, who, *rest))
    assert (await organization.call("GET", "/events?wait=1")).status == 200
    assert len(taken) == 1


async def test_an_organization_has_the_service_call_out_ten_times_a_minute(
    limited: Gateway, gateway: Gateway, clock: Clock
) -> None:
    """By tests, configurations and pairings together; the next organization is not concerned."""
    organization, other = at(limited, await gateway.organization()), at(limited, await gateway.organization())
    bad = {"provider_type": "meta_business", "config_data": {}}
    for path, body in 3 * [("test", bad), ("configure", bad), ("switch", bad)]:
        assert (await organization.call("POST", f"{CONFIG}/{path}", body)).status == 400
    assert (await organization.call("POST", f"{CONFIG}/pairing", {})).status == 409
    for method, path, body in (
        ("POST", "test", bad),
        ("POST", "configure", bad),
        ("POST", "switch", bad),
        ("POST", "pairing", {}),
        ("GET", "pairing", None),
        ("DELETE", "pairing", None),
    ):
        assert is_too_many(await organization.call(method, f"{CONFIG}/{path}", body)), path
    assert is_too_many(await organization.call("POST", "/callback/test"))
    assert (await other.call("POST", f"{CONFIG}/test", bad)).status == 400
    assert (await organization.call("POST", f"{CONFIG}/rollback", {})).status == 409, "a way back is always open"


async def test_a_dry_run_calls_out_as_a_test_does(limited: Gateway, gateway: Gateway, clock: Clock) -> None:
    """What it says of a stored config is what its connection test says now."""
    made = await gateway.organization()
    config = await made.configure()
    organization = at(limited, made)
    calls = [("switch", {"config_id": config["config_id"], "dry_run": True}), ("rollback", {"dry_run": True})]
    statuses = [
        (await organization.call("POST", f"/integrations/whatsapp/provider/{path}", body)).status
        for path, body in calls * 6
    ]
    assert statuses[-2:] == [429, 429]
    assert 429 not in statuses[:10]


async def test_templates_are_listed_sixty_times_a_minute(limited: Gateway, gateway: Gateway, clock: Clock) -> None:
    """Of a provider that is the organization's own, and may answer with a megabyte."""
    made = await gateway.organization()
    await made.configure()
    organization = at(limited, made)
    answers = [await organization.call("GET", "/integrations/whatsapp/templates") for _ in range(80)]
    assert [answer.status for answer in answers[:55]] == [200] * 55
    assert is_too_many(answers[-1])


async def test_an_organization_has_so_many_keys_and_configs(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Revoked and deleted ones do not count."""
    assert (organizations.MAX_KEYS, config.MAX_CONFIGS) == (50, 20)
    monkeypatch.setattr(organizations, "MAX_KEYS", 3)
    monkeypatch.setattr("ingress.switching.config_store.MAX_CONFIGS", 2)
    organization = await gateway.organization()
    made = [await organization.call("POST", "/keys", {"scopes": ["read"]}) for _ in range(3)]
    assert [answer.status for answer in made] == [201, 201, 409]
    assert made[2].json["code"] == "quota_reached"
    assert (await organization.call("DELETE", f"/keys/{made[0].json['id']}")).status == 204
    assert (await organization.call("POST", "/keys", {"scopes": ["read"]})).status == 201

    for active in (True, False):
        await organization.configure(active=active)
    number = organization.numbers[0]
    data = number.config_data(gateway.meta.url_for(number))
    body = {"provider_type": "meta_business", "config_data": data, "allow_second": True}
    for path, more in (("configure", {"is_active": True}), ("configure", {"is_active": False}), ("switch", {})):
        answer = await organization.call("POST", f"{CONFIG}/{path}", body | more)
        assert (answer.status, answer.json["code"]) == (409, "quota_reached"), path
        assert "config_id" not in answer.json
    listed = (await organization.call("GET", f"{CONFIG}/configs")).json["configs"]
    assert [config["state"] for config in listed] == ["active", "configured"]
    assert (await organization.call("DELETE", f"{CONFIG}/configs/{listed[1]['config_id']}")).status == 204
    await organization.configure(active=False)


# ---------------------------------------------------------------- what is written down


def refusals_of(reason: str) -> float:
    return REGISTRY.get_sample_value("whatsapp_ingress_auth_failures_total", {"reason": reason}) or 0.0


async def test_who_is_refused_is_logged_and_counted(
    limited: Gateway, gateway: Gateway, settings: Settings, lines: list[dict[str, Any]]
) -> None:
    """With the address and the key's id; never with the key, nor with what is no id."""
    organization = await gateway.organization()
    reader, expired, revoked = [
        (await organization.call("POST", "/keys", {"scopes": ["read"], "expires_at": "2099-01-01T00:00:00Z"})).json
        for _ in range(3)
    ]
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("update api_keys set expires_at = now() where id = $1", expired["id"])
    await connection.close()
    await organization.call("DELETE", f"/keys/{revoked['id']}")
    unknown_id, _, unknown = new_api_key("live")
    address = "198.51.100.77"
    lines.clear()
    mine = organization.key.split("_")[2]
    cases: list[tuple[str, str, str, str | None, str | None]] = [
        ("missing_key", "GET", "/events", None, None),
        ("malformed_key", "GET", "/events", f"ingress_live_{secrets.token_hex(20)}", None),
        ("unknown_key", "GET", "/events", unknown, unknown_id),
        ("expired_key", "GET", "/events", expired["key"], expired["id"]),
        ("revoked_key", "GET", "/events", revoked["key"], revoked["id"]),
        ("scope", "POST", "/send", reader["key"], reader["id"]),
        ("platform_only", "GET", "/organizations", organization.key, mine),
        ("other_organization", "GET", "/events", organization.key, mine),
    ]
    for reason, method, path, key, key_id in cases:
        before = refusals_of(reason)
        other = {"x_org_id": str(uuid4())} if reason == "other_organization" else {}
        answer = await limited.call(method, path, key=key, x_forwarded_for=address, **other)
        assert answer.status in ([404] if other else [401, 403])
        assert refusals_of(reason) == before + 1
        [line] = [line for line in lines if line["event"] == "refused"]
        assert (line["reason"], line["key"], line["address"], line["route"]) == (reason, key_id, address, path)
        assert (line["status"], line["request_id"]) == (answer.status, answer.headers["x-request-id"])
        if key:
            assert key[14:] not in repr(line)
        lines.clear()


async def test_a_flood_of_refusals_is_a_number(limited: Gateway, lines: list[dict[str, Any]], clock: Clock) -> None:
    """Not a line each, which would fill the disk."""
    before = refusals_of("missing_key")
    for _ in range(100):
        await ask(limited, None, "198.51.100.78")
    assert refusals_of("missing_key") == before + 100
    written = [line for line in lines if line["event"] == "refused"]
    assert len(written) == refusals.LINES_PER_S == 10
    clock.now += 0.2
    for _ in range(9):
        await ask(limited, None, "198.51.100.78")
    assert len([line for line in lines if line["event"] == "refused"]) == 12


async def test_what_was_not_logged_is_summed_up_and_alarms(
    monkeypatch: pytest.MonkeyPatch, lines: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    from ..gateway import eventually

    monkeypatch.setattr(refusals, "SUMMED_UP_AFTER_S", 0.01)
    noted = refusals.Refusals()
    noted._lines = Limiter(1, 2, Clock())
    for _ in range(9):
        noted.note("unknown_key", address="192.0.2.9")
    assert len(lines) == 2
    await eventually(lambda: lines[2:] == [{"event": "refused_more", "count": 7}])
    [alarm] = [record for record in caplog.records if record.name == "ingress.web.refusals"]
    assert (alarm.levelname, alarm.getMessage()[:8]) == ("ERROR", "7 more r")


def test_reasons_are_of_a_closed_set() -> None:
    """They are labels of a metric."""
    assert set(refusals.Reason.__args__) >= {"missing_key", "scope"}
    assert len(refusals.Reason.__args__) < 12
