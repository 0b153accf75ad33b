"""The organizations, for the platform's key: looked for, chosen, made."""

import secrets

import pytest

from ..gateway import Gateway, Organization
from .browsing import Console, signed_in

ORGANIZATIONS = "/console/organizations"


@pytest.fixture
async def platform(gateway: Gateway) -> Console:
    """Somebody with the platform's key, who has chosen no organization."""
    console = Console(gateway)
    assert (await console.post("/console/sign-in", {"key": gateway.platform_key})).status == 303
    await console.get(ORGANIZATIONS)
    return console


async def test_who_has_chosen_none_is_asked_to(platform: Console) -> None:
    page = await platform.get("/console/quarantine")
    assert (page.status, page.location) == (303, ORGANIZATIONS)


async def test_one_is_looked_for_and_chosen(platform: Console, organization: Organization) -> None:
    """The header shows which; another one is a choice away."""
    mark = secrets.token_hex(6)
    other = await organization.gateway.organization(f"Acme {mark} <q>")
    page = await platform.get(f"{ORGANIZATIONS}?search={mark.upper()}")
    assert [field["value"] for field in page.all("input", name="organization_id")] == [other.id]
    assert "<q>" not in page.html
    assert "Nothing matches" in (await platform.get(f"{ORGANIZATIONS}?search={mark}zz")).text
    page = await platform.post(f"{ORGANIZATIONS}/choose", {"organization_id": other.id})
    assert (page.status, page.location) == (303, "/console/whatsapp?done=organization_chosen")
    page = await platform.get("/console/quarantine")
    assert f"Acme {mark}" in page.text
    assert ORGANIZATIONS in [link["href"] for link in page.all("a")]
    assert "Chosen" in (await platform.get(f"{ORGANIZATIONS}?search={mark}")).text
    await platform.post(f"{ORGANIZATIONS}/choose", {"organization_id": organization.id})
    assert f"Acme {mark}" not in (await platform.get("/console/quarantine")).text


async def test_they_come_in_pages(platform: Console, gateway: Gateway) -> None:
    mark = secrets.token_hex(6)
    made = [(await gateway.organization(f"{letter} {mark}")).id for letter in "abc"]
    page = await platform.get(f"{ORGANIZATIONS}?search={mark}&limit=2")
    assert [field["value"] for field in page.all("input", name="organization_id")] == made[:2]
    [following] = page.all("a", rel="next")
    page = await platform.get(following["href"])
    assert [field["value"] for field in page.all("input", name="organization_id")] == made[2:]
    assert page.all("a", rel="next") == []


async def test_one_is_made_and_acted_for(platform: Console) -> None:
    name = f"Made {secrets.token_hex(6)}"
    page = await platform.post(ORGANIZATIONS, {"name": name})
    assert (page.status, page.location) == (303, "/console/whatsapp?done=organization_created")
    page = await platform.get("/console/audit")
    assert name in page.text
    assert "Organization created" in page.text
    assert "Platform" in page.text


@pytest.mark.parametrize("name", ["", "x" * 300, "a\x1bb"])
async def test_a_name_that_cannot_be_is_said_beside_its_field(platform: Console, name: str) -> None:
    page = await platform.post(ORGANIZATIONS, {"name": name})
    assert page.status == 422
    assert page.one("input", name="name")["aria-invalid"] == "true"


@pytest.mark.parametrize("named", ["", "1", "00000000-0000-4000-8000-000000000000"])
async def test_what_is_no_organization_cannot_be_chosen(platform: Console, named: str) -> None:
    assert (await platform.post(f"{ORGANIZATIONS}/choose", {"organization_id": named})).status in (404, 422)


async def test_nobody_else_sees_or_chooses_any(gateway: Gateway, organization: Organization) -> None:
    other = await gateway.organization("Other")
    console = await signed_in(organization)
    assert (await console.get(ORGANIZATIONS)).status == 403
    assert (await console.post(ORGANIZATIONS, {"name": "x"})).status == 403
    assert (await console.post(f"{ORGANIZATIONS}/choose", {"organization_id": other.id})).status == 403
