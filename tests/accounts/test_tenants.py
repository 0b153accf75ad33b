"""Organizations that share one app of a provider: whose item it is, whose account, and where credentials go."""

import asyncio
from typing import Any

import msgspec
import pytest

from ingress.accounts.accounts import Accounts
from ingress.accounts.ownership import Ownership
from ingress.dev.sandbox import MetaNumber, example_number
from ingress.dev.sandbox.meta.bodies import encode
from ingress.dev.sandbox.twilio.bodies import example_sender
from ingress.dev.sandbox.waha.bodies import example_session
from ingress.storage.statements import configs
from ingress.storage.vault import Vault, generate_key
from providers import Registry, WhatsAppProvider
from providers.meta_business import MetaBusiness
from providers.twilio_whatsapp import TwilioWhatsApp
from providers.whatsapp_web import WhatsAppWeb

from ..gateway import Answer, Gateway, Organization, _numbers, eventually
from ..service.test_hardening import too_long

CONFIGURE = "/integrations/whatsapp/provider/configure"
SWITCH = "/integrations/whatsapp/provider/switch"
TEST = "/integrations/whatsapp/provider/test"
CONFIGS = "/integrations/whatsapp/provider/configs"


@pytest.fixture
def secret() -> str:
    """Of an app that nobody else has."""
    return f"app-{next(_numbers)}".ljust(32, "0")


@pytest.fixture
async def tenants(gateway: Gateway, secret: str) -> tuple[Organization, Organization]:
    """Two organizations behind one app, each with its number."""
    first, second = await gateway.organization(), await gateway.organization()
    for organization in (first, second):
        await organization.configure(app_secret=secret)
    return first, second


async def number_of(gateway: Gateway, secret: str) -> MetaNumber:
    number = msgspec.structs.replace(example_number(next(_numbers)), app_secret=secret)
    await gateway.meta.add_number(number)
    return number


def elsewhere_of(gateway: Gateway) -> str:
    """The simulator under a name that nobody trusts."""
    return gateway.meta.url.replace("127.0.0.1", "localhost")


async def save(organization: Organization, number: MetaNumber, base_url: str, *, force: bool = False) -> Answer:
    body: dict[str, Any] = {"provider_type": "meta_business", "config_data": number.config_data(base_url)}
    answer = (
        await organization.call("POST", SWITCH, body | {"force": True})
        if force
        else await organization.call("POST", CONFIGURE, body)
    )
    if answer.status == 200:
        organization.configs.append(answer.json)
        organization.numbers.append(number)
    return answer


async def quarantine(organization: Organization) -> list[str]:
    answer = await organization.call("GET", "/quarantine")
    return [item["reason"] for item in answer.json["quarantine"]]


async def of_the_platform(organization: Organization) -> list[Any]:
    """What came in at the organization's address and is the platform's."""
    gateway = organization.gateway
    answer = await gateway.call("GET", "/quarantine?foreign=1", key=gateway.platform_key, x_org_id=organization.id)
    listed: list[Any] = answer.json["quarantine"]
    return listed


# ---------------------------------------------------------------- what cannot be read


async def test_a_body_that_cannot_be_read_is_the_platforms_where_others_share_the_app(
    tenants: tuple[Organization, Organization], gateway: Gateway, monkeypatch: pytest.MonkeyPatch, trusting: None
) -> None:
    """Malformed, a parser that failed, refused by the store: it may hold what another tenant's people wrote."""
    first, second = tenants
    theirs = encode(gateway.meta.inbound(second.numbers[0]).text("for the second"))
    assert (await first.post_webhook(theirs[:-1])).status == 200
    with monkeypatch.context() as patch:
        patch.setattr(MetaBusiness, "parse", lambda self, hook: 1 / 0)
        assert (await first.post_webhook(theirs)).status == 200
    assert (await first.post_webhook(too_long(first))).status == 200
    assert await quarantine(first) == []
    reasons = [item["reason"] for item in await of_the_platform(first)]
    assert sorted(reasons) == ["malformed", "parser_failed", "refused_by_store"]
    assert await first.events(kind="message.received") == []


async def test_a_body_that_cannot_be_read_is_ones_own_where_nobody_shares_the_app(
    gateway: Gateway, secret: str
) -> None:
    organization = await gateway.organization()
    for _ in range(2):
        await organization.configure(app_secret=secret)
    assert (await organization.post_webhook(b"unreadable")).status == 200
    assert await quarantine(organization) == ["malformed"]


