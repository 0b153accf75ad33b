"""An app of a provider with an address of its own: what comes in there goes to the organizations that it is about."""

from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from ingress.dev.sandbox import example_number, signed_headers
from ingress.dev.sandbox.meta.bodies import encode
from ingress.settings import Settings
from ingress.storage.group_commit import GroupCommit, Overloaded
from ingress.storage.statements.receiving import unread

from ..gateway import Answer, Gateway, Organization, _numbers, eventually

CONFIGS = "/integrations/whatsapp/provider/configs"


class App:
    """An app that the platform made, as its provider sees it."""

    def __init__(self, gateway: Gateway, secret: str, made: Any) -> None:
        self.gateway, self.secret, self.made = gateway, secret, made

    async def post(self, body: Any) -> Answer:
        raw = body if isinstance(body, bytes) else encode(body)
        headers = {name.lower(): value for name, value in signed_headers(self.secret, raw).items()}
        return await self.gateway.call("POST", self.made["webhook_url"], raw=raw, **headers)

    async def quarantine(self) -> list[Any]:
        answer = await platform(self.gateway, "GET", "/quarantine?foreign=1")
        listed: list[Any] = [item for item in answer.json["quarantine"] if item["config_id"] == self.made["id"]]
        return listed

    async def replay(self, item: Any) -> Answer:
        return await platform(self.gateway, "POST", f"/quarantine/{item['id']}/replay?foreign=1")


async def platform(gateway: Gateway, method: str, path: str, body: Any = None, **more: Any) -> Answer:
    return await gateway.call(method, path, body, key=gateway.platform_key, **more)


@pytest.fixture
async def app(gateway: Gateway) -> App:
    secret = f"app-{next(_numbers)}".ljust(32, "0")
    body = {
        "provider_type": "meta_business",
        "name": "Shared",
        "config_data": {"app_secret": secret, "verify_token": "verify"},
    }
    made = await platform(gateway, "POST", "/apps", body)
    assert made.status == 201, made.raw
    return App(gateway, secret, made.json)


@pytest.fixture
async def tenants(app: App) -> tuple[Organization, Organization]:
    first, second = await app.gateway.organization(), await app.gateway.organization()
    for organization in (first, second):
        await organization.configure(app_secret=app.secret)
    return first, second


async def received(organization: Organization) -> list[str]:
    return [event["data"]["message"]["content"]["body"] for event in await organization.events(kind="message.received")]


async def test_one_body_for_two_organizations(app: App, tenants: tuple[Organization, Organization]) -> None:
    """Each gets its own items, under its own config; neither is shown anything of the body."""
    bodies = [app.gateway.meta.inbound(one.numbers[0]).text(f"for {place}") for place, one in enumerate(tenants)]
    body = bodies[0] | {"entry": bodies[0]["entry"] + bodies[1]["entry"]}
    assert (await app.post(body)).status == 200
    for place, organization in enumerate(tenants):
        [event] = await organization.events(kind="message.received")
        assert event["data"]["message"]["content"]["body"] == f"for {place}"
        assert event["data"]["organization_id"] == organization.id
        assert event["data"]["config_id"] == organization.configs[0]["config_id"]
        assert (await organization.call("GET", "/quarantine")).json["quarantine"] == []
    assert await app.quarantine() == []


async def test_who_waits_for_events_is_woken(app: App, tenants: tuple[Organization, Organization]) -> None:
    """Not at the next look: what comes in at the app's address is delivered at once."""
    for organization in tenants:
        after = (await organization.call("GET", "/events")).json["next"]
        assert (await app.post(app.gateway.meta.inbound(organization.numbers[0]).text("now"))).status == 200
        assert [event["type"] for event in await organization.events(after, wait=5)] == ["message.received"]


async def test_a_fact_is_one_event_at_whichever_address_it_comes_in(
    app: App, tenants: tuple[Organization, Organization]
) -> None:
    first, _ = tenants
    body = app.gateway.meta.inbound(first.numbers[0]).text("once")
    assert (await app.post(body)).status == 200
    assert (await first.post_webhook(body)).status == 200
    assert (await app.post(body)).status == 200
    assert await received(first) == ["once"]


