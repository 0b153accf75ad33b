"""Attack a process, in one way after the other: what a quiet tenant and an orchestrator notice. Exit 1: too much."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import aiohttp
import msgspec
from rich.console import Console
from rich.table import Table

from ingress.dev.sandbox import CrmSimulator, CrmSlow, Hang
from ingress.dev.sandbox.meta.bodies import signed_headers
from ingress.settings import Settings, variable
from tests.gateway import Organization, eventually

from ..cluster import Cluster, ClusterMember, cluster
from ..figures import Figure
from .storms import STORMS, AttackTarget

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "prove" / "attacks.json"

# What a pod may have beside its /tmp (k8s/base/deployment.yaml).
RSS_LIMIT_MB = 256
QUIET_P99_LIMIT_MS = 250
HEALTH_LIMIT_MS = 500
SERIES_LIMIT = 3_000
QUIET_EVERY_S = 0.05
HEALTH_EVERY_S = 0.25
AGAIN_S = 0.5
CALM_S = 0.5
SLOW_CALLBACKS, SLOW_S = 4, 14.0
# What the pages of `pages` are full of: events of 2 MiB.
LARGE_EVENTS, LARGE_TEXT = 150, "x" * 2_000_000
ATTACKS = ("nothing", *STORMS, "callbacks")


# The limits of the service as nobody has changed them, but that these organizations are set up one after the other.
AS_DELIVERED = {
    variable(field): str(getattr(Settings(), field))
    for field in ("connections_per_address", "requests_per_key", "sign_in_failures_per_minute")
} | {variable("connection_tests_per_minute"): "0"}


class Seen(msgspec.Struct):
    """What was noticed while an attack went on."""

    latencies_ms: list[float] = []
    refused: list[str] = []  # to come again
    lost: list[str] = []  # of webhooks, what ended them without an answer, or without one that takes them
    health_ms: list[float] = []
    unhealthy: list[str] = []
    rss_mb: float = 0.0
    dwell_ms: list[float] = []
    series: int = 0


class _Stored(msgspec.Struct):
    timestamp: datetime


def p99(values: list[float]) -> float | None:
    return round(quantiles(values, n=100)[98], 1) if len(values) > 1 else None


class Watch:
    """The quiet tenant, the orchestrator and the machine's own figures, from addresses of their own."""

    def __init__(self, cluster: Cluster, member: ClusterMember, quiet: Organization) -> None:
        self.seen = Seen()
        self._member, self._quiet = member, quiet
        self._people = cluster.meta.inbound(quiet.numbers[0])
        self._over = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Watch":
        self._running = [asyncio.create_task(work()) for work in (self._write, self._ask_health, self._weigh)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await asyncio.gather(*self._running)

    async def _paced(self, every_s: float, act: Any) -> None:
        """*act* every *every_s* whether or not the last has ended; latency counts from when it was due."""
        due = monotonic()
        async with asyncio.TaskGroup() as group:
            while not self._over.is_set():
                group.create_task(act(due))
                due += every_s
                await asyncio.sleep(max(0.0, due - monotonic()))

    async def _write(self) -> None:
        path = self._quiet.configs[0]["webhook_url"].partition("/webhooks")[2]
        connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0), limit=16)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def post(due: float) -> None:
                raw = msgspec.json.encode(self._people.text())
                signed = signed_headers(self._quiet.numbers[0].app_secret, raw)
                url = f"{self._member.url}/webhooks{path}"
                try:
                    async with asyncio.timeout(15):
                        while True:
                            async with session.post(url, data=raw, headers=signed) as answer:
                                await answer.read()
                            if answer.status == 200:
                                break
                            self.seen.refused.append(str(answer.status))  # it shall come again
                            await asyncio.sleep(AGAIN_S)
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    self.seen.lost.append(type(error).__name__)
                    return
                self.seen.latencies_ms.append((monotonic() - due) * 1000)

            await self._paced(QUIET_EVERY_S, post)

    async def _ask_health(self) -> None:
        connector = aiohttp.TCPConnector(local_addr=("127.0.0.3", 0), limit=0, force_close=True)
        urls = [
            f"{base}/{what}"
            for base in (self._member.url, self._member.url.operations)
            for what in ("healthz", "readyz")
        ]
        async with aiohttp.ClientSession(connector=connector) as session:

            async def ask(due: float) -> None:
                for url in urls:
                    began = monotonic()
                    try:
                        async with asyncio.timeout(5), session.get(url) as answer:
                            await answer.read()
                            if answer.status != 200:
                                self.seen.unhealthy.append(str(answer.status))
                    except (aiohttp.ClientError, OSError, TimeoutError) as error:
                        self.seen.unhealthy.append(type(error).__name__)
                    self.seen.health_ms.append((monotonic() - began) * 1000)

            await self._paced(HEALTH_EVERY_S, ask)

    async def _weigh(self) -> None:
        while not self._over.is_set():
            self.seen.rss_mb = max(self.seen.rss_mb, _rss_mb(self._member.pid))
            await asyncio.sleep(0.05)


