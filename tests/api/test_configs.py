"""Configs as people handle them: tested without saving, forecast, edited, deleted; and the command line."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from aiohttp import web

from ingress.dev.sandbox import ErrorCode, Hang, Refuse, TwilioSimulator, example_number
from ingress.dev.sandbox.meta.templates import example_template
from ingress.dev.sandbox.twilio.bodies import example_sender
from ingress.settings import Settings
from ingress.storage.statements import switches
from providers import WhatsAppProvider
from providers.meta_business import MetaBusiness

from ..conftest import serving
from ..gateway import Answer, Gateway, Organization, elsewhere, eventually, limit

BASE = "/integrations/whatsapp"
EXPIRED = ErrorCode(code=190)


async def post(organization: Organization, what: str, **body: Any) -> Answer:
    return await organization.call("POST", f"{BASE}/provider/{what}", body)


async def edit(organization: Organization, place: int, **body: Any) -> Answer:
    config_id = organization.configs[place]["config_id"]
    return await organization.call("PATCH", f"{BASE}/provider/configs/{config_id}", body)


async def delete(organization: Organization, place: int) -> Answer:
    return await organization.call("DELETE", f"{BASE}/provider/configs/{organization.configs[place]['config_id']}")


async def listed(organization: Organization) -> list[Any]:
    found: list[Any] = (await organization.call("GET", f"{BASE}/provider/configs")).json["configs"]
    return found


async def unchanged(organization: Organization) -> Any:
    """What only a change of somebody changes: not when something last went through an account."""
    passing = dict.fromkeys(("last_activity", "webhook_at", "received_at", "sent_at"))
    configs = [{**config, **passing} for config in await listed(organization)]
    return configs, await last_entry(organization), (await current(organization))["version"]


async def current(organization: Organization) -> Any:
    return (await organization.call("GET", f"{BASE}/provider/current")).json


async def last_entry(organization: Organization) -> Any:
    return (await organization.call("GET", f"{BASE}/audit?limit=1")).json["entries"][0]


@pytest.fixture
async def two(organization: Organization) -> Organization:
    await organization.configure(active=False)
    return organization


# ---------------------------------------------------------------- provider/test


async def test_testing_saves_nothing(two: Organization, gateway: Gateway) -> None:
    """A config that is there, with its address, and a configuration that is not saved."""
    before = await listed(two), await last_entry(two)
    answer = (await post(two, "test", config_id=two.configs[1]["config_id"])).json
    assert answer["passed"] is True
    assert answer["webhook_url"] == two.configs[1]["webhook_url"]
    assert {"credentials", "number", "account", "webhook"} <= {check["name"] for check in answer["checks"]}
    assert [check["passed"] for check in answer["checks"] if check["name"] in ("webhook", "probe")] == [True, True]
    number = example_number(7301)
    config_data = number.config_data(await gateway.meta.add_number(number))
    answer = (await post(two, "test", provider_type="meta_business", config_data=config_data)).json
    assert answer["passed"] is True
    assert "webhook_url" not in answer
    [check] = [check for check in answer["checks"] if check["name"] == "webhook"]
    assert (check["passed"], check["checkable"]) == (True, False)
    assert gateway.url in check["detail"]
    assert (await listed(two), await last_entry(two)) == before
    assert gateway.meta.webhook_url(number) is None


async def test_what_fails_is_told_with_its_fix(two: Organization, gateway: Gateway) -> None:
    """As the problem that saving it would be."""
    number = example_number(7302)
    config_data = number.config_data(await gateway.meta.add_number(number)) | {"access_token": "EAAG-not-this-one"}
    answer = await post(two, "test", provider_type="meta_business", config_data=config_data)
    assert (answer.status, answer.json["code"]) == (400, "invalid_configuration"), answer.raw
    [check] = [check for check in answer.json["checks"] if not check["passed"]]
    assert check["name"] == "credentials"
    assert check["fix"]
    assert b"not-this-one" not in answer.raw
    assert (await post(two, "test", provider_type="nobody", config_data={})).status == 400
    assert (await post(two, "test")).status == 422
    assert (await post(two, "test", config_id=str(uuid4()))).status == 404


@pytest.mark.parametrize("trouble", [Refuse(), Hang()], ids=["refuses", "hangs"])
async def test_a_provider_that_does_not_answer_is_a_check_that_failed(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, trouble: Any
) -> None:
    """With what to do, and beside it what else is known."""
    config = await organization.configure(active=False, own_port=True)
    limit(monkeypatch, test_s=0.5)
    await gateway.meta.set_default(organization.numbers[1], trouble, everything=True)
    saved = await post(organization, "test", config_id=config["config_id"])
    config_data = organization.numbers[1].config_data(gateway.meta.url_for(organization.numbers[1]))
    new = await post(organization, "test", provider_type="meta_business", config_data=config_data)
    await gateway.meta.clear_faults(organization.numbers[1])
    for answer, others in ((saved, ["probe"]), (new, ["webhook"])):
        assert (answer.status, answer.json["passed"]) == (200, False), answer.raw
        first, *more = answer.json["checks"]
        assert (first["name"], first["passed"]) == ("provider", False)
        assert first["detail"]
        assert first["fix"]
        assert [(check["name"], check["passed"]) for check in more] == [(name, True) for name in others]
    assert saved.json["webhook_url"] == config["webhook_url"]


async def probed(settings: Settings, organization: Organization, public_url: str) -> Any:
    """What a service says of the probe that believes it is reached at *public_url*."""
    async with serving(msgspec.structs.replace(settings, public_url=public_url)) as url:
        gateway = Gateway(url, "", organization.gateway.session, organization.gateway.meta)
        there = Organization(gateway, organization.id, organization.key)
        answer = (await post(there, "test", config_id=organization.configs[0]["config_id"])).json
    assert answer["passed"] is True  # sending is possible
    return next(check for check in answer["checks"] if check["name"] == "probe")


async def test_the_probe_goes_through_the_public_address(
    organization: Organization, settings: Settings, gateway: Gateway
) -> None:
    """And is an event to nobody."""
    check = await probed(settings, organization, gateway.url)
    assert (check["passed"], check["detail"]) == (
        True,
        "a signed webhook was answered with 200, an unsigned one with 401",
    )
    assert {event["type"] for event in await organization.events()} == {"provider.switched"}


async def test_a_public_address_that_is_not_ours(organization: Organization, settings: Settings) -> None:
    """Somebody else there, who may well answer 200; nobody there."""
    async with elsewhere(lambda: web.Response(text="welcome")) as (url, seen):
        check = await probed(settings, organization, url.removesuffix("/file"))
    assert len(seen) == 2
    assert (check["passed"], check["detail"]) == (
        False,
        "a signed webhook was answered with 200, an unsigned one with 200",
    )
    assert "INGRESS_PUBLIC_URL" in check["fix"]
    check = await probed(settings, organization, "http://127.0.0.1:1")
    assert (check["passed"], check["detail"]) == (False, "a signed webhook was not answered (connect_refused)")


async def test_a_provider_without_a_probe(organization: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MetaBusiness, "probe", WhatsAppProvider.probe)
    answer = (await post(organization, "test", config_id=organization.configs[0]["config_id"])).json
    [check] = [check for check in answer["checks"] if check["name"] == "probe"]
    assert (check["passed"], check["checkable"]) == (True, False)


# ---------------------------------------------------------------- a dry run


async def test_a_dry_run_tells_what_a_switch_would_mean(two: Organization, gateway: Gateway) -> None:
    """Held against what was really sent: what the other provider cannot say, templates, people without a phone."""
    async with TwilioSimulator() as twilio:
        sender = example_sender(801)
        config_data = sender.config_data(await twilio.add_number(sender))
        answer = await post(
            two, "configure", provider_type="twilio_whatsapp", name="Other", config_data=config_data, is_active=False
        )
        assert answer.status == 200, answer.raw
        two.configs.append(answer.json)
        template = {"type": "template", "name": "welcome", "language": "pt_BR"}
        reaction = {"type": "reaction", "message_id": "wamid.A", "emoji": "👍"}
        for body in (
            {"to": "+5511987654321", "body": "Hello"},
            {"to": {"user_id": "BR.13491208655302741918"}, "body": "Hello"},
            {"to": "+5511987654321", "content": template},
            {"to": "+5511987654321", "content": reaction},
        ):
            sent = await two.send(body)
            assert sent.status == 200, sent.raw
        people = gateway.meta.inbound(two.numbers[0])
        hidden = people.text("who am I")
        value = hidden["entry"][0]["changes"][0]["value"]
        value["contacts"][0] |= {"user_id": "BR.1"}
        value["contacts"][0].pop("wa_id")
        value["messages"][0].pop("from")
        value["messages"][0]["from_user_id"] = "BR.1"
        assert (await two.post_webhook(hidden)).status == 200
        await eventually(lambda: two.events(kind="message.received"))
        await two.fall_back_to(two.configs[2]["config_id"])
        before = await unchanged(two)
        answer = await post(two, "switch", config_id=two.configs[2]["config_id"], dry_run=True)
        assert answer.status == 200, answer.raw
        shown = answer.json
        assert (shown["dry_run"], shown["ready"], shown["changed"], shown["provider"]) == (
            True,
            True,
            True,
            "twilio_whatsapp",
        )
        assert shown["from_config_id"] == two.configs[0]["config_id"]
        assert (shown["from_sender"], shown["to_sender"]) == (two.configs[0]["sender"], sender.phone_number)
        assert shown["another_number"] is True
        assert shown["capability_gaps"] == [{"kind": "reaction", "sends": 1}]
        # That account may have it. Nobody can ask.
        welcome = {"name": "welcome", "language": "pt_BR", "sends": 1, "status": "unknown"}
        assert shown["templates_missing"] == [welcome]
        assert shown["templates_unknown"] == "this provider lists no templates"
        assert (shown["people_without_phone"], shown["sends_without_phone"]) == (1, 1)
        assert shown["fallback_config_ids"] == [shown["from_config_id"]]
        assert await unchanged(two) == before
        same = (await post(two, "switch", config_id=two.configs[0]["config_id"], dry_run=True)).json
        assert (same["changed"], same["capability_gaps"], same["templates_missing"]) == (False, [], [])
        assert (same["another_number"], same["to_sender"]) == (False, same["from_sender"])
        new = {"provider_type": "twilio_whatsapp", "config_data": {**config_data, "phone_number": "+15550008999"}}
        unsaved = (await post(two, "switch", dry_run=True, **new)).json
        assert (unsaved["ready"], unsaved["to_sender"], unsaved["another_number"]) == (False, "+15550008999", True)


async def test_a_dry_run_tells_since_when_it_counts(two: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 days, or less where more was sent, or written, than is looked at."""
    for _ in range(3):
        assert (await two.send()).status == 200
        assert (await two.post_webhook(two.gateway.meta.inbound(two.numbers[0]).text("x"))).status == 200
    await eventually(lambda: two.events(kind="message.received"), lambda found: len(found) == 3)

    async def counted() -> list[datetime]:
        answer = (await post(two, "switch", config_id=two.configs[1]["config_id"], dry_run=True)).json
        return [datetime.fromisoformat(answer[name]) for name in ("sends_since", "people_since")]

    lately = datetime.now(UTC) - timedelta(minutes=10)
    assert all(at < lately - timedelta(days=29) for at in await counted())
    for name in ("SENT_KINDS", "WITHOUT_PHONE"):
        statement = getattr(switches, name)
        monkeypatch.setattr(switches, name, statement.replace(str(switches.LOOKED_AT), "2"))
    assert all(at > lately for at in await counted())


