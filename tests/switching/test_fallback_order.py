"""The order of the fallbacks takes care of itself: who joins it, and where a switch puts the config that is left."""

from typing import Any

import pytest

from ingress.dev.sandbox import ErrorCode, RetryPolicy, WahaSimulator, example_number, example_session
from providers import Flow, Rejected
from providers.meta_business import MetaBusiness

from ..gateway import Answer, Gateway, Organization, _numbers, eventually

BASE = "/integrations/whatsapp/provider"


async def configure(organization: Organization, **more: Any) -> Any:
    """The answer to a config of a further number."""
    number = example_number(next(_numbers))
    base_url = await organization.gateway.meta.add_number(number, own_port=True)
    body = {"provider_type": "meta_business", "config_data": number.config_data(base_url), **more}
    answer = await organization.call("POST", f"{BASE}/configure", body)
    assert answer.status == 200, answer.raw
    organization.numbers.append(number)
    organization.configs.append(answer.json)
    return answer.json


async def save(organization: Organization, **more: Any) -> str:
    return str((await configure(organization, is_active=False, **more))["config_id"])


async def change(organization: Organization, what: str, **body: Any) -> Answer:
    """A change and its dry run, which foresees the order."""
    foreseen = await organization.call("POST", f"{BASE}/{what}", body | {"dry_run": True})
    answer = await organization.call("POST", f"{BASE}/{what}", body)
    assert answer.status == 200, answer.raw
    assert foreseen.json["fallback_config_ids"] == answer.json["fallback_config_ids"] == await order(organization)
    return answer


async def order(organization: Organization) -> list[str]:
    found: list[str] = (await organization.call("GET", f"{BASE}/fallback")).json["config_ids"]
    return found


async def version(organization: Organization) -> int:
    found: int = (await organization.call("GET", f"{BASE}/fallback")).json["version"]
    return found


# ---------------------------------------------------------------- joining


async def test_a_further_config_is_fallen_back_to(organization: Organization, gateway: Gateway) -> None:
    """Nobody has to name it: it is at the end of the order, which is a new version and in the trail."""
    made = [await configure(organization, is_active=False) for _ in range(2)]
    ids = [config["config_id"] for config in made]
    assert [config["fallback_config_ids"] for config in made] == [ids[:1], ids]
    assert [config["version"] for config in made] == [2, 3]
    assert (await order(organization), await version(organization)) == (ids, 3)
    [entry] = (await organization.call("GET", "/integrations/whatsapp/audit?limit=1")).json["entries"]
    assert (entry["action"], entry["version"], entry["after"]["fallback_config_ids"]) == ("configured", 3, ids)
    await gateway.meta.set_default(organization.numbers[0], ErrorCode(code=190))
    sent = (await organization.send()).json
    await gateway.meta.clear_faults(organization.numbers[0])
    assert (sent["config_id"], sent["fallback_from"]) == (ids[0], organization.configs[0]["config_id"])


async def test_a_config_that_shall_be_no_fallback(organization: Organization) -> None:
    """Nor is the one that it takes over from, for it has no place to give."""
    first = organization.configs[0]["config_id"]
    fallback, apart = await save(organization), await save(organization, as_fallback=False)
    assert (await order(organization), await version(organization)) == ([fallback], 2)
    await change(organization, "switch", config_id=apart)
    assert await order(organization) == [fallback]
    await change(organization, "switch", config_id=first)
    assert await order(organization) == [fallback]
    made = await configure(organization, as_fallback=False)
    assert made["fallback_config_ids"] == await order(organization) == [fallback]


async def test_before_anything_is_active(gateway: Gateway) -> None:
    organization = await gateway.organization()
    first, second = await save(organization), await save(organization)
    assert await order(organization) == [first, second]
    await change(organization, "switch", config_id=first)
    assert await order(organization) == [second]


async def test_the_first_config_has_no_fallback(gateway: Gateway) -> None:
    organization = await gateway.organization()
    made = await configure(organization)
    assert (made["version"], made["fallback_config_ids"]) == (1, [])


