"""`ingress serve --processes 2`: real processes, killed, renewed and drained under load."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ingress.dev.sandbox import MetaSimulator, Slow, StatusPolicy
from ingress.settings import Settings

from ..gateway import Gateway, Organization, Process, Served, eventually, unused_port

ROOT = Path(__file__).parents[2]
WRITERS = 8


class Service(Process):
    """A parent with two workers."""

    def __init__(self, settings: Settings, log: Path, **more: str) -> None:
        self.url = Served(unused_port(), unused_port())
        self.environment = {
            "DATABASE_URL": settings.database_url,
            "REDIS_URL": settings.redis_url,
            "INGRESS_PORT": self.url.rpartition(":")[2],
            "INGRESS_METRICS_PORT": self.url.operations.rpartition(":")[2],
            "INGRESS_PLATFORM_KEY": settings.platform_key,
            "INGRESS_ENCRYPTION_KEYS": settings.encryption_keys,
            "INGRESS_EGRESS_ALLOW": "127.0.0.0/8",
            **more,
        }
        self.log = log
        super().__init__(self.environment, log, "--processes", "2")

    @property
    def workers(self) -> list[int]:
        """Their process ids."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def messages(self) -> list[str]:
        return [json.loads(line).get("message", "") for line in self.log.read_text().splitlines()]

    async def logged(self, text: str) -> str:
        """The message with *text*, once it is logged."""

        def found() -> str:
            return next((message for message in self.messages() if text in message), "")

        message: str = await eventually(found)
        return message

    async def stop(self) -> int:
        """SIGTERM to all processes at once, as systemd has it unless it is said otherwise; the exit status."""
        for pid in self.workers:
            os.kill(pid, signal.SIGTERM)
        return await super().stop()


@pytest.fixture
async def service(settings: Settings, tmp_path: Path) -> AsyncIterator[Service]:
    running = Service(settings, tmp_path / "service.log")
    await running.start()
    await running.logged("2 processes")
    yield running
    running.kill()


@pytest.fixture
async def organization(service: Service, settings: Settings, meta: MetaSimulator) -> AsyncIterator[Organization]:
    async with aiohttp.ClientSession() as session:
        made = await Gateway(service.url, settings.platform_key, session, meta).organization()
        await made.configure()
        meta.set_statuses(made.numbers[0], StatusPolicy(statuses=()))
        yield made


class Writers:
    """Webhooks without a pause over connections that are kept; what was taken, and what went wrong."""

    def __init__(self, organization: Organization) -> None:
        self._organization = organization
        self._stopping = False
        self.taken: list[str] = []
        self.failed: list[Any] = []

    async def __aenter__(self) -> "Writers":
        self._tasks = [asyncio.create_task(self._write(writer)) for writer in range(WRITERS)]
        await self.more()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def more(self, many: int = 5 * WRITERS) -> None:
        """Wait until so many more are taken."""
        wanted = len(self.taken) + many
        await eventually(lambda: len(self.taken) >= wanted)

    async def _write(self, writer: int) -> None:
        number = self._organization.numbers[0]
        while not self._stopping:
            text = f"{writer} {len(self.taken)}"
            try:
                body = self._organization.gateway.meta.inbound(number).text(text)
                answer = await self._organization.post_webhook(body)
            except aiohttp.ClientError as error:
                self.failed.append(error)
            else:
                (self.taken if answer.status == 200 else self.failed).append(text)


async def bodies(organization: Organization) -> Counter[str]:
    events = await organization.events(kind="message.received")
    return Counter(event["data"]["message"]["content"]["body"] for event in events)


async def readiness(organization: Organization) -> Any:
    return (await organization.gateway.call("GET", f"{organization.gateway.operations}/readyz")).json


READY = {"status": "ready", "ready": 2, "processes": 2}


