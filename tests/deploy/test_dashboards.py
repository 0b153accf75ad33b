"""The boards' panels name metrics that are there, and show something: a real Prometheus scrapes three processes."""

import asyncio
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from prometheus_client.utils import floatToGoString

from ingress import metrics
from ingress.metrics.labels import OTHER, VALUES
from prove.cluster import UNBOUNDED, Cluster, cluster
from tests.gateway import eventually, unused_port

from .boards import BOARDS, MONITORING, asked, panels, statements
from .traffic import Traffic

# Of prometheus_client, for every program.
OF_PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"}
SERIES = re.compile(r"\b((?:whatsapp_ingress|process)_\w+)\s*(?:\{([^}]*)\})?")
# What Grafana fills in: the whole of the test, and of its last seconds what is enough for a rate.
MACROS = {"$__rate_interval": "5s", "$__range": "60s", "$instance": ".*"}
ACKNOWLEDGED = "whatsapp_ingress_ingest_ack_duration_seconds"
# To the login of Grafana's.
FORBIDDEN = (
    "select * from messages",
    "select data from events",
    "select name from contacts",
    "select url from callbacks",
    "select detail from provider_health",
    "select config_data from whatsapp_provider_configs",
    "select before from provider_audit_log",
    "update organizations set name = 'x'",
    "delete from provider_figures",
)
EXPRESSIONS = {where: text for where, text in asked("expr") if text}


def labels_of_series() -> dict[str, dict[str, set[str]]]:
    """What each series of a process may be selected by, and the values of that."""
    found: dict[str, dict[str, set[str]]] = {name: {} for name in OF_PROCESS}
    for metric, names in metrics.REGISTRY._collector_to_names.items():
        for name in names:
            labels = getattr(metric, "_labelnames", ())
            found[name] = {label: VALUES[label] | {OTHER} for label in labels if label in VALUES}
            if name.endswith("_bucket"):
                found[name]["le"] = set(map(floatToGoString, metric._upper_bounds))
    return found


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_what_a_panel_asks_for_is_there(where: str) -> None:
    """Metrics, their labels, the values of those, and the bounds of buckets."""
    known, text = labels_of_series(), EXPRESSIONS[where]
    selectors = SERIES.findall(text)
    assert selectors
    for name, matchers in selectors:
        assert name in known
        for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers):
            if label == "instance":
                assert value == "$instance"
            else:
                assert set(value.split("|") if "~" in operator else [value]) <= known[name][label]


@pytest.mark.parametrize("name", BOARDS)
def test_boards_are_made_alike(name: str) -> None:
    board = BOARDS[name]
    assert board["uid"] == f"whatsapp-ingress-{name.partition('-')[2]}"
    assert board["schemaVersion"] == 42
    assert {"datasource", "instance"} <= {variable["name"] for variable in board["templating"]["list"]}
    assert board["annotations"]["list"][0]["name"] == "Switches"
    ids = [panel["id"] for panel in board["panels"]]
    assert ids == list(range(1, len(ids) + 1))
    places = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24
    for panel in panels(board):
        assert panel["description"].endswith(".")
        assert panel["type"] == "table" or panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] in ("${datasource}", "${postgres}")
        for link in panel.get("links", ()):
            assert (MONITORING.parents[2] / "docs" / link["url"].removeprefix("${docs}/")).exists()


def test_latencies_of_requests_show_exemplars() -> None:
    of_requests = re.compile(r"histogram_quantile.*(ingest_ack|http_request|send_attempt|send_end_to_end)_")
    for board in BOARDS.values():
        for panel in panels(board):
            for target in panel["targets"]:
                if of_requests.search(target.get("expr", "")):
                    assert target.get("exemplar"), panel["title"]


# ---------------------------------------------------------------- what they show


@pytest.fixture(scope="module")
async def playing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    limits = {**UNBOUNDED, "INGRESS_ORGANIZATIONS_IN_METRICS": "5", "INGRESS_HEALTH_INTERVAL_S": "0.5"}
    async with cluster(tmp_path_factory.mktemp("boards"), limits=limits) as made:
        yield made