async def test_a_dry_run_tells_which_templates_are_missing(two: Organization, gateway: Gateway) -> None:
    """Of those that are sent: not there, in another language only, or not approved; on whichever page they are."""
    for name, times in (("order_update_150", 1), ("order_update_2", 2), ("order_update_3", 3), ("welcome", 4)):
        for _ in range(times):
            content = {"type": "template", "name": name, "language": "pt_BR"}
            assert (await two.send({"to": "+5511987654321", "content": content})).status == 200
    listed = [example_template(index) for index in range(1, 151)]
    listed[1]["status"] = "PAUSED"
    listed[2]["language"] = "en_US"
    gateway.meta.set_templates(two.numbers[1], listed)
    answer = (await post(two, "switch", config_id=two.configs[1]["config_id"], dry_run=True)).json
    assert answer["templates_missing"] == [
        {"name": "welcome", "language": "pt_BR", "sends": 4, "status": "missing"},
        {"name": "order_update_3", "language": "pt_BR", "sends": 3, "status": "missing"},
        {"name": "order_update_2", "language": "pt_BR", "sends": 2, "status": "PAUSED"},
    ]
    assert answer["templates_unknown"] is None
    await gateway.meta.set_default(two.numbers[1], EXPIRED, everything=True)
    answer = (await post(two, "switch", config_id=two.configs[1]["config_id"], dry_run=True)).json
    await gateway.meta.clear_faults(two.numbers[1])
    assert [template["status"] for template in answer["templates_missing"]] == ["unknown"] * 4
    assert answer["templates_unknown"]