async def test_the_start_says_what_all_of_them_may_use(service: Service) -> None:
    message = await service.logged("serves at")
    assert f"; 2 processes ({', '.join(map(str, service.workers))}) of this one ({service.pid})" in message
    most = 2 * Settings().database_connections
    assert f"up to {most} connections to PostgreSQL" in message
    memory = int(message.rpartition(", ")[2].removesuffix(" MiB of memory"))
    assert 80 < memory < 800


async def test_metrics_of_all_are_on_one_page_and_add_up(service: Service, organization: Organization) -> None:
    """Each series with the process that counts it; valid in both formats."""
    gateway = organization.gateway
    body = gateway.meta.inbound(organization.numbers[0])
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        gateway.session = session  # a connection each: the system gives them to both
        answers = await asyncio.gather(*(organization.post_webhook(body.text(str(number))) for number in range(40)))
    assert {answer.status for answer in answers} == {200}
    gateway.session = session = aiohttp.ClientSession()
    async with session:
        text = (await gateway.metrics()).raw.decode()
        openmetrics = (await gateway.metrics("application/openmetrics-text; version=1.0.0")).raw.decode()
    of_openmetrics = list(parse_openmetrics(openmetrics))
    for families in (list(parse_text(text)), of_openmetrics):
        samples = [sample for family in families for sample in family.samples]
        acked = values(samples, "whatsapp_ingress_ingest_ack_duration_seconds_count", outcome="acked")
        assert set(acked) == {"0", "1"}
        assert sum(acked.values()) == 40
        requests = {sample.exemplar.labels["request_id"] for sample in samples if sample.exemplar}
        assert (families is of_openmetrics) == bool(requests & {answer.headers["x-request-id"] for answer in answers})
        assert set(values(samples, "process_resident_memory_bytes")) == {"parent", "0", "1"}
        for state, many in (("starting", 0), ("serving", 2), ("ending", 0)):
            assert values(samples, "whatsapp_ingress_processes", state=state) == {"parent": many}


def values(samples: list[Any], name: str, **labels: str) -> dict[str, float]:
    """By process."""
    found = [sample for sample in samples if sample.name == name and labels.items() <= sample.labels.items()]
    return {sample.labels["process"]: sample.value for sample in found}


async def test_a_worker_that_is_killed(service: Service, organization: Organization) -> None:
    """The other one goes on, it comes back, and what was taken is there."""
    killed, other = service.workers
    async with Writers(organization) as writers:
        os.kill(killed, signal.SIGKILL)
        await writers.more()
        await service.logged("ended with status -9; the next one is started in 0.5 s")
        assert await readiness(organization) == READY | {"ready": 1}
        # What failed was under way, or on its way, when it died, or before its parent saw that.
        failed = len(writers.failed)
        await writers.more()
        assert len(writers.failed) == failed <= 4 * WRITERS
        await eventually(lambda: readiness(organization), lambda found: found == READY)
    assert service.workers != [killed, other]
    assert other in service.workers
    restarts = 'whatsapp_ingress_process_restarts_total{process="parent"} 1.0'
    assert restarts in (await organization.gateway.metrics()).raw.decode()
    stored = await bodies(organization)
    assert set(writers.taken) <= set(stored)
    assert max(stored.values()) == 1


async def test_a_parent_that_is_killed(service: Service) -> None:
    """Nobody is left behind to serve: the next parent has the port."""
    workers = service.workers
    service.kill()
    killed_at = time.monotonic()
    await eventually(lambda: not any(is_alive(pid) for pid in workers), timeout=5)
    assert time.monotonic() - killed_at < 2
    await service.start()
    assert await service.stop() == 0