async def test_a_shared_secret_is_found_as_the_previous_one_too(gateway: Gateway, secret: str) -> None:
    first, second = await gateway.organization(), await gateway.organization()
    await second.configure(app_secret=secret)
    number = await number_of(gateway, secret)
    data = number.config_data(gateway.meta.url)
    data |= {"app_secret": "own", "app_secret_previous": secret}
    answer = await first.call("POST", CONFIGURE, {"provider_type": "meta_business", "config_data": data})
    assert answer.status == 200, answer.raw
    first.configs.append(answer.json)
    first.numbers.append(number)
    assert (await first.post_webhook(b"unreadable")).status == 200
    assert await quarantine(first) == []
    assert [item["reason"] for item in await of_the_platform(first)] == ["malformed"]


# ---------------------------------------------------------------- whose account


@pytest.mark.parametrize("way", ["force", "own_host"])
@pytest.mark.parametrize("earlier", [True, False])
async def test_a_number_is_not_claimed_by_writing_it_down(
    gateway: Gateway, secret: str, way: str, earlier: bool
) -> None:
    """Saved without a test, or tested at a host of one's own; before its owner came, or after."""
    intruder, owner = await gateway.organization(), await gateway.organization()
    number = await number_of(gateway, secret)
    base_url = gateway.meta.url if way == "force" else elsewhere_of(gateway)
    if not earlier:
        await owner.configure(number)
    assert (await save(intruder, number, base_url, force=way == "force")).status == 200
    if earlier:
        await owner.configure(number)
    body = gateway.meta.inbound(number).text("for the owner")
    assert (await intruder.post_webhook(body)).status == 200
    assert await intruder.events(kind="message.received") == []
    assert await quarantine(intruder) == []
    assert (await owner.post_webhook(body)).status == 200
    assert len(await owner.events(kind="message.received")) == 1
    assert [item["reason"] for item in await of_the_platform(intruder)] == ["foreign"]


async def test_a_number_that_nobody_has_shown_to_be_theirs_is_nobodys_where_the_app_is_shared(
    gateway: Gateway, secret: str
) -> None:
    first, second = await gateway.organization(), await gateway.organization()
    number = await number_of(gateway, secret)
    await second.configure(app_secret=secret)
    assert (await save(first, number, elsewhere_of(gateway))).status == 200
    assert (await first.post_webhook(gateway.meta.inbound(number).text("whose?"))).status == 200
    assert await first.events(kind="message.received") == []
    assert [item["reason"] for item in await of_the_platform(first)] == ["foreign"]


async def test_what_becomes_of_an_account_belongs_to_who_has_shown_a_number_of_it(
    tenants: tuple[Organization, Organization], gateway: Gateway, secret: str
) -> None:
    """A number of one's own beside the id of another's business account: its templates are not one's own."""
    intruder, owner = tenants
    number = msgspec.structs.replace(await number_of(gateway, secret))
    data = number.config_data(gateway.meta.url) | {"waba_id": owner.numbers[0].waba_id}
    answer = await intruder.call("POST", CONFIGURE, {"provider_type": "meta_business", "config_data": data})
    assert answer.status == 200, answer.raw
    approved = {"event": "APPROVED", "message_template_id": 1, "message_template_name": "offer"}
    body = {
        "object": "whatsapp_business_account",
        "entry": [
            {
                "id": owner.numbers[0].waba_id,
                "changes": [{"field": "message_template_status_update", "value": approved}],
            }
        ],
    }
    intruder.configs.append(answer.json)
    intruder.numbers.append(number)
    assert (await intruder.post_webhook(body, config=-1)).status == 200
    assert await intruder.events(kind="account.updated") == []
    assert (await owner.post_webhook(body)).status == 200
    assert len(await owner.events(kind="account.updated")) == 1


