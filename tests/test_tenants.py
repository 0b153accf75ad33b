"""Organizations that share one app of a provider: whose item it is, whose account, and where credentials go."""

import pytest

from .gateway import Gateway, Organization

CONFIGS = "/integrations/whatsapp/provider/configs"


def elsewhere_of(gateway: Gateway) -> str:
    """The simulator under a name that nobody trusts."""
    return gateway.meta.url.replace("127.0.0.1", "localhost")


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