def is_alive(pid: int) -> bool:
    """Whether it runs; one whose end nobody has asked for yet does not."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def test_embedded_servers_are_the_parents(settings: Settings, tmp_path: Path) -> None:
    """A worker that is renewed, or dies, takes none of them with it."""
    service = Service(settings, tmp_path / "service.log", INGRESS_DATA_DIR=str(tmp_path / "data"))
    for name in ("DATABASE_URL", "REDIS_URL"):
        del service.environment[name]
    await service.start()
    try:
        message = await service.logged("2 processes")
        workers = re.findall(r"\d+", message.partition("processes (")[2].partition(")")[0])
        assert len(workers) == 2
        assert all(not Path(f"/proc/{pid}/task/{pid}/children").read_text() for pid in workers)
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in service.workers}
        assert {"postgres", "valkey-server"} < names
        assert await Process.stop(service) == 0
    finally:
        service.kill()


async def test_renewal_refuses_nobody(service: Service, organization: Organization) -> None:
    """SIGHUP: other processes, one after the other, and not one request of many is answered worse, or not at all."""
    former = service.workers
    async with Writers(organization) as writers:
        os.kill(service.pid, signal.SIGHUP)
        await service.logged("all workers are renewed")
        await writers.more()
    assert writers.failed == []
    assert not set(former) & set(service.workers)
    assert len(service.workers) == 2
    assert await bodies(organization) == Counter(writers.taken)
    assert not [message for message in service.messages() if "ended with" in message]


async def test_all_are_asked_to_end(service: Service, organization: Organization) -> None:
    """Sends that are under way end well, and the answer of all on their port says that nothing new is to come."""
    meta = organization.gateway.meta
    await meta.set_default(organization.numbers[0], Slow(seconds=0.7))
    before = len(meta.sends)
    sends = [asyncio.create_task(organization.send()) for _ in range(10)]
    await meta.wait_for(lambda: len(meta.sends) == before + 10)
    stopping = asyncio.create_task(service.stop())
    draining = await eventually(lambda: readiness(organization), lambda found: found["status"] == "draining")
    assert draining["processes"] == 2
    answers = await asyncio.gather(*sends)
    assert [(a.status, a.json) for a in answers if a.status != 200] == []
    assert await stopping == 0
    assert "Traceback" not in service.log.read_text()
    assert not [message for message in service.messages() if "ended with" in message]


async def test_the_port_of_another_parent_is_taken(service: Service) -> None:
    """Though workers share it: who is not one of them may not join."""
    done = await run(service.environment | {"INGRESS_METRICS_PORT": "0"})
    assert (done.returncode, done.stdout) == (1, "")
    assert f"127.0.0.1:{service.environment['INGRESS_PORT']}" in done.stderr


async def run(environment: dict[str, str], processes: int = 2) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "ingress", "serve", "--processes", str(processes)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )


async def test_workers_that_cannot_start(settings: Settings, tmp_path: Path) -> None:
    """Each is tried again, later each time; then all of it ends."""
    program = "import os, sys\nif 'ingress.processes' in sys.orig_argv: os.write(2, b'it cannot be\\n'); os._exit(5)"
    (tmp_path / "sitecustomize.py").write_text(program)
    service = Service(settings, tmp_path / "unused", PYTHONPATH=str(tmp_path))
    done = await run(service.environment)
    assert done.returncode == 1
    ends = [line for line in done.stdout.splitlines() if "ended with status 5" in line]
    assert sum("started in 0.5 s" in line for line in ends) == sum("started in 1 s" in line for line in ends) == 2
    *causes, last = done.stderr.splitlines()
    assert set(causes) == {"it cannot be"}
    assert last == (
        "ingress: no worker could be started, each tried 3 times; the last one ended with status 5, and has said why"
    )


async def test_more_connections_than_the_server_has(settings: Settings, tmp_path: Path) -> None:
    service = Service(settings, tmp_path / "unused", INGRESS_DATABASE_CONNECTIONS="64")
    done = await run(service.environment, 100)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("ingress: 100 processes may open 6400 connections to PostgreSQL, and the server has ")
    assert "lower INGRESS_DATABASE_CONNECTIONS" in line
