"""Team: keys are made, shown once, listed with their last use, and revoked after a question."""

import re
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from playwright.async_api import Page

from ingress.console.words import SCOPES
from ingress.settings import Settings

from ..gateway import Gateway, Organization
from .browsing import Console, signed_in

KEY = re.compile(r"ingress_live_[0-9a-f]{8}_[\w-]{43,60}")


async def make(console: Console, *scopes: str, name: str = "crm") -> str:
    """A key, from the page that shows it."""
    page = await console.post("/console/team", {"name": name, "scopes": list(scopes), "lifetime": ""})
    assert page.status == 201, page.text
    [key] = set(KEY.findall(page.text))
    return str(key)


async def test_a_key_is_shown_once_in_three_formats(console: Console, organization: Organization) -> None:
    page = await console.post("/console/team", {"name": "CRM <1>", "scopes": ["send", "read"], "lifetime": "30"})
    assert page.status == 201
    key = KEY.findall(page.text)[0]
    assert page.one("button", **{"data-copy-text": key})  # by itself, to sign in with
    assert f"INGRESS_API_KEY={key}" in page.text
    assert f"curl -sS {organization.gateway.url}/organization -H 'authorization: Bearer {key}'" in page.text
    assert (await organization.gateway.call("GET", "/organization", key=key)).status == 200
    page = await console.get("/console/team")
    assert key not in page.html
    assert "CRM <1>" in page.text
    [listed] = [one for one in (await organization.call("GET", "/keys")).json["keys"] if one["name"] == "CRM <1>"]
    assert (listed["scopes"], listed["expires_at"] is not None) == (["read", "send"], True)


@pytest.mark.parametrize(
    ("form", "wrong"),
    [
        ({"name": "", "scopes": ["read"], "lifetime": ""}, "field-name-error"),
        ({"name": "x", "lifetime": ""}, "scopes-error"),
        ({"name": "x", "scopes": ["root"], "lifetime": ""}, None),
        ({"name": "x", "scopes": ["read"], "lifetime": "3"}, "field-lifetime-error"),
    ],
)
async def test_what_is_wrong_stands_beside_it(console: Console, form: dict[str, Any], wrong: str | None) -> None:
    page = await console.post("/console/team", form)
    assert page.status == 422
    assert wrong is None or page.one("p", id=wrong)
    assert page.one("input", name="name")["value"] == form["name"]


async def test_a_key_gives_no_more_than_it_has(organization: Organization) -> None:
    """Neither scopes, which are shown disabled with the reason, nor time."""
    console = await signed_in(organization, "admin", "read")
    page = await console.get("/console/team")
    shown = {one["value"]: "disabled" in one for one in page.all("input", name="scopes")}
    assert shown == {"send": True, "read": False, "configure": True, "admin": False}
    assert "The key in use lacks it" in page.text
    refused = await console.post("/console/team", {"name": "x", "scopes": ["send"], "lifetime": ""})
    assert (refused.status, "cannot grant a scope" in refused.text) == (403, True)


async def test_a_key_that_expires_makes_none_that_lives_longer(organization: Organization, settings: Settings) -> None:
    console = await signed_in(organization, "admin")
    key_id = (await organization.call("GET", "/keys?limit=200")).json["keys"]
    [own] = [one["id"] for one in key_id if one["scopes"] == ["admin"]]
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute("update api_keys set expires_at = now() + interval '10 days' where id = $1", own)
    await connection.close()
    page = await console.get("/console/team")
    assert [one["value"] for one in page.all("option") if one["value"] in ("", "7", "30", "same")] == ["7", "same"]
    made = await console.post("/console/team", {"name": "x", "scopes": ["admin"], "lifetime": "same"})
    assert made.status == 201