class Prometheus:
    """A real one, which scrapes *targets* five times a second."""

    def __init__(self, playing: Cluster) -> None:
        self._session = playing.session
        self._targets = [member.url.operations.removeprefix("http://") for member in playing.members]
        self._port = unused_port()

    @asynccontextmanager
    async def running(self, folder: Path) -> AsyncIterator["Prometheus"]:
        """Its data and its log are in *folder*."""
        job = {"job_name": "ingress", "static_configs": [{"targets": self._targets}]}
        scrapes = {"global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"}, "scrape_configs": [job]}
        (folder / "prometheus.yml").write_text(json.dumps(scrapes))  # JSON is YAML
        command = [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--enable-feature=exemplar-storage",
        ]
        with (folder / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            await eventually(self._is_ready)
            yield self
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 30)

    async def _is_ready(self) -> bool:
        try:
            async with self._session.get(f"http://127.0.0.1:{self._port}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def ask(self, what: str, **query: str) -> Any:
        async with self._session.get(f"http://127.0.0.1:{self._port}/api/v1/{what}", params=query) as answer:
            found = await answer.json()
        assert found["status"] == "success", found
        return found["data"]

    async def shows(self, expression: str) -> bool:
        """Whether there is a number in what it finds."""
        for macro, value in MACROS.items():
            expression = expression.replace(macro, value)
        found = (await self.ask("query", query=expression))["result"]
        return any(math.isfinite(float(each["value"][1])) for each in found)


@asynccontextmanager
async def reading(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """As a login of Grafana's. Figures are there that the service has yet to count, and a session that waits."""
    owner, other = [await asyncpg.connect(database_url) for _ in range(2)]
    await owner.execute((MONITORING / "grafana-role.sql").read_text("utf-8"))
    await owner.execute("create role grafana login in role ingress_boards, pg_read_all_stats")
    await owner.execute(
        """insert into provider_figures
            (organization_id, config_id, minutes, since, tried, errors, undelivered, durations)
        select organization_id, id, minutes, date_trunc('hour', now()), 1, '{1}', '{}', '{}'
        from whatsapp_provider_configs, unnest(array[1, 60]) minutes"""
    )
    await owner.execute("select pg_advisory_lock(1)")
    waiting = asyncio.create_task(other.execute("select pg_advisory_lock(1)"))
    reader = await asyncpg.connect(database_url.replace("://svc@", "://grafana@"))
    try:
        yield reader
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        for connection in (reader, other, owner):
            await connection.close()


@pytest.mark.skipif(
    not shutil.which("prometheus") and "NEEDS_PROMETHEUS" not in os.environ,
    reason="needs Prometheus: apt-get install prometheus",
)
async def test_every_panel_shows_something(playing: Cluster, tmp_path: Path) -> None:
    """Tables, too, to who may read what they show and no more."""
    async with (
        Prometheus(playing).running(tmp_path) as prometheus,
        Traffic(playing) as traffic,
        reading(playing.settings.database_url) as reader,
    ):
        asks = {where: partial(prometheus.shows, text) for where, text in EXPRESSIONS.items()}
        for hours in (3, 72):
            for where, text in statements(traffic.organization_id, hours).items():
                asks[f"{where}, {hours} hours"] = partial(reader.fetch, text)

        async def nothing_yet() -> list[str]:
            for where, ask in list(asks.items()):
                if await ask():
                    del asks[where]
            return list(asks)

        await eventually(nothing_yet, lambda found: not found, timeout=90, every=0.3)
        found = await prometheus.ask("query_exemplars", query=f"{ACKNOWLEDGED}_bucket", start="0", end="99999999999")
        assert {one["labels"]["request_id"][:4] for series in found for one in series["exemplars"]} == {"req_"}
        for forbidden in FORBIDDEN:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.execute(forbidden)
        traffic.check()
