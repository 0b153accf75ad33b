"""What a process remembers is bounded in number and in time, and what was deleted is forgotten everywhere."""

import gc
from uuid import UUID

import pytest

from ingress import cache
from ingress.accounts.config import Config
from ingress.cache import Cache
from ingress.settings import Settings

from .conftest import serving
from .gateway import Gateway, Organization, eventually


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_value_is_given_until_its_time_is_over() -> None:
    clock = Clock()
    kept: Cache[str, int] = Cache(10, clock)
    kept.put("short", 1, 1.0)
    kept.put("long", 2, 5.0)
    clock.now = 0.9
    assert (kept.get("short"), kept.get("long"), kept.get("none")) == (1, 2, None)
    clock.now = 1.0
    assert (kept.get("short"), kept.get("long")) == (None, 2)
    kept.put("short", 3, 1.0)
    assert kept.get("short") == 3


def test_the_one_that_was_put_the_longest_ago_makes_room() -> None:
    kept: Cache[int, int] = Cache(3, Clock())
    for key in (1, 2, 3, 1, 4):
        kept.put(key, key, 1.0)
    assert [*kept] == [3, 1, 4]


def test_what_is_past_its_time_is_swept_away() -> None:
    clock = Clock()
    kept: Cache[int, int] = Cache(10, clock)
    for key in range(6):
        kept.put(key, key, 1.0 + key % 2)
    clock.now = 1.5
    kept.sweep()
    assert [*kept] == [1, 3, 5]
    kept.drop_where(lambda value: value == 3)
    kept.drop(5)
    assert [*kept] == [1]


async def test_a_deleted_config_is_decrypted_nowhere(
    organization: Organization, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes send through it and receive for it, then it is deleted in one; both of them are in this heap."""
    monkeypatch.setattr(cache, "SWEEP_EVERY_S", 0.05)
    [gone] = organization.configs
    async with serving(settings) as url:
        there = Organization(Gateway(url, "", gateway.session, gateway.meta), organization.id, organization.key)
        for each in (organization, there):
            assert (await each.send()).status == 200
        hook = gateway.meta.inbound(organization.numbers[0]).text("x")
        assert (await organization.post_webhook(hook)).status == 200
        assert decrypted(gone["config_id"]) > 0
        await organization.configure()
        deleted = await organization.call("DELETE", f"/integrations/whatsapp/provider/configs/{gone['config_id']}")
        assert deleted.status == 204
        await eventually(lambda: decrypted(gone["config_id"]), lambda count: count == 0)
        assert (await there.send()).status == 200


def decrypted(config_id: str) -> int:
    gc.collect()
    return sum(isinstance(each, Config) and each.id == UUID(config_id) for each in gc.get_objects())
