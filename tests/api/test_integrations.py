"""Providers, configuration and its refusals, the fallback order, the audit trail, the callback."""

import importlib.metadata
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import asyncpg
import pytest

from ingress.dev.sandbox import Bare5xx, CrmSimulator, Hang, MetaNumber, MetaSimulator, Refuse, example_number
from ingress.settings import Settings
from providers import Registry
from providers.meta_business import MetaBusiness

from ..conftest import serving
from ..gateway import Answer, Gateway, Organization, limit

BASE = "/integrations/whatsapp"
SECRETS = {"access_token", "app_secret", "verify_token", "app_secret_previous", "pin"}


async def configure(organization: Organization, provider_type: str, config_data: Any, **more: Any) -> Answer:
    body = {"provider_type": provider_type, "config_data": config_data, **more}
    return await organization.call("POST", f"{BASE}/provider/configure", body)


async def current(organization: Organization) -> Any:
    return (await organization.call("GET", f"{BASE}/provider/current")).json


async def configs(organization: Organization) -> Any:
    return (await organization.call("GET", f"{BASE}/provider/configs")).json["configs"]


async def trail(organization: Organization) -> Any:
    return (await organization.call("GET", f"{BASE}/audit")).json["entries"]


@pytest.fixture
async def crm() -> AsyncIterator[CrmSimulator]:
    """One of this module's own: its secret is changed."""
    async with CrmSimulator() as simulator:
        yield simulator


@pytest.fixture(scope="module")
async def steady(gateway: Gateway) -> Organization:
    """An organization with one active config, for tests that change nothing of it."""
    organization = await gateway.organization()
    await organization.configure()
    return organization


@pytest.fixture
async def empty(gateway: Gateway) -> Organization:
    """An organization without a provider."""
    return await gateway.organization()


async def number_at(gateway: Gateway, index: int, *, own_port: bool = False) -> tuple[MetaNumber, dict[str, str]]:
    """A simulated number that no organization has yet, and its config_data."""
    number = example_number(index)
    return number, number.config_data(await gateway.meta.add_number(number, own_port=own_port))


# ---------------------------------------------------------------- what there is: A1


async def test_providers_are_listed_with_their_fields(empty: Organization) -> None:
    """All that a form needs comes from the provider itself."""
    listed = (await empty.call("GET", f"{BASE}/providers?details=true")).json["providers"]
    by_name = {provider["name"]: provider for provider in listed}
    meta = by_name["meta_business"]
    assert meta["state"] == "registered"
    assert "reason" not in meta
    assert (meta["pricing"], meta["stability"], meta["official"]) == ("paid", "stable", True)
    assert meta["display_name"]
    assert meta["description"]
    assert "text" in meta["capabilities"]
    assert meta["capabilities"] == sorted(meta["capabilities"])
    fields = {field["name"]: field for field in meta["fields"]}
    assert list(fields) == list(MetaBusiness.__struct_fields__)
    assert {name for name, field in fields.items() if field.get("secret")} == SECRETS
    assert {name for name, field in fields.items() if field.get("required", True)} == {
        "access_token",
        "phone_number_id",
        "waba_id",
        "app_secret",
        "verify_token",
    }
    assert all(field["title"] for field in fields.values())
    assert fields["phone_number_id"]["placeholder"] == "109876543210987"
    assert fields["phone_number_id"]["pattern"]


