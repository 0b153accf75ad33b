"""How long an organization keeps what is its own."""

from typing import Any

from ...gateway import Gateway, Organization

SERVICE = {"bodies": 30, "events": 90, "statuses": 180, "keys": 30, "audit": 1826}


def in_force(answer: Any) -> dict[str, int]:
    return {kind: period["days"] for kind, period in answer.items() if kind != "updated_at"}


async def test_what_nobody_has_set_is_as_the_service_has_it(organization: Organization) -> None:
    shown = (await organization.call("GET", "/retention")).json
    assert in_force(shown) == SERVICE
    assert shown["events"] == {"days": 90, "own": None, "service": 90}
    assert shown["updated_at"] is None


async def test_an_organization_keeps_it_shorter(organization: Organization) -> None:
    """Each put says all of it; the audit trail has what it was before."""
    put = await organization.call("PUT", "/retention", {"events_days": 7, "bodies_days": 3})
    assert put.status == 200, put.raw
    assert in_force(put.json) == {**SERVICE, "events": 7, "bodies": 3}
    assert (await organization.call("GET", "/retention")).json == put.json
    assert (await organization.call("GET", "/organization")).json["retention"]["messages"] == 7
    again = (await organization.call("PUT", "/retention", {"events_days": 7, "bodies_days": 3})).json
    assert again == put.json, "nothing has changed"
    back = (await organization.call("PUT", "/retention", {"events_days": None})).json
    assert in_force(back) == SERVICE
    entries = (await organization.call("GET", "/integrations/whatsapp/audit?action=retention_changed")).json["entries"]
    nothing = {"bodies_days": None, "events_days": None, "statuses_days": None}
    own = {"bodies_days": 3, "events_days": 7, "statuses_days": None}
    assert [(each["before"], each["after"]) for each in entries] == [(own, nothing), (nothing, own)]


async def test_nobody_keeps_it_longer_than_the_service(organization: Organization) -> None:
    answer = await organization.call("PUT", "/retention", {"events_days": 91, "bodies_days": 0, "statuses_days": 180})
    assert answer.status == 422
    assert [error["path"] for error in answer.json["errors"]] == ["bodies_days"]
    answer = await organization.call("PUT", "/retention", {"events_days": 91, "statuses_days": 180})
    assert answer.json["errors"] == [{"path": "events_days", "detail": "must be a whole number from 1 to 90"}]
    assert in_force((await organization.call("GET", "/retention")).json) == SERVICE


async def test_who_may_set_it(gateway: Gateway, organization: Organization) -> None:
    key = (await organization.call("POST", "/keys", {"scopes": ["read", "configure"]})).json["key"]
    assert (await gateway.call("GET", "/retention", key=key)).status == 200
    assert (await gateway.call("PUT", "/retention", {"events_days": 7}, key=key)).status == 403