async def test_what_is_nobodys_waits_for_its_owner(app: App) -> None:
    """Put aside for the platform, whole; replayed once an organization has the account. What still has none stays."""
    gateway = app.gateway
    numbers = [msgspec.structs.replace(example_number(next(_numbers)), app_secret=app.secret) for _ in range(2)]
    for number in numbers:
        await gateway.meta.add_number(number)
    bodies = [gateway.meta.inbound(number).text(f"early {place}") for place, number in enumerate(numbers)]
    assert (await app.post(bodies[0] | {"entry": bodies[0]["entry"] + bodies[1]["entry"]})).status == 200
    [item] = await app.quarantine()
    assert item["reason"] == "foreign"
    assert (await app.replay(item)).json["code"] == "still_unreadable"
    organizations = [await gateway.organization() for _ in numbers]
    for place, state in ((0, "open"), (1, "replayed")):
        await organizations[place].configure(numbers[place])

        async def replayed() -> Any:
            return (await app.replay(item)).json

        answer = await eventually(
            replayed, lambda answer: "events" in answer
        )  # within the second that it is remembered
        assert answer == {"state": state, "events": 1}
        assert await received(organizations[place]) == [f"early {place}"]
    assert await app.quarantine() == []


async def test_what_came_in_at_a_tenants_address_is_replayed_to_that_tenant_alone(
    app: App, tenants: tuple[Organization, Organization]
) -> None:
    """Its own account, once it is shown to be its own; not another's: a tenant can sign what it likes."""
    gateway = app.gateway
    first, second = tenants
    number = msgspec.structs.replace(example_number(next(_numbers)), app_secret=app.secret)
    await gateway.meta.add_number(number)
    await first.configure(number, host="localhost")
    own, others = (gateway.meta.inbound(one) for one in (number, second.numbers[0]))
    bodies = [own.text("own"), others.text("written by the first")]
    assert (await first.post_webhook(bodies[0] | {"entry": bodies[0]["entry"] + bodies[1]["entry"]})).status == 200
    assert await received(first) == []
    listed = await platform(gateway, "GET", "/quarantine?foreign=1", x_org_id=first.id)
    [item] = listed.json["quarantine"]
    await first.configure(number)

    async def replayed() -> Answer:
        return await platform(gateway, "POST", f"/quarantine/{item['id']}/replay?foreign=1", x_org_id=first.id)

    answer = await eventually(replayed, lambda answer: answer.status == 200)  # within the second that it is remembered
    assert answer.json == {"state": "open", "events": 1}
    assert (await received(first), await received(second)) == (["own"], [])
    assert (await replayed()).json["code"] == "still_unreadable"


async def test_what_cannot_be_read_is_the_platforms(app: App, tenants: tuple[Organization, Organization]) -> None:
    assert (await app.post(b"unreadable")).status == 200
    [item] = await app.quarantine()
    assert item["reason"] == "malformed"
    assert (await app.replay(item)).json["code"] == "still_unreadable"
    discarded = await platform(app.gateway, "POST", f"/quarantine/{item['id']}/discard?foreign=1")
    assert discarded.json == {"state": "discarded"}
    for organization in tenants:
        assert (await organization.call("GET", "/quarantine")).json["quarantine"] == []


async def test_an_app_alone_makes_a_secret_shared(app: App) -> None:
    """The platform's address for it says that others may come."""
    organization = await app.gateway.organization()
    await organization.configure(app_secret=app.secret)
    assert (await organization.post_webhook(b"unreadable")).status == 200
    assert (await organization.call("GET", "/quarantine")).json["quarantine"] == []


