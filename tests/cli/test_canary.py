"""`ingress canary`: what is acknowledged comes out, or is counted."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from uuid import UUID

import asyncpg
import msgspec
import pytest

from ingress import metrics
from ingress.cli import canary
from ingress.cli.canary import Sink
from ingress.cli.client import Client
from ingress.settings import Settings

from ..conftest import serving
from ..gateway import Gateway, Organization, eventually, logged, unused_port


@pytest.fixture
async def watched(settings: Settings, gateway: Gateway) -> AsyncIterator[Organization]:
    """An organization of a service that takes canaries."""
    async with serving(msgspec.structs.replace(settings, canary=True)) as url:
        made = await Gateway(url, settings.platform_key, gateway.session, gateway.meta).organization()
        key = await made.call("POST", "/keys", {"scopes": ["read", "configure"]})
        yield Organization(made.gateway, made.id, key.json["key"])


@pytest.fixture
async def sink(watched: Organization) -> Sink:
    """What is not out at once is lost."""
    client = Client(watched.gateway.url, watched.key, None)
    return await asyncio.to_thread(canary._prepared, client, 0.0)


def counts() -> dict[str, float]:
    """All that is counted in this process, by its name and the class of what was refused."""
    found = {}
    for family in metrics.OF_CANARY.collect():
        for sample in family.samples:
            name = sample.name.removeprefix("whatsapp_ingress_canary_")
            if name in ("sent_total", "lost_total", "refused_total", "seconds_count"):
                found[name + sample.labels.get("class", "")] = sample.value
    return found


async def counted(act: Callable[[], object]) -> dict[str, float]:
    """What *act* adds to."""
    before = counts()
    await asyncio.to_thread(act)
    return {name: value - before.get(name, 0) for name, value in counts().items() if value != before.get(name, 0)}


async def test_what_is_acknowledged_comes_out(watched: Organization, gateway: Gateway) -> None:
    """As an operator runs it, twice: with one config, and until it is asked to end."""
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ingress", "canary", "--every", "0.2"),
            env={
                **os.environ,
                "INGRESS_API_URL": watched.gateway.url,
                "INGRESS_API_KEY": watched.key,
                "INGRESS_METRICS_PORT": "0",
            },
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        match = re.search(r"metrics at port (\d+)", line)
        assert match, line
        url = f"http://127.0.0.1:{match[1]}/metrics"

        async def shown(url: str = url) -> dict[str, float]:
            text = (await gateway.call("GET", url)).raw.decode()
            found = re.findall(r"^whatsapp_ingress_canary_(\w+) (.+)$", text, re.MULTILINE)
            return {name: float(value) for name, value in found}

        found = await eventually(shown, lambda found: found["seconds_count"] >= 3)
        assert found["sent_total"] >= 3
        assert found["lost_total"] == 0
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    configs = (await watched.call("GET", "/integrations/whatsapp/provider/configs")).json["configs"]
    assert [(config["provider"], config["state"]) for config in configs] == [("canary", "configured")]


async def test_one_that_the_database_loses_is_counted(
    watched: Organization, sink: Sink, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    assert await counted(sink.post) == {"sent_total": 1}
    connection = await asyncpg.connect(settings.database_url)
    lost = await connection.fetch("delete from events where organization_id = $1 returning data", UUID(watched.id))
    await connection.close()
    assert len(lost) == 1
    assert await counted(lambda: sink.read(0)) == {"lost_total": 1}
    [line] = logged(caplog, canary.logger.name)
    assert re.fullmatch(
        rf"the canary \w{{32}} was acknowledged \(req_\w+\) for {sink.config_id}, and did not come out", line
    )
    assert await counted(lambda: sink.read(0)) == {}


async def test_one_that_comes_out_late_is_said_to_be_late(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    before = sink._after
    await counted(sink.post)
    sink._after = 10**17
    assert await counted(lambda: sink.read(0)) == {"lost_total": 1}
    sink._after = before
    assert await counted(lambda: sink.read(1)) == {}
    assert re.fullmatch(r"the canary \w{32} was late, not lost: \d+ s, evt_\w+", logged(caplog, canary.logger.name)[-1])


async def test_one_that_is_refused_is_neither_sent_nor_lost(sink: Sink) -> None:
    url = sink._webhook_url
    sink._webhook_url = f"{url}x"
    assert await counted(sink.post) == {"refused_total4xx": 1}
    sink._webhook_url = f"http://127.0.0.1:{unused_port()}/webhooks/canary/x"
    assert await counted(sink.post) == {"refused_totalconnection": 1}
    assert await counted(lambda: sink.read(0)) == {}


async def test_a_service_that_is_away_is_asked_again(sink: Sink, caplog: pytest.LogCaptureFixture) -> None:
    await counted(sink.post)
    client, sink._client = sink._client, Client(f"http://127.0.0.1:{unused_port()}", "key", None)
    await counted(lambda: sink.read(0))
    assert logged(caplog, canary.logger.name)[0].startswith("the canary cannot read events: the service at 127.0.0.1")
    sink._client = client


async def test_a_service_that_takes_no_canaries_says_so(organization: Organization) -> None:
    client = Client(organization.gateway.url, organization.key, None)
    with pytest.raises(canary.Failed, match="canary"):
        await asyncio.to_thread(canary._prepared, client, 0.0)
