"""The page of the audit trail: looking through it, an entry as a difference, whether it is whole, and the file."""

import ast
import csv
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import ingress
from ingress.api.routes import ROUTES
from ingress.console.pages import audit
from ingress.console.readable import Difference, differences
from ingress.console.routes import ROUTES as CONSOLE_ROUTES
from ingress.console.routing import ConsoleRoute
from ingress.console.words.trail import ACTIONS, OPERATIONS
from ingress.web.openapi import walk

from ..api.test_pairing import Unlinked
from ..gateway import Organization
from .browsing import Console, signed_in

ROOT = Path(ingress.__file__).parent
AUDIT = "/integrations/whatsapp/audit"


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (b"null", b"null", []),
        (b"null", b'{"a":{"b":1}}', [("a.b", None, "1")]),
        (b'{"a":"x"}', b"null", [("a", "x", None)]),
        (b'{"a":"x","b":[1,2],"c":true}', b'{"a":"y","b":[2,1],"c":true}', [("a", "x", "y"), ("b", "[1,2]", "[2,1]")]),
        (b'{"a":null}', b'{"a":"x"}', [("a", None, "x")]),
        (b'{"a":{"b":1,"c":2}}', b'{"a":{"b":1}}', [("a.c", "2", None)]),
        (b'"x"', b'"y"', [("", "x", "y")]),
    ],
)
def test_what_a_change_changed(before: bytes, after: bytes, found: list[tuple[str, str | None, str | None]]) -> None:
    assert differences(before, after) == [Difference(*each) for each in found]


async def entries_of(organization: Organization) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await organization.call("GET", f"{AUDIT}?limit=200")).json["entries"]
    return found


async def test_the_trail_is_listed_and_each_entry_has_its_page(console: Console, organization: Organization) -> None:
    page = await console.get("/console/audit")
    assert page.status == 200
    assert "Made active" in page.text
    assert "Configuration saved" in page.text
    newest = (await entries_of(organization))[0]
    links = [link["href"] for link in page.all("a") if link["href"].startswith("/console/audit/")]
    assert f"/console/audit/{newest['id']}" in links
    entry = await console.get(f"/console/audit/{newest['id']}")
    assert (entry.status, str(newest["hash"]) in entry.text) == (200, True)
    assert ("Entry before" in entry.text, "Entry after" in entry.text) == (True, False)
    oldest = await console.get("/console/audit/1")
    assert ("Entry before" in oldest.text, "Entry after" in oldest.text) == (False, True)
    for nothing in ("0", "999", str(10**30), "-1", "x"):
        assert (await console.get(f"/console/audit/{nothing}")).status == 404


async def test_before_and_after_are_a_difference(console: Console, organization: Organization) -> None:
    """Secrets are fingerprints there, a config is named."""
    other = await organization.configure(active=False)
    await organization.fall_back_to(other["config_id"])
    [changed] = [entry for entry in await entries_of(organization) if entry["action"] == "fallback_changed"][:1]
    page = await console.get(f"/console/audit/{changed['id']}")
    assert other["config_id"] in page.text
    assert "Changed" in page.text
    [saved] = [entry for entry in await entries_of(organization) if entry["action"] == "configured"][:1]
    page = await console.get(f"/console/audit/{saved['id']}")
    assert "Added" in page.text
    for secret in (organization.numbers[-1].access_token, organization.numbers[-1].app_secret):
        assert secret not in page.html


async def test_filters_are_in_the_address(console: Console, organization: Organization) -> None:
    await organization.call("POST", "/keys", {"scopes": ["nonsense"]})
    today = datetime.now(UTC).date()
    page = await console.get("/console/audit?outcome=refused&action=&actor=&since=&until=")
    assert "Refused" in page.text
    assert "Made active" not in [text.strip() for text in page.html.split("data-drawer>")[1:]]
    assert len(page.all("tr", **{"data-row": ""})) == 1
    assert len((await console.get(f"/console/audit?since={today}&until={today}")).all("tr", **{"data-row": ""})) > 2
    for nothing in (f"until={today - timedelta(days=1)}", f"since={today + timedelta(days=1)}", "action=whatever"):
        page = await console.get(f"/console/audit?{nothing}")
        assert "Nothing matches" in page.text
        assert "/console/audit" in [link["href"] for link in page.all("a")], "a way to clear the filters"
    assert (await console.get("/console/audit?since=yesterday")).status == 422