async def test_a_dry_run_expects_the_version_a_switch_would(two: Organization) -> None:
    for what, body in (("switch", {"config_id": two.configs[1]["config_id"]}), ("rollback", {})):
        answer = await post(two, what, **body, dry_run=True, expected_version=7)
        assert (answer.status, answer.json["code"], answer.json["version"]) == (409, "version_conflict", 1)
    shown = await post(two, "switch", config_id=two.configs[1]["config_id"], dry_run=True, expected_version=1)
    assert shown.status == 200


async def test_a_dry_run_tells_that_the_test_fails(two: Organization, gateway: Gateway) -> None:
    """And leaves the state of the config as it is."""
    await gateway.meta.set_default(two.numbers[1], EXPIRED, everything=True)
    shown = (await post(two, "switch", config_id=two.configs[1]["config_id"], dry_run=True)).json
    await gateway.meta.clear_faults(two.numbers[1])
    assert shown["ready"] is False
    assert not all(check["passed"] for check in shown["checks"])
    assert [config["state"] for config in await listed(two)] == ["active", "configured"]
    answer = await post(two, "rollback", dry_run=True)
    assert (answer.status, answer.json["code"]) == (409, "no_former_config")


# ---------------------------------------------------------------- editing


async def test_an_edit_of_the_active_config_is_a_new_version(two: Organization, gateway: Gateway) -> None:
    """From then on everything is sent with what was edited; what is not named stays."""
    number = two.numbers[0]
    renewed = f"{number.access_token}-renewed"
    await gateway.meta.add_number(type(number)(**{**_fields(number), "access_token": renewed}))
    assert (await two.send()).status in (422, 502, 504)  # the old token is refused
    answer = await edit(two, 0, config_data={"access_token": renewed})
    assert (answer.status, answer.json["version"]) == (200, 2), answer.raw
    assert answer.json["webhook_url"] == two.configs[0]["webhook_url"]
    assert {check["name"]: check["passed"] for check in answer.json["checks"]}["webhook"] is True
    assert (await two.send()).status == 200
    entry = await last_entry(two)
    assert (entry["action"], entry["version"]) == ("edited", 2)
    changed = {name for name in entry["after"] if entry["after"][name] != entry["before"][name]}
    assert changed == {"access_token"}
    for secret in (renewed, number.access_token, number.app_secret):
        assert secret not in json.dumps(entry)


