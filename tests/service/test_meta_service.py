"""What configuring a number of Meta's does there, and what the service tells of it."""

from typing import Any

import msgspec
import pytest

from ingress.dev.sandbox import MetaNumber, example_number
from ingress.dev.sandbox.meta.templates import example_template
from providers import Check, Flow, Rejected, Unavailable
from providers.meta_business import MetaBusiness

from ..gateway import Answer, Gateway, Organization

BASE = "/integrations/whatsapp"


@pytest.fixture
async def organization(gateway: Gateway) -> Organization:
    """One without a config."""
    return await gateway.organization()


async def configured(
    organization: Organization, number: MetaNumber, config_data: dict[str, Any] | None = None, *, active: bool = True
) -> dict[str, Any]:
    """What configure says of each check; none is there twice."""
    base_url = await organization.gateway.meta.add_number(number)
    config_data = number.config_data(base_url) | (config_data or {})
    body = {"provider_type": "meta_business", "config_data": config_data, "is_active": active, "allow_second": True}
    answer = await organization.call("POST", f"{BASE}/provider/configure", body)
    assert answer.status == 200, answer.raw
    organization.configs.append(answer.json)
    organization.numbers.append(number)
    result = {check["name"]: check for check in answer.json["checks"]}
    assert len(result) == len(answer.json["checks"])
    return result


# ---------------------------------------------------------------- registering


async def test_a_number_is_registered_with_its_pin(organization: Organization, gateway: Gateway) -> None:
    """Then it can send, and the answer of configure says so."""
    number = msgspec.structs.replace(example_number(8100), registered=False, pin="123456")
    answer = await configured(organization, number)
    assert [name for name, check in answer.items() if not check["passed"]] == []
    assert gateway.meta.state_of(number).registered
    assert (await organization.send()).status == 200
    assert gateway.meta.call_count("POST register", number.phone_number_id) == 1
    await configured(organization, number)
    assert gateway.meta.call_count("POST register", number.phone_number_id) == 1


async def test_a_wrong_pin_is_told_with_its_reason(organization: Organization, gateway: Gateway) -> None:
    """The number is not registered, which the answer says too; all else is set up; the PIN is nowhere."""
    number = msgspec.structs.replace(example_number(8101), registered=False, pin="123456")
    found = await configured(organization, number, {"pin": "000000"})
    assert [name for name, check in found.items() if not check["passed"]] == ["number", "setup"]
    assert "PIN mismatch" in found["setup"]["detail"]
    assert "PIN" in found["number"]["fix"]
    assert "000000" not in str(found)
    answer = await organization.send()
    assert (answer.status, answer.json["error"]["code"]) == (502, "133010"), answer.raw
    shown = (await organization.call("GET", f"{BASE}/provider/current")).json["config_data"]
    assert "000000" not in shown["pin"]


# ---------------------------------------------------------------- where webhooks go


async def test_the_whole_account_may_have_one_address(organization: Organization, gateway: Gateway) -> None:
    """It holds for a second number of the account, too."""
    number = example_number(8110)
    second = msgspec.structs.replace(
        example_number(8111), **{name: getattr(number, name) for name in ("waba_id", "app_id", "access_token")}
    )
    await gateway.meta.add_number(second)
    answer = await configured(organization, number, {"account_webhook": True})
    assert answer["webhook"]["passed"]
    url = organization.configs[0]["webhook_url"]
    assert [gateway.meta.webhook_url(one) for one in (number, second)] == [url, url]
    assert gateway.meta.state_of(number).override_url is None


async def test_an_address_that_another_one_overrides_is_told(organization: Organization, gateway: Gateway) -> None:
    """The step went well, and messages still go elsewhere: what the test saw is what counts."""
    number = example_number(8112)
    await gateway.meta.add_number(number)
    gateway.meta.state_of(number).override_url = "https://old.example.org/hook"
    answer = await configured(organization, number, {"account_webhook": True})
    assert not answer["webhook"]["passed"]
    assert "another address" in answer["webhook"]["detail"]
    assert "old.example.org" not in str(answer)


async def test_a_set_up_that_fails_says_why(organization: Organization, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of what the test says of the same."""

    def refused(self: MetaBusiness, callback_url: str) -> Flow[None]:
        raise Rejected("the handshake failed")
        yield

    monkeypatch.setattr(MetaBusiness, "receive_messages", refused)
    answer = await configured(organization, example_number(8113), active=False)
    assert (answer["webhook"]["passed"], answer["webhook"]["detail"]) == (False, "the handshake failed")


async def test_a_provider_that_goes_away_after_the_set_up(
    organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config is saved, and nothing is said of what nobody saw."""
    validate = MetaBusiness.validate_config

    def gone(self: MetaBusiness, callback_url: str | None = None) -> Flow[list[Check]]:
        if callback_url is not None:
            raise Unavailable("refused", code="transport")
        return (yield from validate(self))

    monkeypatch.setattr(MetaBusiness, "validate_config", gone)
    answer = await configured(organization, example_number(8114))
    assert {name: check["passed"] for name, check in answer.items()} == {"test": False, "setup": True, "webhook": True}
    assert (await organization.send()).status == 200


# ---------------------------------------------------------------- templates


async def templates(organization: Organization, query: str = "") -> Answer:
    return await organization.call("GET", f"{BASE}/templates{query}")


async def test_templates_are_listed_page_by_page(organization: Organization, gateway: Gateway) -> None:
    """A hundred to a page; the token that Meta puts into the next page's address goes nowhere."""
    number = example_number(8120)
    await configured(organization, number)
    gateway.meta.set_templates(number, [example_template(index) for index in range(1, 251)])
    found, query, pages = [], "", 0
    while query is not None:
        page = (await templates(organization, query)).json
        found += page["templates"]
        query, pages = f"?after={page['next']}" if "next" in page else None, pages + 1
    assert [template["name"] for template in found] == [f"order_update_{index}" for index in range(1, 251)]
    assert pages == 3
    wanted = example_template(1)
    assert found[0] == {name: wanted[name] for name in wanted if name != "quality_score"} | {"quality": "GREEN"}
    config_id = organization.configs[0]["config_id"]
    assert (await templates(organization, f"?config_id={config_id}")).json["templates"] == found[:100]


async def test_templates_that_cannot_be_listed(organization: Organization, gateway: Gateway) -> None:
    """No config, another organization's, a cursor that is none, an account that is locked out."""
    assert (await templates(organization)).json["code"] == "provider_not_configured"
    await configured(organization, example_number(8121))
    stranger = await gateway.organization()
    answer = await templates(stranger, f"?config_id={organization.configs[0]['config_id']}")
    assert (answer.status, answer.json["code"]) == (404, "not_found")
    answer = await templates(organization, "?after=x")
    assert (answer.status, answer.json["code"]) == (422, "rejected")
    answer = await templates(organization, f"?after={'x' * 600}")
    assert (answer.status, answer.json["errors"][0]["path"]) == (422, "after")
    await gateway.meta.add_number(msgspec.structs.replace(organization.numbers[0], access_token="EAAG-revoked"))
    assert (await templates(organization)).json["code"] == "account_broken"
