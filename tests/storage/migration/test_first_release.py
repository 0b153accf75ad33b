"""From the first release to this one, with what it has stored, while webhooks and sends come in."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import msgspec
import pytest

from ingress.dev.sandbox import MetaSimulator
from ingress.settings import Settings
from ingress.storage.database import SchemaError, StoreUnavailable, require_version
from ingress.storage.migration import Migrated, migrate
from ingress.storage.statements import upgrades as statements
from ingress.storage.upgrades import Post

from ...conftest import serving
from ...gateway import Answer, Gateway, Organization, Process, Served, eventually, unused_port
from ...populated import Data, connected, populated, tables_of
from . import first_release
from .first_release import FormerGateway

PRE, POST = "0004_pre_partitions", "0004_post_partitions"
# Somebody else than whose data is compared: what they send changes their contact.
OTHER = "+5511900000002"
# What is in them goes away by itself.
PASSING = {"held_events", "unread_webhooks", "switches", "switch_processes"}
# What a process writes now and then, whatever happens.
RESTLESS = {"figures_progress", "provider_figures", "provider_usage", "provider_health"}
# What the migration adds, and what changes whatever it does.
IGNORED = ["day", "gap_reported", "postponed", "last_used_at", "audit_due_at"]


class Former:
    """The first release, running on a database that it has made."""

    def __init__(self, settings: Settings, process: Process, gateway: Gateway) -> None:
        self.settings = settings
        self.process = process
        self.gateway = gateway


@pytest.fixture
async def former(settings: Settings, database_url: str, meta: MetaSimulator, tmp_path: Path) -> AsyncIterator[Former]:
    port = unused_port()
    own = msgspec.structs.replace(settings, database_url=database_url, public_url=f"http://127.0.0.1:{port}")
    process = first_release.process(own, port, first_release.unpacked(tmp_path))
    await process.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Former(own, process, FormerGateway(Served(port, port), own.platform_key, session, meta))
    finally:
        await process.stop()


@asynccontextmanager
async def newer(former: Former) -> AsyncIterator[Gateway]:
    """This release on the same database."""
    async with serving(former.settings) as url:
        yield Gateway(url, former.settings.platform_key, former.gateway.session, former.gateway.meta)


def at(gateway: Gateway, organization: Organization) -> Organization:
    """The same organization, as another process has it."""
    other = Organization(gateway, organization.id, organization.key)
    other.numbers = organization.numbers
    other.configs = [
        {**config, "webhook_url": gateway.url + urlsplit(config["webhook_url"]).path} for config in organization.configs
    ]
    return other


@contextmanager
def killed_in_each_step() -> Iterator[list[str]]:
    """Each step is broken off once, right before it is done; which were."""
    note, killed = statements.note, []

    async def noting(connection: asyncpg.Connection, now: statements.Applied, *, is_done: bool) -> None:
        place = f"{now.name} {now.step} {now.cursor}"
        if place not in killed:
            killed.append(place)
            connection.terminate()
        await note(connection, now, is_done=is_done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statements, "note", noting)
        yield killed


async def migrated(url: str, post: Post) -> Migrated:
    """As `migrate`, begun again as long as it is broken off."""
    while True:
        try:
            return await migrate(url, post=post)
        except StoreUnavailable:
            continue


async def rows_of(settings: Settings) -> dict[str, list[str]]:
    """All that is stored, in the first release's tables and columns."""
    async with connected(settings) as owner:
        return {
            table: sorted(
                row[0] for row in await owner.fetch(f"select (to_jsonb(t) - $1::text[])::text from {table} t", IGNORED)
            )
            for table in await tables_of(owner)
            if not table.startswith(("retention_", "idempotency_")) and table not in RESTLESS
        }


async def answers(organization: Organization, data: Data) -> dict[str, Any]:
    """What the API shows of what the first release has stored."""
    ids = data.ids
    paths = [
        f"/messages/{ids['message_id']}",
        f"/messages/{ids['message_id']}/timeline",
        f"/events/{ids['event_id']}/timeline",
        f"/events?after={data.sequences[0] - 1}&limit={len(data.sequences)}&raw=1",
        f"/contacts/{ids['contact_id']}",
        f"/contacts/{ids['contact_id']}/messages",
        f"/quarantine/{ids['quarantine_id']}",
        "/keys",
    ]
    found = {}
    for path in paths:
        answer = await organization.call("GET", path)
        assert answer.status == 200, (path, answer.raw)
        found[path] = answer.json
    return found


def has_all(new: Any, old: Any) -> bool:
    """Whether an answer has at least the fields of *old*, as they were. What nobody can have known is left out."""
    if isinstance(old, dict):
        return all(name in new and has_all(new[name], value) for name, value in old.items() if name != "last_used_at")
    if isinstance(old, list):
        return len(new) == len(old) and all(map(has_all, new, old))
    return bool(new == old)