async def test_the_secret_of_webhooks_is_renewed_without_losing_one(two: Organization, gateway: Gateway) -> None:
    """Both are good while both are configured, whichever the provider signs with at the moment."""
    former, renewed = two.numbers[0].app_secret, "0" * 32
    people = gateway.meta.inbound(two.numbers[0])

    async def signed_with(secret: str) -> int:
        two.numbers[0] = msgspec.structs.replace(two.numbers[0], app_secret=secret)
        return (await two.post_webhook(people.text("x"))).status

    assert (await edit(two, 0, config_data={"app_secret": renewed, "app_secret_previous": former})).status == 200
    assert [await signed_with(secret) for secret in (former, renewed)] == [200, 200]
    assert (await edit(two, 0, config_data={"app_secret_previous": None})).status == 200
    assert [await signed_with(secret) for secret in (former, renewed)] == [401, 200]
    assert len(await two.events(kind="message.received")) == 3


def _fields(number: Any) -> dict[str, Any]:
    return {name: getattr(number, name) for name in number.__struct_fields__}


async def test_the_handshake_is_answered_with_what_was_edited(two: Organization) -> None:
    """Its provider asks back while the address is set."""
    answer = await edit(two, 0, config_data={"verify_token": "another-verify-token"})
    assert answer.status == 200, answer.raw
    assert {check["name"]: check["passed"] for check in answer.json["checks"]}["webhook"] is True