async def test_the_address_is_the_apps_alone(app: App) -> None:
    """Its handshake, a signature that is not the app's, another spelling of the address, the end of it."""
    gateway, url = app.gateway, app.made["webhook_url"]
    assert "/webhooks/meta_business/app/" in url
    answer = await gateway.call("GET", f"{url}?hub.mode=subscribe&hub.challenge=42&hub.verify_token=verify")
    assert (answer.status, answer.raw) == (200, b"42")
    assert (await gateway.call("POST", url, raw=b"{}")).status == 401
    for other in (url.replace("/app/", "/"), url.replace("/app/", "/apps/"), url.replace("meta_business", "twilio")):
        assert (await gateway.call("POST", other, raw=b"{}")).status == 404
    organization = await gateway.organization()
    made = await organization.configure()
    token = made["webhook_url"].rpartition("/")[2]
    assert (await gateway.call("POST", f"/webhooks/meta_business/app/{token}", raw=b"{}")).status == 404
    assert (await platform(gateway, "DELETE", f"/apps/{app.made['id']}")).status == 204
    assert (await gateway.call("POST", url, raw=b"{}")).status == 404
    assert (await platform(gateway, "DELETE", f"/apps/{app.made['id']}")).status == 404


async def test_the_secret_of_an_app_is_renewed_at_the_same_address(app: App) -> None:
    """The new one and, until it is taken out, the former."""
    former, path = app.secret, f"/apps/{app.made['id']}"
    renewed = {"app_secret": f"{former}-2", "app_secret_previous": former}
    assert (await platform(app.gateway, "PATCH", path, {"config_data": {"access_token": "x"}})).status == 422
    assert (await platform(app.gateway, "PATCH", path, {"config_data": renewed})).status == 204
    for secret in (former, renewed["app_secret"]):
        app.secret = secret
        assert (await app.post(b"unreadable")).status == 200
    assert (await platform(app.gateway, "PATCH", path, {"config_data": {"app_secret_previous": None}})).status == 204
    app.secret = former
    assert (await app.post(b"unreadable")).status == 401
    assert (await platform(app.gateway, "PATCH", f"/apps/{UUID(int=1)}", {"config_data": {}})).status == 404


async def test_apps_are_listed_without_their_secrets(app: App) -> None:
    answer = await platform(app.gateway, "GET", "/apps")
    [shown] = [one for one in answer.json["apps"] if one["id"] == app.made["id"]]
    assert app.secret.encode() not in answer.raw
    assert shown["webhook_url"] == app.made["webhook_url"]
    assert set(shown["config_data"]) == {"app_secret", "app_secret_previous", "verify_token"}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"provider_type": "nobody"}, "provider_type"),
        ({"provider_type": "whatsapp_web"}, "provider_type"),
        ({"config_data": {"app_secret": "x", "verify_token": "y", "access_token": "z"}}, "config_data.access_token"),
        ({"config_data": {"verify_token": "y"}}, "config_data.app_secret"),
    ],
)
async def test_what_is_no_app_is_refused(gateway: Gateway, change: dict[str, Any], path: str) -> None:
    body = {"provider_type": "meta_business", "name": "App", "config_data": {"app_secret": "x", "verify_token": "y"}}
    answer = await platform(gateway, "POST", "/apps", body | change)
    assert (answer.status, answer.json["code"]) == (422, "invalid_configuration"), answer.raw
    assert [error["path"] for error in answer.json["errors"]] == [path]


async def test_everything_that_is_wrong_with_an_app_is_named_at_once(gateway: Gateway) -> None:
    body = {"provider_type": "meta_business", "config_data": {"verify_token": "", "access_token": "z"}}
    wrong = ["config_data.access_token", "config_data.app_secret", "config_data.verify_token"]
    for more, code, own in (
        ({"name": "App"}, "invalid_configuration", []),
        ({"name": ""}, "invalid_request", ["name"]),
    ):
        answer = await platform(gateway, "POST", "/apps", body | more)
        assert (answer.status, answer.json["code"]) == (422, code), answer.raw
        assert sorted(error["path"] for error in answer.json["errors"]) == [*wrong, *own]


async def mixed(app: App, organization: Organization) -> tuple[Any, Any]:
    """What makes bodies for a number of the organization, and for one that is nobody's."""
    number = msgspec.structs.replace(example_number(next(_numbers)), app_secret=app.secret)
    await app.gateway.meta.add_number(number)
    return app.gateway.meta.inbound(organization.numbers[0]), app.gateway.meta.inbound(number)


