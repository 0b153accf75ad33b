"""What is remembered of organizations is read again when something changed, and not before."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from ingress.settings import Settings
from ingress.storage import changes
from ingress.storage.changes import Changes
from ingress.storage.database import Database
from ingress.storage.listener import look
from ingress.storage.statements import configs, organizations
from ingress.switching import routes
from ingress.web import auth

from ..gateway import Gateway, Organization, eventually

ONE, OTHER = UUID(int=1), UUID(int=2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its first entry is the time."""
    now = [1000.0]
    monkeypatch.setattr(changes, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def known(clock: list[float]) -> Changes:
    found = Changes()
    found.notified(True)
    clock[0] += 1
    return found


def test_what_was_read_is_good_until_a_change(known: Changes, clock: list[float]) -> None:
    """Of that organization alone."""
    read_at = clock[0]
    clock[0] += changes.HEARD_S - 1
    assert known.is_good(ONE, read_at, moment_s=1)
    known.add(ONE)
    assert not known.is_good(ONE, read_at, moment_s=1)
    assert known.is_good(OTHER, read_at, moment_s=1)
    clock[0] += 0.1
    assert known.is_good(ONE, clock[0], moment_s=1)
    assert not known.is_good(OTHER, read_at - 1, moment_s=1), "it is read again now and then all the same"


def test_a_change_while_it_is_read_counts(known: Changes, clock: list[float]) -> None:
    """What was read may be from before it."""
    began = clock[0]
    clock[0] += 0.1
    known.add(ONE)
    assert not known.is_good(ONE, began, moment_s=1)


@pytest.mark.parametrize("notified", [True, False], ids=["begins", "ends"])
def test_what_was_missed_may_be_anything(known: Changes, clock: list[float], notified: bool) -> None:
    read_at = clock[0]
    clock[0] += 0.1
    known.notified(notified)
    assert not known.is_good(ONE, read_at, moment_s=1)


def test_where_nobody_says_what_changed_it_is_good_for_a_moment(known: Changes, clock: list[float]) -> None:
    known.notified(False)
    clock[0] += 0.1
    read_at = clock[0]
    clock[0] += 0.9
    assert known.is_good(ONE, read_at, moment_s=1)
    clock[0] += 0.2
    assert not known.is_good(ONE, read_at, moment_s=1)
    assert known.is_good(ONE, read_at, moment_s=1, late_s=1)


def test_very_many_changes_are_a_change_of_all(known: Changes, clock: list[float], monkeypatch: Any) -> None:
    monkeypatch.setattr(changes, "KEPT", 2)
    read_at = clock[0]
    clock[0] += 0.1
    for number in range(3):
        known.add(UUID(int=number))
    assert not known.is_good(OTHER, read_at, moment_s=1)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """How often routes, addresses of webhooks and keys are read from the database."""
    found = dict.fromkeys(("route", "by_token", "key"), 0)

    def counted(module: Any, name: str) -> None:
        read = getattr(module, name)

        async def counting(*arguments: Any) -> Any:
            found[name] += 1
            return await read(*arguments)

        monkeypatch.setattr(module, name, counting)

    for module, name in ((configs, "route"), (configs, "by_token"), (organizations, "key")):
        counted(module, name)
    return found


async def test_what_is_used_all_the_time_is_not_read_all_the_time(
    organization: Organization, gateway: Gateway, reads: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database notifies of changes."""
    for module, name in ((routes, "CACHE_S"), (auth, "KEY_CACHE_S")):
        monkeypatch.setattr(module, name, 0.0)

    async def use() -> None:
        assert (await organization.send()).status == 200
        hook = organization.gateway.meta.inbound(organization.numbers[0]).text("hello")
        assert (await organization.post_webhook(hook)).status == 200

    async def none_is_read() -> bool:
        before = dict(reads)
        for _ in range(5):
            await use()
        return reads == before

    # Once what was to change has: the first look at an account is a change, too.
    await eventually(none_is_read)


async def test_one_look_finds_what_has_changed(
    organization: Organization, gateway: Gateway, settings: Settings
) -> None:
    """A process that is not notified looks at all that it remembers at once."""
    other = await gateway.organization()
    known = [UUID(each.id) for each in (organization, other)]
    async with Database(settings.database_url) as database:
        for each in known:
            database.changes.follow(each)
        await look(database)
        followed = database.changes.followed()
        read_at = changes.monotonic()
        await look(database)
        assert [database.changes.is_good(each, read_at, moment_s=0) for each in known] == [True, True]
        edit = {"config_data": {"verify_token": "another-verify-token"}}
        config_id = organization.configs[0]["config_id"]
        answer = await organization.call("PATCH", f"/integrations/whatsapp/provider/configs/{config_id}", edit)
        assert answer.status == 200, answer.raw
        await look(database)
        assert [database.changes.is_good(each, read_at, moment_s=0) for each in known] == [False, True]
        assert database.changes.followed()[known[0]] == followed[known[0]] + 1