async def test_an_edit_that_does_not_work_changes_nothing(two: Organization) -> None:
    before = await listed(two)
    for change, status in (
        ({"access_token": "EAAG-not-this-one"}, 400),
        ({"access_token": None}, 400),
        ({"access_token": "two words"}, 400),
        ({"nobody": "x"}, 400),
    ):
        answer = await edit(two, 0, config_data=change)
        assert answer.status == status, answer.raw
        entry = await last_entry(two)
        assert (entry["action"], entry["outcome"]) == ("edit_config", "refused")
        assert entry["config_id"] == two.configs[0]["config_id"]
    assert await listed(two) == before
    assert (await two.send()).status == 200


async def test_a_name_is_changed_without_a_test(two: Organization, gateway: Gateway) -> None:
    """And is no new version where nothing is sent through the config."""
    calls = gateway.meta.call_count(owner=two.numbers[1].phone_number_id)
    answer = await edit(two, 1, name="Second")
    assert (answer.status, answer.json["name"], answer.json["version"]) == (200, "Second", 1)
    assert [config["name"] for config in await listed(two)] == ["meta_business", "Second"]
    assert gateway.meta.call_count(owner=two.numbers[1].phone_number_id) == calls
    assert (await edit(two, 1, name="")).status == 422


async def test_an_edit_that_mends_a_config_is_a_transition_in_the_trail(two: Organization, gateway: Gateway) -> None:
    """From `error` to `configured`; a new name mends nothing."""
    await gateway.meta.set_default(two.numbers[1], EXPIRED, everything=True)
    assert (await post(two, "switch", config_id=two.configs[1]["config_id"])).status == 400
    await gateway.meta.clear_faults(two.numbers[1])
    for change, state in (({"name": "x"}, "error"), ({"config_data": {"verify_token": "another"}}, "configured")):
        answer = await edit(two, 1, **change)
        assert (answer.status, answer.json["state"]) == (200, state), answer.raw
        entry = await last_entry(two)
        assert (entry["before"]["state"], entry["after"]["state"]) == ("error", state)


# ---------------------------------------------------------------- deleting