async def test_what_was_taken_when_it_came_is_not_taken_again_when_its_keys_are_gone(
    app: App, tenants: tuple[Organization, Organization], settings: Settings
) -> None:
    """A body of which part was nobody's, replayed after more than a month."""
    first, _ = tenants
    mine, nobodys = await mixed(app, first)
    body = mine.text("mine")
    assert (await app.post(body | {"entry": body["entry"] + nobodys.text("later")["entry"]})).status == 200
    [item] = await app.quarantine()
    connection = await asyncpg.connect(settings.database_url)
    old = "update quarantine set received_at = now() - interval '31 days' where id = $1"
    await connection.execute(old, UUID(item["id"]))
    await connection.execute("delete from inbound_dedup where organization_id = $1", UUID(first.id))
    await connection.close()
    answer = await app.replay(item)
    assert (answer.status, answer.json["code"]) == (409, "too_old")
    assert await received(first) == ["mine"]
    assert [each["id"] for each in await app.quarantine()] == [item["id"]]


async def test_what_was_stale_in_a_body_of_others_is_not_taken_with_it(
    app: App, tenants: tuple[Organization, Organization]
) -> None:
    first, _ = tenants
    mine, nobodys = await mixed(app, first)
    old = mine.text("old")
    old["entry"][0]["changes"][0]["value"]["messages"][0]["timestamp"] = "1500000000"
    assert (await app.post(old | {"entry": old["entry"] + nobodys.text("later")["entry"]})).status == 200
    items = {item["reason"]: item for item in await app.quarantine()}
    assert set(items) == {"foreign", "stale"}
    assert (await app.replay(items["foreign"])).status == 409
    assert await received(first) == []


async def test_a_stale_body_shows_nobody_what_else_is_in_it(
    app: App, tenants: tuple[Organization, Organization]
) -> None:
    """Not all of a body need be an event: what is no event may be another tenant's, too."""
    first, second = tenants
    body = app.gateway.meta.inbound(first.numbers[0]).text("old")
    body["entry"][0]["changes"][0]["value"]["messages"][0]["timestamp"] = "1500000000"
    theirs = app.gateway.meta.inbound(second.numbers[0]).text("x")["entry"][0]
    del theirs["changes"][0]["value"]["messages"]
    assert (await first.post_webhook(body | {"entry": [*body["entry"], theirs]})).status == 200
    assert (await first.call("GET", "/quarantine")).json["quarantine"] == []
    listed = await platform(app.gateway, "GET", "/quarantine?foreign=1", x_org_id=first.id)
    assert [item["reason"] for item in listed.json["quarantine"]] == ["stale"]


async def test_apps_have_a_part_each_of_what_waits(
    app: App, tenants: tuple[Organization, Organization], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As organizations have: what floods one app leaves the others theirs."""
    shares = []

    def enqueue(self: Any, row: Any, *_: Any, organization: Any, **__: Any) -> Any:
        shares.append(organization)
        raise Overloaded

    monkeypatch.setattr(GroupCommit, "enqueue", enqueue)
    assert (await app.post(app.gateway.meta.inbound(tenants[0].numbers[0]).text("x"))).status == 503
    assert [str(share) for share in shares] == [app.made["id"]]


async def test_an_app_stays_until_what_it_was_sent_is_read(
    app: App, tenants: tuple[Organization, Organization], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> None:
        return None

    first, _ = tenants
    body = app.gateway.meta.inbound(first.numbers[0]).text("x" * 70_000)
    with monkeypatch.context() as patched:
        patched.setattr(unread, "claim", nothing)
        assert (await app.post(body)).status == 200
        refused = await platform(app.gateway, "DELETE", f"/apps/{app.made['id']}")
        assert (refused.status, refused.json["code"]) == (409, "webhooks_unread")

    async def removed() -> int:
        return (await platform(app.gateway, "DELETE", f"/apps/{app.made['id']}")).status

    assert await eventually(removed, lambda status: status != 409) == 204
    assert len(await received(first)) == 1