async def test_a_broken_plug_in_is_listed_with_its_reason(
    settings: Settings, meta: MetaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown, cannot be configured, and keeps no other from working."""
    group = "whatsapp_ingress.providers"
    points = [
        importlib.metadata.EntryPoint("broken", "tests.no_such_module:PROVIDER", group),
        importlib.metadata.EntryPoint("not_one", "json:dumps", group),
        importlib.metadata.EntryPoint("meta_business", "json:loads", group),
    ]
    monkeypatch.setattr("ingress.app.Registry", lambda **_: Registry(points))
    async with serving(settings) as url, aiohttp.ClientSession() as session:
        organization = await Gateway(url, settings.platform_key, session, meta).organization()
        listed = (await organization.call("GET", f"{BASE}/providers?details=true")).json["providers"]
        failed = {provider["name"]: provider for provider in listed if provider["state"] == "failed"}
        assert set(failed) == {"broken", "not_one", "meta_business"}
        assert "ModuleNotFoundError" in failed["broken"]["reason"]
        assert "WhatsAppProvider" in failed["not_one"]["reason"]
        assert "already has the name" in failed["meta_business"]["reason"]
        assert all("fields" not in provider for provider in failed.values())
        answer = await configure(organization, "broken", {})
        assert (answer.status, answer.json["code"]) == (400, "invalid_configuration")
        await organization.configure()
        assert (await organization.send()).status == 200


# ---------------------------------------------------------------- the current one: A2


async def test_nothing_is_configured_at_first(empty: Organization) -> None:
    assert await current(empty) == {"provider": None, "status": "not_configured"}
    assert await configs(empty) == []
    answer = await empty.send()
    assert (answer.status, answer.json["code"]) == (409, "provider_not_configured")


async def test_the_current_provider_and_how_it_is_doing(steady: Organization) -> None:
    number, config = steady.numbers[0], steady.configs[0]
    shown = await current(steady)
    assert (shown["provider"], shown["state"], shown["version"]) == ("meta_business", "active", 1)
    assert (shown["config_id"], shown["sender"]) == (config["config_id"], number.display_phone_number)
    assert shown["status"]["is_connected"] is True
    assert shown["status"]["connection_quality"] in ("excellent", "good")
    assert shown["fallback"] == []
    assert set(shown["config_data"]) == set(MetaBusiness.__struct_fields__)
    assert shown["config_data"]["phone_number_id"] == number.phone_number_id
    [listed] = await configs(steady)
    assert listed["config_data"] == shown["config_data"]


# ---------------------------------------------------------------- configuring: A3


async def test_a_config_is_saved_tested_set_up_and_active(empty: Organization, gateway: Gateway) -> None:
    number, config_data = await number_at(gateway, 7700)
    answer = await configure(empty, "meta_business", config_data, name="Main number")
    assert answer.status == 200
    shown = answer.json
    assert (shown["provider"], shown["state"], shown["version"]) == ("meta_business", "active", 1)
    assert shown["sender"] == number.display_phone_number
    assert shown["webhook_url"].startswith(f"{gateway.url}/webhooks/meta_business/")
    # As it is after set-up, each once: before, the app was not subscribed, and the webhook nowhere.
    names = ["credentials", "number", "account", "subscription", "webhook", "setup"]
    assert [(check["name"], check["passed"]) for check in shown["checks"]] == [(name, True) for name in names]
    # Set up: the provider posts to that very address.
    assert gateway.meta.webhook_url(number) == shown["webhook_url"]
    [config] = await configs(empty)
    assert (config["name"], config["state"], config["config_id"]) == ("Main number", "active", shown["config_id"])


async def test_saving_without_activating(organization: Organization, gateway: Gateway) -> None:
    _, config_data = await number_at(gateway, 7701)
    answer = await configure(organization, "meta_business", config_data, is_active=False)
    assert (answer.status, answer.json["state"], answer.json["version"]) == (200, "configured", 2)
    assert (await current(organization))["config_id"] == organization.configs[0]["config_id"]
    assert [config["state"] for config in await configs(organization)] == ["active", "configured"]
    assert (await trail(organization))[0]["action"] == "configured"


async def test_activation_goes_up_by_one_version_and_is_audited(organization: Organization) -> None:
    """In the transaction of the change: who, from where, from what, to what."""
    second = await organization.configure()
    assert second["version"] == 2
    shown = await current(organization)
    assert (shown["config_id"], shown["version"]) == (second["config_id"], 2)
    assert [config["state"] for config in await configs(organization)] == ["inactive", "active"]
    activated, deactivated, switching, configured, *_ = await trail(organization)
    assert (activated["action"], activated["version"]) == ("activated", 2)
    assert activated["before"] == {"active_config_id": organization.configs[0]["config_id"]}
    assert activated["after"]["active_config_id"] == second["config_id"]
    assert activated["after"]["checks"]["credentials"] is True
    assert activated["actor"] == organization.key.split("_")[2]
    assert activated["address"] == "127.0.0.1"
    assert (deactivated["action"], deactivated["config_id"]) == ("deactivated", organization.configs[0]["config_id"])
    assert (deactivated["before"], deactivated["after"]) == ({"state": "active"}, {"state": "inactive"})
    for entry, action in ((switching, "switching"), (configured, "configured")):
        assert (entry["action"], entry["config_id"]) == (action, second["config_id"])
    switched = await organization.events(kind="provider.switched")
    assert [event["data"]["version"] for event in switched] == [1, 2]
    assert switched[1]["data"]["from_config_id"] == organization.configs[0]["config_id"]


async def test_one_organization_with_two_configs_of_one_provider(gateway: Gateway, empty: Organization) -> None:
    """Each with a number, a webhook address and secrets of its own."""
    first, second = await empty.configure(), await empty.configure()
    assert first["webhook_url"] != second["webhook_url"]
    assert first["sender"] != second["sender"]
    for place in (0, 1):
        body = gateway.meta.inbound(empty.numbers[place]).text("hello")
        assert (await empty.post_webhook(body, config=place)).status == 200
    # Signed with the secret of the other one:
    raw = json.dumps(gateway.meta.inbound(empty.numbers[0]).text("x")).encode()
    empty.numbers.reverse()
    assert (await empty.post_webhook(raw, config=0)).status == 401
    events = await empty.events(kind="message.received")
    assert [event["data"]["config_id"] for event in events] == [first["config_id"], second["config_id"]]


async def test_secrets_are_shown_as_fingerprints_only(steady: Organization) -> None:
    """In every answer and every row of the trail; two different ones differ."""
    number = steady.numbers[0]
    answers = [
        await steady.call("GET", f"{BASE}/{path}")
        for path in ("provider/current", "provider/configs", "audit", "providers", "provider/fallback")
    ]
    for answer in answers:
        for secret in (number.access_token, number.app_secret, number.verify_token):
            assert secret.encode() not in answer.raw
    [configured] = [entry for entry in await trail(steady) if entry["action"] == "configured"]
    shown = configured["after"]
    assert all(shown[name].startswith("…") for name in SECRETS if shown[name] is not None)
    assert shown["app_secret_previous"] is None
    assert shown["access_token"] != shown["app_secret"]
    assert shown["phone_number_id"] == number.phone_number_id


async def test_configs_are_encrypted_at_rest(steady: Organization, settings: Settings) -> None:
    number = steady.numbers[0]
    connection = await asyncpg.connect(settings.database_url)
    try:
        row = await connection.fetchrow(
            "select config_data, webhook_token, webhook_token_hash from whatsapp_provider_configs where id = $1",
            steady.configs[0]["config_id"],
        )
    finally:
        await connection.close()
    token = steady.configs[0]["webhook_url"].rpartition("/")[2].encode()
    for column in row:
        for secret in (
            number.access_token.encode(),
            number.app_secret.encode(),
            number.phone_number_id.encode(),
            token,
        ):
            assert secret not in column


# ---------------------------------------------------------------- refusals: A5


async def refused(organization: Organization, provider_type: str, config_data: Any, **more: Any) -> Any:
    """The problem of a configuration that is refused with 400, after which all is as before."""
    before = await standing(organization)
    answer = await configure(organization, provider_type, config_data, **more)
    assert (answer.status, answer.json["code"]) == (400, "invalid_configuration"), answer.raw
    assert answer.headers["content-type"] == "application/problem+json"
    assert await standing(organization) == before
    return answer.json


async def standing(organization: Organization) -> Any:
    """All that a configuration may change: what is sent at the same time is seen in a config, too."""
    shown = await current(organization)
    listed = await configs(organization)
    return shown.get("config_id"), shown.get("version"), [(one["config_id"], one["config_data"]) for one in listed]


async def test_an_unknown_provider(steady: Organization) -> None:
    problem = await refused(steady, "carrier_pigeon", {})
    assert problem["errors"] == [{"path": "provider_type", "detail": "unknown provider"}]
    assert "meta_business" in problem["detail"]


GOOD = example_number(7702).config_data("https://graph.example")
WRONG = GOOD | {"api_version": "latest"}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"nobody": "x"}, "config_data.nobody"),
        ({"access_token": None}, "config_data.access_token"),
        ({"access_token": ""}, "config_data.access_token"),
        ({"access_token": 42}, "config_data.access_token"),
        ({"access_token": "two words"}, "config_data.access_token"),
        ({"access_token": "line\r\nx-injected: 1"}, "config_data.access_token"),
        ({"phone_number_id": "+15550001111"}, "config_data.phone_number_id"),
        ({"phone_number_id": "1/../2"}, "config_data.phone_number_id"),
        ({"phone_number_id": "123\n"}, "config_data.phone_number_id"),
        ({"waba_id": ["1"]}, "config_data.waba_id"),
        ({"app_secret": {"a": 1}}, "config_data.app_secret"),
        ({"display_phone_number": "5550001111"}, "config_data.display_phone_number"),
        ({"api_version": "latest"}, "config_data.api_version"),
        ({"api_version": "v25.0/../x"}, "config_data.api_version"),
        ({"require_appsecret_proof": "yes"}, "config_data.require_appsecret_proof"),
        ({"base_url": "graph.facebook.com"}, "config_data.base_url"),
        ({"base_url": "ftp://graph.example"}, "config_data.base_url"),
        ({"base_url": "https://graph.example?x=1"}, "config_data.base_url"),
        ({"base_url": "https://a:b@graph.example"}, "config_data.base_url"),
        ({"base_url": "https://10.0.0.1"}, "config_data.base_url"),
        ({"base_url": "https://graph..example"}, "config_data.base_url"),
        ({"base_url": 7}, "config_data.base_url"),
    ],
    ids=str,
)
async def test_an_invalid_field_is_named(steady: Organization, change: dict[str, Any], path: str) -> None:
    """And its value is not repeated: it may be a secret in the wrong place."""
    problem = await refused(steady, "meta_business", GOOD | change)
    assert [error["path"] for error in problem["errors"]] == [path]
    assert "two words" not in json.dumps(problem)


@pytest.mark.parametrize("name", ["access_token", "phone_number_id", "waba_id", "app_secret", "verify_token"])
async def test_a_missing_field_is_named(steady: Organization, name: str) -> None:
    problem = await refused(steady, "meta_business", {key: value for key, value in GOOD.items() if key != name})
    assert [error["path"] for error in problem["errors"]] == [f"config_data.{name}"]


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({}, "provider_type config_data"),
        ({"provider_type": "meta_business"}, "config_data"),
        ({"provider_type": 1, "config_data": 7, "is_active": "yes"}, "provider_type config_data is_active"),
        ({"provider_type": 1, "config_data": {}}, "provider_type"),
        ({"provider_type": "meta_business", "config_data": []}, "config_data"),
        ({"provider_type": "meta_business", "config_data": GOOD, "is_active": "yes"}, "is_active"),
        ({"provider_type": "meta_business", "config_data": GOOD, "name": ""}, "name"),
        ({"provider_type": "meta_business", "config_data": GOOD, "nobody": 1}, "nobody"),
        ({"provider_type": "nobody", "config_data": {}, "name": ""}, "name provider_type"),
        ({"provider_type": "meta_business", "config_data": WRONG, "nobody": 1}, "nobody config_data.api_version"),
        ({"provider_type": "meta_business", "config_data": WRONG, "name": ""}, "name config_data.api_version"),
    ],
    ids=str,
)
async def test_a_body_of_another_shape(steady: Organization, body: Any, paths: str) -> None:
    answer = await steady.call("POST", f"{BASE}/provider/configure", body)
    assert (answer.status, answer.json["code"]) == (422, "invalid_request")
    assert [error["path"] for error in answer.json["errors"]] == paths.split()


async def test_what_is_wrong_is_named_at_once_wherever_a_configuration_is_taken(organization: Organization) -> None:
    """The body's own fields and those of the configuration, also of one that is edited."""
    config_id = organization.configs[0]["config_id"]
    new = {"provider_type": "meta_business", "config_data": WRONG}
    for method, path, body, own in (
        ("POST", "configure", new | {"name": ""}, "name"),
        ("POST", "switch", new | {"reason": ""}, "reason"),
        ("POST", "switch", new | {"is_active": False}, "is_active"),
        ("POST", "test", new | {"config_id": "x"}, "config_id"),
        ("PATCH", f"configs/{config_id}", {"config_data": {"api_version": "latest"}, "name": ""}, "name"),
    ):
        answer = await organization.call(method, f"{BASE}/provider/{path}", body)
        assert (answer.status, answer.json["code"]) == (422, "invalid_request"), answer.raw
        assert [error["path"] for error in answer.json["errors"]] == [own, "config_data.api_version"]
        assert all(f"{error['path']} {error['detail']}" in answer.json["detail"] for error in answer.json["errors"])


@pytest.mark.parametrize("saved", [False, True], ids=["new", "saved"])
async def test_credentials_that_fail_have_one_answer(gateway: Gateway, saved: bool) -> None:
    """The same status and code, the same check with its fix, whatever was asked for."""
    organization = await gateway.organization()
    number, config_data = await number_at(gateway, 7720 + saved)
    body: dict[str, Any] = {"provider_type": "meta_business", "config_data": config_data}
    if saved:
        body = {"config_id": (await organization.configure(number, active=False))["config_id"]}
        renewed = {name: getattr(number, name) for name in number.__struct_fields__} | {"access_token": "EAAG-renewed"}
        await gateway.meta.add_number(type(number)(**renewed))
    else:
        config_data["access_token"] = "EAAG-not-this-one"
    asked = [("POST", "test", body), ("POST", "switch", body)]
    if saved:
        change = {"config_data": {"verify_token": "another"}}
        asked.append(("PATCH", f"configs/{body['config_id']}", change))
    else:
        asked += [("POST", "configure", body), ("POST", "configure", body | {"is_active": False})]
    for method, path, sent in asked:
        answer = await organization.call(method, f"{BASE}/provider/{path}", sent)
        assert (answer.status, answer.json["code"]) == (400, "invalid_configuration"), answer.raw
        failed = [check for check in answer.json["checks"] if not check["passed"]]
        assert [check["name"] for check in failed] == ["credentials"]
        assert failed[0]["fix"]
        assert "Create a new token" in answer.json["detail"]


async def test_every_wrong_field_of_a_configuration_is_named(steady: Organization) -> None:
    """Missing, unknown, ill-formed, unprintable, and an address that may not be called: in one answer."""
    data = {key: value for key, value in GOOD.items() if key != "waba_id"}
    data |= {"phone_number_id": "x y", "app_secret": "a\u202eb", "base_url": "ftp://127.0.0.1", "colour": "blue"}
    problem = await refused(steady, "meta_business", data)
    found = {error["path"].removeprefix("config_data."): error["detail"] for error in problem["errors"]}
    assert set(found) == {"waba_id", "phone_number_id", "app_secret", "base_url", "colour"}
    assert found["waba_id"] == "is missing"
    assert found["phone_number_id"] == "must be text of 1 to 32 characters, like 109876543210987"


async def test_a_name_that_cannot_be_stored(steady: Organization, gateway: Gateway) -> None:
    """PostgreSQL keeps no NUL: a mistake of the caller, not of ours."""
    _, config_data = await number_at(gateway, 7703)
    before = await configs(steady)
    answer = await configure(steady, "meta_business", config_data, name="a\x00b")
    assert (answer.status, answer.json["code"]) == (422, "invalid_request"), answer.raw
    assert await configs(steady) == before


async def test_credentials_that_the_provider_refuses(steady: Organization, gateway: Gateway) -> None:
    """The reason is given in words that help, the former provider goes on."""
    _, config_data = await number_at(gateway, 7704)
    problem = await refused(steady, "meta_business", config_data | {"access_token": "EAAG-not-this-one"})
    assert "Create a new token" in problem["detail"]
    [check] = problem["checks"]
    assert (check["name"], check["passed"]) == ("credentials", False)
    assert check["fix"]
    assert "EAAG-not-this-one" not in json.dumps(problem)
    assert (await steady.send()).status == 200


async def test_a_number_of_somebody_else(steady: Organization, gateway: Gateway) -> None:
    """A token that is good, for a number that it does not reach."""
    _, config_data = await number_at(gateway, 7705)
    problem = await refused(steady, "meta_business", config_data | {"phone_number_id": "999"})
    assert "phone_number_id" in problem["detail"]


@pytest.mark.parametrize("active", [True, False], ids=["active", "saved-only"])
@pytest.mark.parametrize("trouble", ["refused", "closed-port", "broken", "hanging"])
async def test_a_provider_that_cannot_be_reached(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, trouble: str, active: bool
) -> None:
    """502 or 504, nothing saved, and no answer says that the credentials are bad, or to use a `force` there is not."""
    number, config_data = await number_at(gateway, 7706, own_port=True)
    if trouble == "refused":
        await gateway.meta.set_default(number, Refuse())
    elif trouble == "broken":
        await gateway.meta.set_default(number, Bare5xx(), everything=True)
    elif trouble == "hanging":
        limit(monkeypatch, test_s=0.2)
        await gateway.meta.set_default(number, Hang(), everything=True)
    else:
        config_data |= {"base_url": "http://127.0.0.1:1"}
    before = await current(organization), await configs(organization)
    answer = await configure(organization, "meta_business", config_data, is_active=active)
    await gateway.meta.clear_faults(number)
    wanted = (504, "test_timed_out") if trouble == "hanging" else (502, "provider_unreachable")
    assert (answer.status, answer.json["code"]) == wanted, answer.raw
    assert "nothing was changed" in answer.json["detail"]
    for word in ("token", "credential", "127.0.0.1", "force"):
        assert word not in answer.raw.decode().lower()
    assert (await current(organization), await configs(organization)) == before
    entry = (await trail(organization))[0]
    assert (entry["action"], entry["outcome"]) == (("rolled_back", "undone") if active else ("configure", "refused"))
    assert (entry["provider"], entry["reason"]) == ("meta_business", wanted[1])
    assert entry["after"]["config_data"]["phone_number_id"] == number.phone_number_id


# ---------------------------------------------------------------- the fallback order


async def fallback(organization: Organization, *config_ids: str) -> Answer:
    return await organization.call("PUT", f"{BASE}/provider/fallback", {"config_ids": list(config_ids)})


async def test_the_fallback_order_before_anything_is_active(gateway: Gateway) -> None:
    """What was set is shown, and in force once there is something to fall back from."""
    organization = await gateway.organization()
    first, second = [(await organization.configure(active=False))["config_id"] for _ in range(2)]
    answer = await fallback(organization, first, second)
    assert (answer.json["config_ids"], answer.json["version"]) == ([first, second], 1)
    assert (await organization.call("GET", f"{BASE}/provider/fallback")).json == answer.json
    assert (await organization.call("POST", f"{BASE}/provider/switch", {"config_id": first})).status == 200
    assert [config["config_id"] for config in (await current(organization))["fallback"]] == [second]


async def test_the_fallback_order(organization: Organization) -> None:
    """Set as a whole, in order; a new version, an audit row; the active config is never its own fallback."""
    active = organization.configs[0]["config_id"]
    others = [(await organization.configure(active=False))["config_id"] for _ in range(2)]
    answer = await fallback(organization, others[1], active, others[0])
    assert answer.status == 200
    assert (answer.json["config_ids"], answer.json["version"]) == ([others[1], others[0]], 2)
    assert (await organization.call("GET", f"{BASE}/provider/fallback")).json == answer.json
    shown = await current(organization)
    assert [config["config_id"] for config in shown["fallback"]] == [others[1], others[0]]
    assert shown["version"] == 2
    entry = (await trail(organization))[0]
    assert (entry["action"], entry["version"]) == ("fallback_changed", 2)
    assert entry["before"]["fallback_config_ids"] == []
    cleared = (await fallback(organization)).json
    assert (cleared["config_ids"], cleared["version"]) == ([], 3)


async def test_a_config_that_becomes_active_leaves_the_order(organization: Organization) -> None:
    second = await organization.configure(active=False)
    await organization.fall_back_to(second["config_id"])
    third = await organization.configure()
    shown = await current(organization)
    assert shown["config_id"] == third["config_id"]
    assert [config["config_id"] for config in shown["fallback"]] == [second["config_id"]]


async def test_orders_that_are_refused(steady: Organization, empty: Organization) -> None:
    """A foreign config, and one that is none, look alike; none of them changes anything."""
    own = steady.configs[0]["config_id"]
    foreign = (await empty.configure())["config_id"]
    unknown = "01900000-0000-7000-8000-000000000000"
    answers = [await fallback(steady, one) for one in (foreign, unknown)]
    assert [answer.status for answer in answers] == [404, 404]
    assert answers[0].raw == answers[1].raw
    twice = await fallback(steady, own, own)
    assert (twice.status, [error["path"] for error in twice.json["errors"]]) == (422, ["config_ids"])
    no_id = await fallback(steady, "x")
    assert (no_id.status, [error["path"] for error in no_id.json["errors"]]) == (422, ["config_ids[0]"])
    assert (await fallback(steady, *[unknown] * 21)).status == 422
    assert (await current(steady))["version"] == 1


# ---------------------------------------------------------------- the trail


async def test_the_trail_is_read_in_pages(organization: Organization) -> None:
    for _ in range(4):
        await fallback(organization)
    everything = await trail(organization)
    assert [entry["id"] for entry in everything] == sorted((entry["id"] for entry in everything), reverse=True)
    found: list[Any] = []
    query = "limit=2"
    while query:
        page = (await organization.call("GET", f"{BASE}/audit?{query}")).json
        assert len(page["entries"]) <= 2
        found += page["entries"]
        query = f"limit=2&before={page['next']}" if "next" in page else ""
    assert found == everything
    assert (await organization.call("GET", f"{BASE}/audit?before=x")).status == 422


async def test_a_change_that_cannot_be_audited_is_not_made(
    steady: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trail and the change are one transaction."""
    from ingress.storage.statements import audit as stored

    _, config_data = await number_at(gateway, 7707)
    before = await current(steady), await configs(steady)
    with monkeypatch.context() as patch:
        patch.setattr(stored, "APPEND", stored.APPEND.replace("$4", "$4::integer::text", 1))
        assert (await configure(steady, "meta_business", config_data)).status >= 400
        assert (await fallback(steady)).status >= 400
        assert (await steady.call("PUT", "/callback", {"url": "http://127.0.0.1:9/"})).status >= 400
    assert (await current(steady), await configs(steady)) == before
    assert (await steady.call("GET", "/callback")).status == 404


# ---------------------------------------------------------------- the callback


async def test_the_callback_is_set_shown_and_removed(organization: Organization, crm: CrmSimulator) -> None:
    """Its secret is shown once, and audited not at all."""
    assert (await organization.call("GET", "/callback")).status == 404
    url = crm.url_for("integrations")
    made = (await organization.call("PUT", "/callback", {"url": url})).json
    assert made["url"] == url
    assert made["secret"].startswith("whsec_")
    shown = await organization.call("GET", "/callback")
    assert shown.json == {
        "url": url,
        "state": "healthy",
        "disabled_reason": None,
        "failing_since": None,
        "last_error": None,
        "consecutive_failures": 0,
        "paused_until": None,
        "secrets": [{"fingerprint": shown.json["secrets"][0]["fingerprint"], "expires_at": None}],
    }
    assert made["secret"] not in shown.json["secrets"][0]["fingerprint"]
    again = (await organization.call("PUT", "/callback", {"url": url})).json
    assert again["secret"] != made["secret"]
    # Both sign while the old one is being replaced.
    newest, former = (await organization.call("GET", "/callback")).json["secrets"]
    assert (former["fingerprint"], newest["expires_at"]) == (shown.json["secrets"][0]["fingerprint"], None)
    left = datetime.fromisoformat(former["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=59) < left <= timedelta(hours=24)
    for secret in (made["secret"], again["secret"]):
        crm.set_secret(secret, endpoint="integrations")
        tested = (await organization.call("POST", "/callback/test")).json
        assert (tested["delivered"], tested["outcome"]) == (True, "ok")
    answer = json.dumps(await trail(organization))
    assert "whsec_" not in answer
    assert "callback_set" in answer
    assert (await organization.call("DELETE", "/callback")).status == 204
    assert (await organization.call("DELETE", "/callback")).status == 404
    assert (await organization.call("POST", "/callback/test")).status == 404


@pytest.mark.parametrize(
    "body",
    [{}, {"url": ""}, {"url": 1}, {"url": "crm"}, {"url": "http://10.0.0.1/"}, {"url": "http://x/" + "y" * 2048}],
    ids=lambda body: str(body)[:30],
)
async def test_callbacks_that_are_refused(steady: Organization, body: Any) -> None:
    answer = await steady.call("PUT", "/callback", body)
    assert (answer.status, [error["path"] for error in answer.json["errors"]]) == (422, ["url"])
    assert (await steady.call("GET", "/callback")).status == 404


async def test_the_test_of_a_callback_tells_how_it_went(organization: Organization, crm: CrmSimulator) -> None:
    assert (await organization.call("POST", "/callback/test")).status == 404
    await organization.call("PUT", "/callback", {"url": "http://127.0.0.1:1/"})
    tested = (await organization.call("POST", "/callback/test")).json
    assert (tested["delivered"], tested["outcome"]) == (False, "connection")


@pytest.mark.parametrize("sequences", [[2**63], [-(2**63) - 1], [2**70]])
async def test_replaying_what_is_no_sequence(steady: Organization, sequences: list[int]) -> None:
    answer = await steady.call("POST", "/callback/replay", {"sequences": sequences})
    assert (answer.status, answer.json["code"]) == (422, "invalid_request"), answer.raw
