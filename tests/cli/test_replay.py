"""`ingress replay`: what was given up, once more, of a running service."""

import asyncio
import subprocess
import sys
from uuid import UUID, uuid4

import pytest

from ingress.api import callback
from ingress.settings import Settings
from ingress.storage.connections import WORKER
from ingress.storage.database import Database
from ingress.storage.statements import events
from providers.meta_business import MetaBusiness

from ..delivery.test_delivery import event
from ..gateway import Gateway, Organization


async def replay(organization: Organization, *arguments: str) -> tuple[int, str, str]:
    """Its exit status, what it prints, and what it says to people."""
    key = ["--url", organization.gateway.url, "--key", organization.key]
    command = [sys.executable, "-m", "ingress", "replay", *arguments, *key]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout, done.stderr


async def test_events_of_a_kind_are_delivered_after_all(
    organization: Organization, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part after the other, however many there are; nothing without a yes; and what is left is found again."""
    monkeypatch.setattr(callback, "COUNTED_AT_MOST", 3)
    own = UUID(organization.id)
    assert (await organization.call("PUT", "/callback", {"url": "http://127.0.0.1:1/"})).status == 200
    database = await Database(settings.database_url).connect(WORKER)
    await database.execute("update callbacks set paused_until = now() + interval '1 h' where organization_id = $1", own)
    kinds = ("received", "status", "received", "status", "received", "received", "status")
    for kind in kinds:
        await events.add(database, [event(organization, uuid4())._replace(type=f"message.{kind}")])
    park = "update deliveries set state = 'parked', last_error = 'HTTP 500' where organization_id = $1"
    await database.execute(park, own)
    given = ("events", "--type", "message.received", "--error", "HTTP 500")
    status, _, shown = await replay(organization, *given)
    assert (status, "message.received  HTTP 500    4" in shown, "nothing was replayed" in shown) == (1, True, True)
    done = await replay(organization, *given, "--yes")
    assert done[:2] == (0, "4 events are delivered once more.\n")
    left = "select count(*) from deliveries where organization_id = $1 and state = 'parked'"
    assert await database.fetchval(left, own) == 3
    status, _, shown = await replay(organization, *given, "--yes")
    assert (status, shown) == (0, "ingress: there are no such events\n")
    await organization.call("DELETE", "/callback")
    await database.close()


async def test_webhooks_that_were_put_aside_are_read_after_all(
    organization: Organization, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that this release cannot read either stay, and are counted."""
    people = gateway.meta.inbound(organization.numbers[0])
    with monkeypatch.context() as patch:
        patch.setattr(MetaBusiness, "parse", lambda self, hook: 1 / 0)
        for text in ("one", "two"):
            assert (await organization.post_webhook(people.text(text))).status == 200
        assert (await organization.post_webhook(b'{"object":"whatsapp_business_account","entry":[]}')).status == 200
    assert (await organization.post_webhook(b"not json")).status == 200
    status, _, shown = await replay(organization, "quarantine", "--until", "2020-01-01", "--yes")
    assert (status, shown) == (0, "ingress: there are no such webhooks\n")
    config = organization.configs[0]["config_id"]
    chosen = ("quarantine", "--reason", "parser_failed", "--config", config, "--since", "2020-01-01T00:00:00Z")
    status, text, shown = await replay(organization, *chosen, "--yes")
    assert (status, shown) == (1, "reason         items\nparser_failed  3\n")
    assert text == "2 webhooks are read, with 2 events that were not there.\n1 stay: still_unreadable\n"
    assert len(await organization.events(kind="message.received")) == 2
    assert len((await organization.call("GET", "/quarantine")).json["quarantine"]) == 2
