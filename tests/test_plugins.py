"""Plug-ins that come, go and fail while the service runs."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import msgspec
import pytest

from ingress import app
from ingress.sandbox import MetaSimulator, Slow, example_number
from ingress.settings import Settings
from providers import ProviderInfo, Registry
from providers.meta_business import MetaBusiness
from providers.registry import ENTRY_POINT_GROUP

from .conftest import serving
from .gateway import Answer, Gateway, Organization, eventually

PROVIDERS = "/integrations/whatsapp/providers"
# Far from the numbers of other tests.
_numbers = itertools.count(900_000)

BROKEN = {
    "unimportable": ("1 / 0", "ZeroDivisionError: division by zero"),
    "incomplete": (
        "from providers import WhatsAppProvider\nclass PROVIDER(WhatsAppProvider, frozen=True):\n    pass",
        "it does not implement challenge",
    ),
    "meta_business": ("1 / 0", "already has the name"),
}


class Visiting(MetaBusiness, frozen=True, kw_only=True):
    info: ClassVar[ProviderInfo] = msgspec.structs.replace(MetaBusiness.info, name="visiting")


class Passing(MetaBusiness, frozen=True, kw_only=True):
    info: ClassVar[ProviderInfo] = msgspec.structs.replace(MetaBusiness.info, name="passing")


@pytest.fixture
async def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry of a service that is started after: with plug-ins that are broken in three ways."""
    monkeypatch.syspath_prepend(tmp_path)
    points = []
    for name, (source, _) in BROKEN.items():
        (tmp_path / f"plugin_{name}.py").write_text(source)
        points.append(EntryPoint(name=name, value=f"plugin_{name}", group=ENTRY_POINT_GROUP))
    made = Registry(points)
    monkeypatch.setattr(app, "Registry", lambda: made)
    return made


@pytest.fixture
async def service(registry: Registry, settings: Settings, meta: MetaSimulator) -> AsyncIterator[Gateway]:
    async with serving(settings) as url, aiohttp.ClientSession() as session:
        yield Gateway(url, settings.platform_key, session, meta)


async def configured(organization: Organization, provider: str) -> Answer:
    """A new simulated number, and the answer to the config of it at *provider*."""
    number = example_number(next(_numbers))
    base_url = await organization.gateway.meta.add_number(number)
    organization.numbers.append(number)
    body = {"provider_type": provider, "config_data": number.config_data(base_url), "is_active": True}
    return await organization.call("POST", "/integrations/whatsapp/provider/configure", body)


async def listed(organization: Organization) -> dict[str, list[Any]]:
    """What is told of each name; two plug-ins may want the same."""
    found: dict[str, list[Any]] = {}
    for entry in (await organization.call("GET", PROVIDERS)).json["providers"]:
        found.setdefault(entry["name"], []).append(entry)
    return found


async def test_broken_plugins_are_listed_with_their_reason_and_the_others_go_on(service: Gateway) -> None:
    """One that cannot be imported, one that lacks methods, one that takes a name."""
    organization = await service.organization()
    found = await listed(organization)
    for name, (_, reason) in BROKEN.items():
        [failed] = [entry for entry in found[name] if entry["state"] == "failed"]
        assert reason in failed["reason"]
        assert "fields" not in failed
    assert {entry["state"] for entry in found["meta_business"]} == {"registered", "failed"}
    assert (await configured(organization, "meta_business")).status == 200
    assert (await organization.send()).status == 200
    refused = await configured(organization, "unimportable")
    assert (refused.status, "unimportable" in refused.json["detail"]) == (400, True)


async def test_a_plugin_that_leaves_takes_no_send_with_it(service: Gateway, registry: Registry) -> None:
    """What is in flight ends as it would have; then nobody can configure it, and it is listed no more."""
    registry.register(Visiting)
    organization = await service.organization()
    assert (await configured(organization, "visiting")).status == 200
    assert [entry["state"] for entry in (await listed(organization))["visiting"]] == ["registered"]
    [number] = organization.numbers
    await service.meta.set_default(number, Slow(seconds=0.5))
    before = service.meta.call_count(owner=number.phone_number_id)
    sends = [asyncio.create_task(organization.send()) for _ in range(5)]
    await eventually(lambda: service.meta.call_count(owner=number.phone_number_id) >= before + 5)
    assert not any(send.done() for send in sends)
    registry.unregister("visiting")
    answers = await asyncio.gather(*sends)
    assert [(answer.status, answer.json["provider"]) for answer in answers] == [(200, "visiting")] * 5
    assert "visiting" not in await listed(organization)
    assert (await configured(organization, "visiting")).status == 400


async def test_plugins_come_and_go_under_load(service: Gateway, registry: Registry) -> None:
    """Others send and are listed meanwhile, undisturbed; each time it comes, it can be used."""
    organization = await service.organization()
    assert (await configured(organization, "meta_business")).status == 200
    sends = [asyncio.create_task(organization.send()) for _ in range(40)]
    for _ in range(10):
        registry.register(Passing)
        assert (await listed(organization))["passing"][0]["state"] == "registered"
        registry.unregister("passing")
        assert "passing" not in await listed(organization)
    answers = await asyncio.gather(*sends)
    assert [answer.status for answer in answers] == [200] * 40