async def test_older_entries_are_a_link_away(
    console: Console, organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(51):
        await organization.fall_back_to()
    page = await console.get("/console/audit?action=fallback_changed")
    [older] = page.all("a", rel="next")
    assert "action=fallback_changed" in older["href"]
    assert len((await console.get(older["href"])).all("tr", **{"data-row": ""})) == 1


async def test_the_trail_is_verified_with_its_count_and_hash(console: Console, organization: Organization) -> None:
    newest = (await entries_of(organization))[0]
    page = await console.get("/console/audit/verify")
    assert f"Intact: {newest['id']} entries, none changed, none missing." in page.text
    assert str(newest["hash"]) in page.text
    page = await console.get(f"/console/audit/verify?entries={newest['id']}&hash={newest['hash']}")
    assert "The end that you noted is one of them." in page.text
    page = await console.get(f"/console/audit/verify?entries={newest['id']}&hash={'0' * 64}")
    assert f"Broken at entry {newest['id']}" in page.text
    assert "the entry is not the one that was noted" in page.text


async def test_the_file_has_all_that_the_filters_leave(
    console: Console, organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page, and nothing in it is a formula."""
    monkeypatch.setattr(audit, "EXPORTED", 2)
    await organization.call("POST", "/integrations/whatsapp/provider/rollback", {"reason": "=1+1"})
    config_id = organization.configs[0]["config_id"]
    switch = {"config_id": config_id, "force": True, "reason": "=HYPERLINK(1)"}
    await organization.configure(active=True)
    assert (await organization.call("POST", "/integrations/whatsapp/provider/switch", switch)).status == 200
    page = await console.get("/console/audit.csv")
    assert page.headers["content-type"] == "text/csv; charset=utf-8"
    assert page.headers["x-content-type-options"] == "nosniff"
    rows = list(csv.DictReader(io.StringIO(page.html)))
    assert [row["id"] for row in rows] == [str(entry["id"]) for entry in await entries_of(organization)]
    assert "'=HYPERLINK(1)" in {row["reason"] for row in rows}
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    page = await console.get(f"/console/audit.csv?config={config_id}&outcome=done")
    assert {row["config_id"] for row in csv.DictReader(io.StringIO(page.html))} == {config_id}


async def test_who_may_not_read_the_trail_sees_why(organization: Organization) -> None:
    console = await signed_in(organization, "read", "configure")
    page = await console.get("/console/audit")
    assert page.status == 403
    assert "This key may not do that." in page.text


def written() -> set[str]:
    """What the service calls the changes that it writes down: the last text that is given to what writes."""
    found: set[str] = set()
    for path in (
        path for folder in ("api", "console", "health", "switching") for path in (ROOT / folder).rglob("*.py")
    ):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call):
                name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
                given = call.args if name in ("note", "_note") else []
                if name in ("AuditEntry", "Transition"):
                    given = [keyword.value for keyword in call.keywords if keyword.arg == "action"]
                texts = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
                found |= {*texts[-1:]}
    return found


def test_every_action_has_its_words() -> None:
    """Also every change that can be refused, from wherever it is asked for."""
    actions = written()
    assert {"activated", "quarantine_shown", "key_created"} <= actions
    assert actions - {*ACTIONS} == set()
    changes = {route.name for _, _, route in walk(ROUTES) if getattr(route, "changes", False)}
    for route in CONSOLE_ROUTES:
        if isinstance(route, ConsoleRoute) and route.changes:
            assert route.name in changes, route.path
    assert changes - {*OPERATIONS} == set()


def test_every_form_that_changes_something_names_what() -> None:
    """But for those that only look, or change nothing of the organization's."""
    unnamed = {
        route.path.removeprefix("/console")
        for route in CONSOLE_ROUTES
        if isinstance(route, ConsoleRoute) and "POST" in (route.methods or ()) and route.needs and not route.changes
    }
    assert unnamed == {
        "/sign-out",
        "/notifications/read",
        "/organizations/choose",
        "/rollback/check",
        "/send-test",
        "/switch/check",
        "/whatsapp/test",
        "/whatsapp/{config_id}/check",
        "/whatsapp/{config_id}/test",
    }


@pytest.mark.parametrize(
    ("path", "form", "entry"),
    [
        ("whatsapp/save", {"provider": "meta_business"}, ("configure", "invalid_configuration", 400)),
        ("whatsapp/{config}/save", {"data.waba_id": "no number"}, ("edit_config", "invalid_configuration", 400)),
        ("switch", {"to": "{config}", "version": "1000"}, ("switch", "version_conflict", 409)),
        ("quarantine/{item}/replay", {}, ("replay_quarantine", "still_unreadable", 409)),
    ],
)
async def test_what_a_page_says_was_refused_is_in_the_trail(
    console: Console, organization: Organization, path: str, form: dict[str, str], entry: tuple[str, str, int]
) -> None:
    """With the reason that the API would give, however the page shows it."""
    await organization.configure()
    assert (await organization.post_webhook(b"unreadable")).status == 200
    [item] = (await organization.call("GET", "/quarantine")).json["quarantine"]
    ids = {"config": organization.configs[-1]["config_id"], "item": item["id"]}
    page = await console.post(
        f"/console/{path.format(**ids)}", {name: text.format(**ids) for name, text in form.items()}
    )
    [last, *_] = await entries_of(organization)
    assert (last["action"], last["reason"], last["after"]["status"]) == (*entry[:2], page.status)
    assert page.status == entry[2]
    assert last["outcome"] == "refused"


async def test_a_phone_that_cannot_be_linked_is_in_the_trail(unlinked: Unlinked) -> None:
    console = await signed_in(unlinked.organization)
    path = f"/console/whatsapp/{unlinked.config_id}/pairing"
    assert (await console.post(path, {"phone": "nobody"})).status == 422
    [last, *_] = await entries_of(unlinked.organization)
    assert (last["action"], last["reason"], last["outcome"]) == ("start_pairing", "invalid_request", "refused")


async def test_what_is_no_hash_is_refused_and_breaks_no_trail(console: Console) -> None:
    """A slip of the hand must not be a broken trail."""
    page = await console.get("/console/audit/verify?entries=1&hash=zz")
    assert page.status == 422
    assert "Broken" not in page.text