async def test_an_account_is_one_organizations(gateway: Gateway) -> None:
    """The second is refused, and which check says so; once the first has let go of it, it is free."""
    first, second = await gateway.organization(), await gateway.organization()
    made = await first.configure(active=False)
    number = first.numbers[0]
    body = {"provider_type": "meta_business", "config_data": number.config_data(gateway.meta.url)}
    for path, more in ((CONFIGURE, {}), (CONFIGURE, {"is_active": False}), (SWITCH, {})):
        answer = await second.call("POST", path, body | more)
        assert (answer.status, answer.json["code"]) == (409, "account_in_use"), answer.raw
        assert first.id not in answer.raw.decode()
    for answer in (await second.call("POST", TEST, body), await second.call("POST", SWITCH, body | {"dry_run": True})):
        [check] = [check for check in answer.json["checks"] if check["name"] == "ownership"]
        assert (check["passed"], answer.json.get("passed", answer.json.get("ready"))) == (False, False)
    assert (await second.call("GET", CONFIGS)).json["configs"] == []
    assert (await first.call("DELETE", f"{CONFIGS}/{made['config_id']}")).status == 204
    assert (await second.call("POST", CONFIGURE, body)).status == 200


async def test_what_was_forced_is_not_made_active_by_a_test_while_it_is_anothers(gateway: Gateway, secret: str) -> None:
    """It can neither be switched to with a test nor edited, while the account is another's."""
    owner, intruder = await gateway.organization(), await gateway.organization()
    await owner.configure()
    number = owner.numbers[0]
    assert (await save(intruder, number, gateway.meta.url, force=True)).status == 200
    await intruder.configure()
    forced = intruder.configs[0]["config_id"]
    answer = await intruder.call("POST", SWITCH, {"config_id": forced})
    assert (answer.status, answer.json["code"]) == (409, "account_in_use")
    answer = await intruder.call("PATCH", f"{CONFIGS}/{forced}", {"config_data": {"verify_token": "new"}})
    assert (answer.status, answer.json["code"]) == (409, "account_in_use")


async def test_an_account_is_free_once_the_last_config_names_another(gateway: Gateway) -> None:
    """Editing a config lets go of what it named, unless another config of the organization names it, too."""
    first, second = await gateway.organization(), await gateway.organization()
    await first.configure()
    number, other = first.numbers[0], await number_of(gateway, "other")
    changes = {name: getattr(other, name) for name in ("phone_number_id", "waba_id", "access_token")}
    changes["display_phone_number"] = other.display_phone_number
    edited = await first.call("PATCH", f"{CONFIGS}/{first.configs[0]['config_id']}", {"config_data": changes})
    assert edited.status == 200, edited.raw
    await second.configure(number)
    answer = await second.call(
        "POST", CONFIGURE, {"provider_type": "meta_business", "config_data": other.config_data(gateway.meta.url)}
    )
    assert answer.json["code"] == "account_in_use"


async def test_an_account_that_was_saved_by_force_is_its_organizations_once_it_answers(
    watching: Gateway, secret: str
) -> None:
    """A look at it shows what the test that was left out would have shown."""
    first, second = await watching.organization(), await watching.organization()
    number = await number_of(watching, secret)
    assert (await save(first, number, watching.meta.url, force=True)).status == 200

    async def refused() -> bool:
        body = {"provider_type": "meta_business", "config_data": number.config_data(watching.meta.url)}
        answer = await second.call("POST", SWITCH, body | {"dry_run": True})
        return not answer.json["ready"]

    await eventually(refused)


META = example_number(1).config_data("x")
TWILIO = example_sender().config_data("x")
WAHA = example_session().config_data("x")


@pytest.mark.parametrize(
    ("kind", "data", "base_url", "proves"),
    [
        (MetaBusiness, META, "https://graph.facebook.com", True),
        (MetaBusiness, META, "https://GRAPH.facebook.com:443/", True),
        (MetaBusiness, META, "http://graph.facebook.com", False),
        (MetaBusiness, META, "https://graph.facebook.com:444", False),
        (MetaBusiness, META, "https://graph.facebook.com/somebody/chose/this", False),
        (MetaBusiness, META, "https://graph.facebook.com.example.com", False),
        (MetaBusiness, META, "https://example.com/graph.facebook.com", False),
        (MetaBusiness, META, "https://graph.facebook.com@example.com", False),
        (MetaBusiness, META, "https://graph.facebook.com.", False),
        (MetaBusiness, META, "https://evil.facebook.com", False),
        (MetaBusiness, META, "https://gateway.example", True),
        (MetaBusiness, META, "http://gateway.example:8080/meta", True),
        (TwilioWhatsApp, TWILIO, "https://api.twilio.com", True),
        (TwilioWhatsApp, TWILIO, "https://api.dublin.ie1.twilio.com", True),
        (TwilioWhatsApp, TWILIO, "https://apitwilio.com", False),
        (WhatsAppWeb, WAHA, "https://waha.example", False),
        (WhatsAppWeb, WAHA, "https://gateway.example", True),
    ],
)
def test_a_test_proves_whose_an_account_is_only_where_somebody_vouches_for_the_host(
    kind: type[WhatsAppProvider], data: dict[str, Any], base_url: str, proves: bool
) -> None:
    owned = ownership_with(generate_key())
    provider = msgspec.convert(data | {"base_url": base_url}, kind)
    assert bool(owned.proven(provider, ())) == proves