async def test_a_config_that_a_switch_saved_and_did_not_make_active(
    organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not been seen to work, so nothing is sent through it; made active later, its place is the end."""

    def refused(self: MetaBusiness, callback_url: str) -> Flow[None]:
        raise Rejected("the handshake failed")
        yield

    first, second = organization.configs[0]["config_id"], await save(organization)
    number = example_number(next(_numbers))
    data = number.config_data(await organization.gateway.meta.add_number(number))
    with monkeypatch.context() as patch:
        patch.setattr(MetaBusiness, "receive_messages", refused)
        organization.gateway.meta.state_of(number).override_url = "https://old.example.org/hook"
        body = {"provider_type": "meta_business", "config_data": data}
        answer = await organization.call("POST", f"{BASE}/configure", body)
        assert (answer.status, answer.json["code"]) == (422, "webhook_not_set"), answer.raw
    assert await order(organization) == [second]
    await change(organization, "switch", config_id=answer.json["config_id"], force=True)
    assert await order(organization) == [second, first]


# ---------------------------------------------------------------- a switch


async def test_there_and_back_restores_the_order(organization: Organization) -> None:
    """Of configs that were saved first, and of one that became active at once."""
    first = organization.configs[0]["config_id"]
    second, third = await save(organization), await save(organization)
    await change(organization, "switch", config_id=third)
    assert await order(organization) == [second, first]
    await change(organization, "switch", config_id=first)
    assert await order(organization) == [second, third]
    made = await configure(organization)
    assert made["fallback_config_ids"] == await order(organization) == [second, third, first]
    await change(organization, "switch", config_id=first)
    assert await order(organization) == [second, third, made["config_id"]]
    number = example_number(next(_numbers))
    data = number.config_data(await organization.gateway.meta.add_number(number))
    new = await change(organization, "switch", provider_type="meta_business", config_data=data)
    assert await order(organization) == [second, third, made["config_id"], first]
    assert new.json["from_config_id"] == first


async def test_a_rollback_restores_the_order_too(organization: Organization) -> None:
    """With what has joined it since: the new config itself, and others."""
    first = organization.configs[0]["config_id"]
    second = await save(organization)
    third = (await configure(organization))["config_id"]
    assert await order(organization) == [second, first]
    await change(organization, "rollback")
    assert await order(organization) == [second, third]
    await change(organization, "switch", config_id=second)
    fourth = await save(organization)
    assert await order(organization) == [first, third, fourth]
    await change(organization, "rollback")
    assert await order(organization) == [second, third, fourth]
    await change(organization, "rollback")
    assert await order(organization) == [first, third, fourth]


async def test_who_is_deleted_leaves_the_order_of_then_too(organization: Organization) -> None:
    second, third = await save(organization), await save(organization)
    await change(organization, "switch", config_id=second)
    assert (await organization.call("DELETE", f"{BASE}/configs/{third}")).status == 204
    assert await order(organization) == [organization.configs[0]["config_id"]]
    await change(organization, "rollback")
    assert await order(organization) == [second]


async def test_a_config_that_waits_for_its_phone(organization: Organization, watching: Gateway) -> None:
    """Nothing is sent through it, so it is no fallback; made, the former one is. Ended, it has no place."""
    first = organization.configs[0]["config_id"]
    async with WahaSimulator(retry=RetryPolicy(tries=40)) as waha:

        async def wait(index: int) -> tuple[Any, Any]:
            session = example_session(50_000 + index, "GOWS")
            data = session.config_data(await waha.add_session(session, exists=False))
            body = {"provider_type": "whatsapp_web", "config_data": data}
            answer = await organization.call("POST", f"{BASE}/configure", body)
            assert (answer.status, answer.json["fallback_config_ids"]) == (202, [first])
            assert (await order(organization), await version(organization)) == ([], 1)
            return session, answer.json["config_id"]

        _, given_up = await wait(next(_numbers))
        assert (await organization.call("DELETE", f"{BASE}/configs/{given_up}")).status == 204
        session, config_id = await wait(next(_numbers))
        waha.scan(session)

        async def active() -> Any:
            return (await organization.call("GET", f"{BASE}/current")).json["config_id"]

        await eventually(active, lambda found: found == config_id)
        assert await order(organization) == [first]
        await change(organization, "switch", config_id=first)
        assert await order(organization) == [config_id]