async def test_a_deleted_config_is_gone(two: Organization, gateway: Gateway) -> None:
    """Out of the fallback order, its webhook address ends, its provider posts there no more, and the trail keeps it."""
    await two.fall_back_to(two.configs[1]["config_id"])
    hook = gateway.meta.inbound(two.numbers[1]).text("x")
    assert (await two.post_webhook(hook, config=1)).status == 200
    assert gateway.meta.webhook_url(two.numbers[1]) == two.configs[1]["webhook_url"]
    assert (await delete(two, 1)).status == 204
    assert len(await listed(two)) == 1
    answer = await current(two)
    assert (answer["fallback"], answer["version"]) == ([], 3)
    assert (await two.post_webhook(hook, config=1)).status == 404
    assert gateway.meta.webhook_url(two.numbers[1]) != two.configs[1]["webhook_url"]
    entry = await last_entry(two)
    assert (entry["action"], entry["config_id"]) == ("removed", two.configs[1]["config_id"])
    assert entry["before"]["phone_number_id"] == two.numbers[1].phone_number_id
    assert (await delete(two, 1)).status == 404
    assert (await two.send()).status == 200


async def test_deleting_a_config_leaves_the_account_to_the_other_config_of_it(
    two: Organization, gateway: Gateway
) -> None:
    """Credentials renewed by a new config of the same number: the old one goes, and messages still come in."""
    number = two.numbers[0]
    new = {"provider_type": "meta_business", "name": "New", "config_data": number.config_data(gateway.meta.url)}
    answer = await post(two, "switch", **new, allow_second=True)
    assert answer.status == 200, answer.raw
    renewed = next(config for config in await listed(two) if config["name"] == "New")
    address = gateway.meta.webhook_url(number)
    assert renewed["state"] == "active"
    assert address != two.configs[0]["webhook_url"]
    assert (await delete(two, 0)).status == 204
    assert gateway.meta.webhook_url(number) == address
    assert (await two.send()).status == 200


async def test_a_rollback_brings_back_the_fallbacks_of_then(two: Organization) -> None:
    first, second = (config["config_id"] for config in two.configs)
    await two.fall_back_to(second)
    for _ in range(2):
        assert (await post(two, "switch", config_id=second)).status == 200
        assert [config["config_id"] for config in (await current(two))["fallback"]] == [first]
        assert (await post(two, "rollback")).status == 200
        answer = await current(two)
        assert answer["config_id"] == first
        assert [config["config_id"] for config in answer["fallback"]] == [second]
    assert (await post(two, "switch", config_id=second)).status == 200
    await two.fall_back_to()
    assert (await post(two, "rollback")).status == 200
    assert (await current(two))["fallback"] == []  # somebody has said otherwise meanwhile


async def test_the_active_config_is_not_deleted(two: Organization) -> None:
    answer = await delete(two, 0)
    assert (answer.status, answer.json["code"]) == (409, "config_active")
    assert "Switch to another one first" in answer.json["detail"]
    assert len(await listed(two)) == 2
    assert (await two.send()).status == 200


async def test_there_is_no_way_back_to_a_deleted_config(two: Organization) -> None:
    assert (await post(two, "switch", config_id=two.configs[1]["config_id"])).status == 200
    assert (await delete(two, 0)).status == 204
    answer = await post(two, "rollback")
    assert (answer.status, answer.json["code"]) == (409, "no_former_config")