def _rss_mb(pid: int) -> float:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


async def attacked(playing: Cluster, name: str, seconds: float) -> Seen:
    """A new process, *name* for so long, and what was seen meanwhile."""
    member = playing.members[0]
    quiet, loud = await playing.organization(), await playing.organization()
    for organization in (quiet, loud):
        await playing.add_meta(organization, active=True)
    if name == "pages":
        await _fill(playing, loud)
    await member.restart()  # what an attack leaves in memory is not the next one's
    watch = Watch(playing, member, quiet)
    async with AsyncExitStack() as stack:
        if name == "sends":
            await playing.meta.set_default(loud.numbers[0], Hang())
            stack.push_async_callback(playing.meta.clear_faults, loud.numbers[0])
        if name == "callbacks":
            crm = await stack.enter_async_context(CrmSimulator())
            await _slow_callbacks(playing, crm, quiet, watch, seconds)
        else:
            async with watch:
                await asyncio.sleep(CALM_S)
                await _storm(name, member, loud, seconds)
    async with playing.session.get(f"{member.url.operations}/metrics") as answer:
        page = await answer.text()
    watch.seen.series = sum(bool(line) and not line.startswith("#") for line in page.splitlines())
    return watch.seen


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


async def _storm(name: str, member: ClusterMember, loud: Organization, seconds: float) -> None:
    if name == "nothing":
        await asyncio.sleep(seconds)
        return
    webhook_path = "/webhooks" + loud.configs[0]["webhook_url"].partition("/webhooks")[2]
    target = AttackTarget(
        port=_port(member.url),
        metrics_port=_port(member.url.operations),
        seconds=seconds,
        key=loud.key,
        webhook_path=webhook_path,
        number=loud.numbers[0],
        seed=1,
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "prove.attacks.storms", name, stdin=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        async with asyncio.timeout(seconds + 60):
            await process.communicate(msgspec.json.encode(target))
        assert process.returncode == 0, f"the attack {name} broke off"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _fill(playing: Cluster, loud: Organization) -> None:
    people = playing.meta.inbound(loud.numbers[0])
    for _ in range(LARGE_EVENTS):
        body = people.text()
        body["entry"][0]["changes"][0]["value"]["messages"][0]["text"]["body"] = LARGE_TEXT
        # As a provider does: again, where too many wait to be read.
        await eventually(partial(loud.post_webhook, body), lambda answer: answer.status == 200, timeout=60, every=0.2)


async def _slow_callbacks(
    playing: Cluster, crm: CrmSimulator, quiet: Organization, watch: Watch, seconds: float
) -> None:
    """Four tenants whose callbacks answer after 14 s; how long the quiet one's events take to its own."""
    slow = [await playing.organization() for _ in range(SLOW_CALLBACKS)]
    for number, organization in enumerate([quiet, *slow]):
        endpoint = f"tenant{number}"
        answer = await organization.call("PUT", "/callback", {"url": crm.url_for(endpoint)})
        assert answer.status == 200, answer.raw
        crm.set_secret(answer.json["secret"], endpoint=endpoint)
        if organization is not quiet:
            await playing.add_meta(organization, active=True)
            crm.set_default(CrmSlow(seconds=SLOW_S), endpoint=endpoint)

    async def flood(organization: Organization) -> None:
        people = playing.meta.inbound(organization.numbers[0], people=200)
        until = monotonic() + seconds
        while monotonic() < until:
            await organization.post_webhook(people.text())
            await asyncio.sleep(0.05)

    async with watch:
        await asyncio.gather(*map(flood, slow))
    with suppress(AssertionError):
        await crm.wait_for(lambda: len(_of(crm, "tenant0")) >= len(watch.seen.latencies_ms), 10)
    watch.seen.dwell_ms = [
        (each.time - msgspec.json.decode(each.body or b"", type=_Stored).timestamp.timestamp()) * 1000
        for each in _of(crm, "tenant0")
    ]


def _of(crm: CrmSimulator, endpoint: str) -> list[Any]:
    return [attempt for attempt in crm.attempts if attempt.endpoint == endpoint]


def judged(name: str, seen: Seen) -> list[Figure]:
    asked = len(seen.latencies_ms) + len(seen.lost)
    figures = [
        Figure(f"{name}: memory of the process", round(seen.rss_mb), RSS_LIMIT_MB, "MiB"),
        Figure(f"{name}: webhooks of a quiet tenant refused", len(seen.refused), 0, of=f"{asked}"),
        Figure(f"{name}: webhooks of a quiet tenant lost", len(seen.lost), 0, of=f"{asked}"),
        Figure(f"{name}: their answer, p99", p99(seen.latencies_ms), QUIET_P99_LIMIT_MS, "ms"),
        Figure(f"{name}: health not answered", len(seen.unhealthy), 0, of=f"{len(seen.health_ms)}"),
        Figure(f"{name}: health, worst", round(max(seen.health_ms, default=0.0)), HEALTH_LIMIT_MS, "ms"),
        Figure(f"{name}: series of /metrics", seen.series, SERIES_LIMIT),
    ]
    if seen.dwell_ms:
        figures.append(Figure(f"{name}: stored to delivered, quiet tenant, p99", p99(seen.dwell_ms), 250, "ms"))
    return figures


async def _all(folder: Path, names: Sequence[str], seconds: float, console: Console) -> dict[str, Seen]:
    found: dict[str, Seen] = {}
    async with cluster(folder, processes=1, limits=AS_DELIVERED) as playing:
        for name in names:
            console.print(f"{name} …")
            found[name] = await attacked(playing, name, seconds)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m prove.attacks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="length of each attack (default %(default)s)")
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=ATTACKS, help="attacks (default: all)")
    options = parser.parse_args(arguments)
    console = Console()
    (ROOT / ".data").mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="attacks-", dir=ROOT / ".data") as folder:
        found = asyncio.run(_all(Path(folder), options.only, options.seconds, console))
    figures = [figure for name, seen in found.items() for figure in judged(name, seen)]
    RESULTS.write_text(
        json.dumps(
            {
                "options": vars(options),
                "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
                "figures": msgspec.to_builtins(figures),
                "refused": {name: seen.refused for name, seen in found.items()},
                "lost": {name: seen.lost for name, seen in found.items()},
                "unhealthy": {name: seen.unhealthy for name, seen in found.items()},
            },
            indent=2,
        )
        + "\n"
    )
    table = Table(title=f"Attacks of {options.seconds:.0f} s each")
    for column in ("what", "figure", "limit", "of"):
        table.add_column(column)
    for figure in figures:
        shown = f"[bold red]{figure.shown}[/]" if figure.is_missed else figure.shown
        table.add_row(figure.what, shown, figure.bound, figure.of)
    console.print(table)
    missed = sum(figure.is_missed for figure in figures)
    console.print(f"{missed} limits missed" if missed else "Every limit kept.", style="bold")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