def ownership_with(keys: str) -> Ownership:
    accounts = Accounts(Registry(), Vault(keys), None, None, "")  # type: ignore[arg-type]
    return Ownership(None, accounts, frozenset({"gateway.example"}))  # type: ignore[arg-type]


def test_a_secret_is_found_again_after_the_encryption_key_was_renewed() -> None:
    """What was stored with the former key is looked for, too, as long as that key is there."""
    former, newest = generate_key(), generate_key()
    provider = msgspec.convert(META | {"base_url": "https://graph.facebook.com"}, MetaBusiness)
    [stored] = ownership_with(former).signing_keys(provider)
    renewed = Vault(f"{newest},{former}")
    assert stored in renewed.lookup_hashes(provider.app_secret)
    assert ownership_with(f"{newest},{former}").signing_keys(provider) != [stored]
    assert stored not in Vault(newest).lookup_hashes(provider.app_secret)


# ---------------------------------------------------------------- where credentials go


@pytest.mark.parametrize("base_url", ["http://127.0.0.2:{port}", "http://127.0.0.1:1", "http://localhost:{port}"])
async def test_a_stored_secret_goes_to_no_other_host(
    organization: Organization, gateway: Gateway, base_url: str
) -> None:
    """Who may configure and does not know the token cannot have it sent to an address of theirs."""
    port = gateway.meta.url.rpartition(":")[2]
    changes = {"base_url": base_url.format(port=port)}
    path = f"{CONFIGS}/{organization.configs[0]['config_id']}"
    answer = await organization.call("PATCH", path, {"config_data": changes})
    assert (answer.status, answer.json["code"]) == (422, "secrets_needed"), answer.raw
    named = [error["path"] for error in answer.json["errors"]]
    assert named == ["config_data.access_token", "config_data.app_secret", "config_data.verify_token"]
    changes |= {"access_token": "new"}
    answer = await organization.call("PATCH", path, {"config_data": changes})
    assert [error["path"] for error in answer.json["errors"]] == named[1:]


async def test_another_host_with_every_secret_is_taken(organization: Organization, gateway: Gateway) -> None:
    number = organization.numbers[0]
    secrets = {name: getattr(number, name) for name in ("access_token", "app_secret", "verify_token")}
    path = f"{CONFIGS}/{organization.configs[0]['config_id']}"
    for base_url, given in ((elsewhere_of(gateway), secrets), (f"{elsewhere_of(gateway)}/", {})):
        answer = await organization.call("PATCH", path, {"config_data": given | {"base_url": base_url}})
        assert answer.status == 200, answer.raw


async def test_whose_an_item_is_cannot_be_asked_and_its_neighbours_are_taken_all_the_same(
    gateway: Gateway, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database hangs for that one question: it comes again, and nobody else waits for it."""
    first, other = await gateway.organization(), await gateway.organization()
    await first.configure(app_secret=secret, host="localhost")  # unclaimed, so that it has to be asked for
    await other.configure()

    async def hanging(*_: Any) -> bool:
        await asyncio.sleep(60)
        return True

    monkeypatch.setattr(configs, "others_behind", hanging)
    monkeypatch.setattr(configs, "owner_of", hanging)
    bodies = [gateway.meta.inbound(one.numbers[0]) for one in (first, other)]
    posts = [first.post_webhook(bodies[0].text("asked")) for _ in range(8)]
    posts += [other.post_webhook(bodies[1].text("neighbour")) for _ in range(8)]
    async with asyncio.timeout(30):
        statuses = [answer.status for answer in await asyncio.gather(*posts)]
    assert statuses == [503] * 8 + [200] * 8
    monkeypatch.undo()

    async def again() -> int:
        return (await first.post_webhook(bodies[0].text("asked again"))).status

    assert await eventually(again, lambda status: status == 200) == 200