async def test_a_config_that_is_being_switched_to_is_not_deleted(
    two: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is first: afterwards it is the active one, or gone."""
    for _ in range(3):
        await two.configure(active=False)
        place = len(two.configs) - 1
        switched, deleted = await asyncio.gather(
            post(two, "switch", config_id=two.configs[place]["config_id"]), delete(two, place)
        )
        assert (switched.status, deleted.status) in ((200, 409), (404, 204))
        assert (await two.send()).status == 200


# ---------------------------------------------------------------- the command line


@pytest.fixture
def command(organization: Organization, tmp_path: Path) -> Callable[..., Any]:
    """`ingress …` as its user runs it, beside a dev.json."""
    gateway = organization.gateway
    facts = {
        "url": gateway.url,
        "api_key": organization.key,
        "platform_key": gateway.platform_key,
        "organization_id": organization.id,
    }
    (tmp_path / "dev.json").write_text(json.dumps(facts))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("INGRESS_")}

    async def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "ingress", *arguments],
            env={**plain, "INGRESS_DATA_DIR": str(tmp_path), **variables},
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.returncode, done.stdout, done.stderr

    return run


async def test_switching_from_the_command_line(two: Organization, command: Callable[..., Any]) -> None:
    """Tables for people, JSON for scripts, and exit statuses that tell what to do."""
    second = two.configs[1]["config_id"]
    assert (await edit(two, 1, name="Second")).status == 200
    status, out, _ = await command("switch", "Second", "--dry-run")
    assert (status, "pass its tests" in out) == (0, True)
    status, out, err = await command("switch", "Second", "--expected-version", "1", "--reason", "cheaper")
    assert (status, err) == (0, "")
    assert out.startswith(f"meta_business {second} is active at version 2.")
    status, out, _ = await command("switch", second, "--json")
    assert (status, json.loads(out)["changed"]) == (0, False)
    status, out, err = await command("switch", two.configs[0]["config_id"], "--expected-version", "1", "--json")
    assert (status, json.loads(out)["version"]) == (3, 2)
    assert "version_conflict" in err
    status, out, _ = await command("status")
    assert status == 0
    assert second in out
    assert "is active at version 2" in out.splitlines()[0]
    status, out, _ = await command("rollback")
    assert (status, "version 3" in out) == (0, True)
    status, out, _ = await command("audit", "--limit", "3")
    assert (status, len(out.splitlines())) == (0, 4)
    assert "activated" in out.splitlines()[1]
    status, out, _ = await command("audit", "verify")
    end = out.split()[-1]
    assert (status, "all as they were written" in out) == (0, True)
    assert (await command("audit", "verify", "--noted", end))[0] == 0
    status, out, _ = await command("audit", "verify", "--noted", end[:-1] + ("0" if end[-1] != "0" else "1"))
    assert (status, "BROKEN at entry" in out) == (1, True)


async def test_organizations_and_keys_from_the_command_line(
    organization: Organization, command: Callable[..., Any]
) -> None:
    status, out, _ = await command("org", "create", "Made by hand")
    assert status == 0
    made = out.strip()
    status, out, _ = await command("org", "list", "--json")
    assert made in {found["id"] for found in json.loads(out)}
    status, out, _ = await command("key", "create", "--scopes", "read", "--name", "by hand")
    assert status == 0
    key = out.strip()
    status, out, err = await command("status", INGRESS_API_URL=organization.gateway.url, INGRESS_API_KEY=key)
    assert (status, err) == (0, "")
    status, _, err = await command("rollback", "--key", key)
    assert (status, "configure" in err) == (1, True)
    status, out, _ = await command("key", "list")
    assert "by hand" in out
    assert key not in out
    assert (await command("key", "revoke", key.split("_")[2]))[0] == 0
    assert (await command("key", "revoke", "nobody"))[0] == 1


@pytest.mark.parametrize(
    ("arguments", "status", "answer"),
    [
        (["switch", "nothing-is-called-so"], 1, "ingress status"),
        (["switch", "01a202b3-6905-7e00-bf87-8a05ab56d744"], 1, "no such thing"),
        (["status", "--url", "http://127.0.0.1:1", "--key", "x"], 4, "does not answer"),
        (["status", "--url", "nowhere", "--key", "x"], 1, "--url"),
        (["status", "--key", "x"], 1, "API key"),
        (["status", "--url", "http://127.0.0.1:1"], 2, "--key"),
        (["switch"], 2, "usage"),
        (["audit", "verify", "--noted", "x"], 2, "ENTRIES:HASH"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
async def test_mistakes_at_the_command_line(
    command: Callable[..., Any], arguments: list[str], status: int, answer: str
) -> None:
    """One clear line on standard error; a key is sent to nobody but the service it was written down for."""
    ended, out, err = await command(*arguments)
    assert (ended, out) == (status, ""), err
    assert answer in err
    assert "Traceback" not in err