async def test_a_revocation_names_what_stops(console: Console, organization: Organization) -> None:
    """Also the keys that it made: those only where that is ticked."""
    gateway, maker = organization.gateway, await make(console, "admin", "read", name="maker")
    child = await make(await Console(gateway).sign_in(maker), "read", name="child")
    maker_id, child_id = (key.split("_")[2] for key in (maker, child))
    page = await console.get(f"/console/team/{maker_id}/revoke")
    assert "Revoke the key “maker”?" in page.text
    assert all(SCOPES[scope] in page.text for scope in ("admin", "read"))
    assert SCOPES["send"] not in page.text.partition("What uses it stops working")[2]
    assert f"Also revoke the 1 key that it made: child {child_id}" in page.text
    answer = await console.post(f"/console/team/{maker_id}/revoke")
    assert (answer.status, answer.location) == (303, "/console/team?done=key_revoked")
    assert (await gateway.call("GET", "/organization", key=child)).status == 200
    assert (await console.get(f"/console/team/{maker_id}/revoke")).status == 404
    page = await console.get("/console/team?ended=1")
    assert "maker" in page.text
    assert "child" not in page.text


async def test_what_a_key_made_ends_with_it(console: Console, organization: Organization) -> None:
    maker = await make(console, "admin", "read", name="maker")
    child = await make(await Console(organization.gateway).sign_in(maker), "read", name="child")
    await console.post(f"/console/team/{maker.split('_')[2]}/revoke", {"made": "1"})
    keys = {one["id"]: one["revoked_at"] for one in (await organization.call("GET", "/keys?limit=200")).json["keys"]}
    assert keys[maker.split("_")[2]]
    assert keys[child.split("_")[2]]


async def test_revoking_the_key_in_use_signs_out(gateway: Gateway) -> None:
    """Said before, and that nobody is left who can make one."""
    organization = await gateway.organization()
    console = await signed_in(organization)
    own = organization.key.split("_")[2]
    page = await console.get(f"/console/team/{own}/revoke")
    assert "You are signed in with this key." in page.text
    assert "No other key may make keys." in page.text
    answer = await console.post(f"/console/team/{own}/revoke")
    assert answer.location == "/console/sign-in?done=key_revoked"
    assert (await console.get("/console/team")).status == 303


async def test_the_last_use_is_shown(console: Console, organization: Organization, settings: Settings) -> None:
    """Of the key in use it is now. Neither of the two ever expires, either."""
    await make(console, "read", name="other")
    assert (await console.get("/console/team")).text.count("never") == 3
    connection = await asyncpg.connect(settings.database_url)
    change = "update api_keys set last_used_at = now() - interval '3 hours' where organization_id = $1"
    await connection.execute(change, UUID(organization.id))
    await connection.close()
    text = (await console.get("/console/team")).text
    assert (text.count("3 hours ago"), text.count("never")) == (1, 2)


async def test_who_may_not_see_keys_sees_what_they_may(organization: Organization) -> None:
    """And why the rest is not there."""
    console = await signed_in(organization, "read")
    page = await console.get("/console/team")
    assert "This key lacks the permission “admin”." in page.text
    assert SCOPES["read"] in page.text
    assert organization.key.split("_")[2] not in page.html
    assert (await console.post("/console/team", {"name": "x", "scopes": ["read"]})).status == 403


async def test_without_a_key_the_platform_makes_the_first(gateway: Gateway) -> None:
    made = await gateway.call("POST", "/organizations", {"name": "New"}, key=gateway.platform_key)
    console = await Console(gateway).sign_in(gateway.platform_key, made.json["id"])
    assert "No key is valid." in (await console.get("/console/team")).text
    key = await make(console, "admin")
    assert (await gateway.call("GET", "/keys", key=key)).status == 200


async def test_on_a_phone_a_key_is_revoked_without_scrolling_sideways(browser_page: Page, gateway: Gateway) -> None:
    await browser_page.set_viewport_size({"width": 390, "height": 844})
    await browser_page.goto(f"{gateway.url}/console/team")
    box = await browser_page.locator("[data-row]").get_by_role("link").bounding_box()
    assert box
    assert box["x"] + box["width"] <= 390