async def test_what_is_stored_is_there_before_between_and_after(former: Former) -> None:
    """Every row and what the API shows of it; repeated webhooks and keys are known; killed in each step of both."""
    organization, data = await _populated(former)
    people = former.gateway.meta.inbound(organization.numbers[0])
    repeated, known = people.text("before", phone=OTHER), await _sent(organization, "known")
    assert (await organization.post_webhook(repeated)).status == 200
    shown, stored = await answers(organization, data), await rows_of(former.settings)
    assert {table for table, rows in stored.items() if not rows} <= PASSING

    async def is_as_it_was(*processes: Organization) -> None:
        for own in processes:
            events = len(await received(own))
            assert (await own.post_webhook(repeated)).status == 200
            assert len(await received(own)) == events
            assert await _sent(own, "known") == known
            now = await answers(own, data)
            different = {path: (answer, now[path]) for path, answer in shown.items() if not has_all(now[path], answer)}
            assert different == {}

    async with connected(former.settings) as owner:
        with pytest.raises(SchemaError, match="schema 3, this release needs 4: run `ingress migrate`"):
            await require_version(owner)
    with killed_in_each_step() as killed:
        found = await migrated(former.settings.database_url, Post.NEVER)
        assert (list(found.applied), found.missing, list(found.older)) == ([PRE], [POST], ["the first release"])
        assert len(killed) > 12
        await is_as_it_was(organization)
        with pytest.raises(SchemaError, match="the first release"):
            await migrated(former.settings.database_url, Post.REQUIRED)
        async with newer(former) as gateway:
            later = at(gateway, organization)
            await is_as_it_was(organization, later)
            # What one of them takes, the other one knows.
            for number, (one, other) in enumerate([(organization, later), (later, organization)]):
                body = people.text(f"between {number}", phone=OTHER)
                assert (await one.post_webhook(body)).status == 200
                events = len(await received(other))
                assert (await other.post_webhook(body)).status == 200
                assert len(await received(other)) == events
                assert await _sent(one, f"between-{number}") == await _sent(other, f"between-{number}")
            assert await former.process.stop() == 0
            between = await rows_of(former.settings)
            killed.clear()
            found = await migrated(former.settings.database_url, Post.REQUIRED)
            assert (list(found.applied), found.missing) == ([PRE, POST], [])
            assert len(killed) > 30
            after = await rows_of(former.settings)
            assert {table: rows for table, rows in after.items() if rows != between[table]} == {}
            await is_as_it_was(later)
            body = people.text("after", phone=OTHER)
            for expected in (1, 0):
                events = len(await received(later))
                assert (await later.post_webhook(body)).status == 200
                assert len(await received(later)) == events + expected
    with pytest.raises(AssertionError, match="a newer release has changed it"):
        await former.process.start()


async def _populated(former: Former) -> tuple[Organization, Data]:
    data = await populated(former.gateway, former.settings, "+5511900000001")
    async with connected(former.settings) as owner:
        # Deliveries wait, and nobody tries them meanwhile.
        await owner.execute("update callbacks set disabled_at = now()")
    return data.organization, data


async def _sent(organization: Organization, key: str) -> str:
    """The id of the message that was sent with *key*, now or before."""
    answer = await organization.send(idempotency_key=key)
    assert answer.status in (200, 202), answer.raw
    return str(answer.json["id"])


async def received(organization: Organization) -> list[Any]:
    """What people said. Statuses of what was sent come in when they like."""
    return await organization.events(kind="message.received")


# ---------------------------------------------------------------- under load


class Load:
    """Webhooks and sends at whichever processes serve, each of them perhaps at two of them."""

    def __init__(self, *processes: Organization) -> None:
        self.processes = list(processes)
        self.texts: list[str] = []
        self.ids: dict[str, set[str]] = {}
        self.refused: list[tuple[str, Answer]] = []
        self._places = count()
        self._is_over = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(self._post_webhooks())
            tasks.create_task(self._send())
            yield
            self._is_over = True

    async def more(self, least: int = 40) -> None:
        """Until so many webhooks and sends have come in since."""
        webhooks, sends = len(self.texts) + least, len(self.ids) + least // 4
        await eventually(lambda: len(self.texts) >= webhooks and len(self.ids) >= sends)

    async def _post_webhooks(self) -> None:
        while not self._is_over:
            place = next(self._places)
            text = f"under load {place}"
            body = self.processes[0].gateway.meta.inbound(self.processes[0].numbers[0]).text(text, phone=OTHER)
            for number in range(1 + place % 2):
                answer = await self._at(place + number).post_webhook(body)
                if answer.status != 200:
                    self.refused.append((text, answer))
            self.texts.append(text)

    async def _send(self) -> None:
        while not self._is_over:
            place = next(self._places)
            key = f"key-{place}"
            for number in range(2):
                answer = await self._at(place + number).send({"to": OTHER, "body": key}, idempotency_key=key)
                if answer.status not in (200, 202):
                    self.refused.append((key, answer))
                else:
                    self.ids.setdefault(key, set()).add(answer.json["id"])

    def _at(self, place: int) -> Organization:
        return self.processes[place % len(self.processes)]


async def test_two_releases_side_by_side_under_load(former: Former) -> None:
    """All the way from the one to the other: no webhook and no send is refused, lost or made twice."""
    organization = await former.gateway.organization()
    await organization.configure()
    load, url = Load(organization), former.settings.database_url
    async with AsyncExitStack() as stack:
        async with load.running():
            await load.more()
            await migrate(url)
            await load.more()
            later = at(await stack.enter_async_context(newer(former)), organization)
            load.processes.append(later)
            await load.more(100)
            load.processes.remove(organization)
            await load.more()  # what was asked of it before is answered
            assert await former.process.stop() == 0
            assert (await migrate(url, post=Post.REQUIRED)).missing == []
            await load.more()
        assert load.refused == []
        assert [key for key, ids in load.ids.items() if len(ids) != 1] == []
        said = [event["data"]["message"]["content"]["body"] for event in await received(later)]
        assert sorted(said) == sorted(load.texts)
        number = organization.numbers[0].phone_number_id
        bodies = [one.body["text"]["body"] for one in former.gateway.meta.accepted if one.phone_number_id == number]
        assert sorted(bodies) == sorted(load.ids)
