"""What is counted stays small whatever is asked, and is there to be read whatever happens on the other port."""

import ast
import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import ingress
from ingress import metrics
from ingress.accounts.config import ChangeRefused
from ingress.api import operations, routes, send
from ingress.health.gauges import GAUGES, watch_gauges
from ingress.metrics import organizations
from ingress.metrics.labels import OTHER, VALUES, Closed
from ingress.metrics.organizations import OrganizationCounters
from ingress.server import OPERATIONS_CONNECTIONS
from ingress.settings import Settings
from ingress.storage.database import Database, StoreUnavailable
from ingress.storage.statements import deliveries
from ingress.web import http_requests
from ingress.web.refusals import Reason

from .gateway import Gateway, Organization, eventually

# 10,000 in the long form.
HOSTILE = int(os.environ.get("HOSTILE_REQUESTS", "600"))
# One for each metric, route and class of answer; of a histogram a dozen. `make attack` holds all of a process to 3,000.
MOST_NEW_SERIES = 1_000
# All that the parser lets pass, but for those that open a tunnel.
METHODS = (
    *(
        "DELETE",
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "OPTIONS",
        "TRACE",
        "COPY",
        "LOCK",
        "MKCOL",
        "MOVE",
        "PROPFIND",
        "PROPPATCH",
    ),
    *("SEARCH", "UNLOCK", "BIND", "REBIND", "UNBIND", "ACL", "REPORT", "MKACTIVITY", "CHECKOUT", "MERGE", "M-SEARCH"),
    *("NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "PATCH", "PURGE", "MKCALENDAR", "LINK", "UNLINK"),
)
PATHS = (
    *("/send", "/messages", "/messages/{}", "/events", "/events/stream?after={}", "/media/{}", "/healthz", "/readyz"),
    *("/integrations/whatsapp/provider/current", "/integrations/whatsapp/provider/configs/{}", "/callback/{}", "/{}"),
    *("/webhooks/{}/x", "/webhooks/meta_business/{}", "/keys/{}", "/quarantine/{}/replay", "/openapi.json", "/metrics"),
)


async def series(gateway: Gateway) -> list[Any]:
    """Every sample of a scrape."""
    page = (await gateway.metrics()).raw.decode()
    return [
        sample
        for family in parse_text(page)
        for sample in family.samples
        if sample.name.startswith("whatsapp_ingress_")
    ]


def unforeseen(samples: list[Any]) -> list[Any]:
    return [
        sample
        for sample in samples
        for name, value in sample.labels.items()
        if name != "le" and value not in VALUES[name] | {OTHER}
    ]


async def test_hostile_requests_make_no_series(organization: Organization) -> None:
    """Odd methods, paths, providers, keys and bodies: what they are counted as was known before they came."""
    gateway = organization.gateway
    before = len(await series(gateway))  # what other tests in this process have made
    places = asyncio.Semaphore(16)

    async def hostile(number: int) -> None:
        path = PATHS[number % len(PATHS)].format(f"odd-{number}")
        key = organization.key if number % 3 else f"ingress_{number}"
        async with places:
            # Not all of them end: a stream does not.
            headers = {"authorization": f"Bearer {key}", "x-org-id": f"{number}", "accept": f"x/{number}"}
            method = METHODS[number // len(PATHS) % len(METHODS)]
            async with gateway.session.request(method, gateway.url + path, headers=headers, data=b"{") as answer:
                assert answer.status not in (500, 502)

    await asyncio.gather(*map(hostile, range(HOSTILE)))
    samples = await series(gateway)
    assert unforeseen(samples) == []
    assert len(samples) - before <= MOST_NEW_SERIES


def names_of(metric: Any) -> tuple[str, ...]:
    """The labels that are to be given to *metric*; none where it is no metric, or has been given them."""
    if isinstance(metric, Closed) and not metric._labelvalues:
        return tuple(metric._labelnames)
    return ()


def observe(metric: Any, *values: str) -> None:
    metrics.child(metric, *values)


async def test_no_metric_takes_a_value_that_was_not_foreseen(gateway: Gateway) -> None:
    """What providers, plug-ins and libraries bring into a label, class names and codes, is `other` as well."""
    labelled = [metric for metric in vars(metrics).values() if names_of(metric)]
    assert len(labelled) > 25
    before = len(await series(gateway))
    for metric in labelled:
        for number in range(50):
            observe(metric, *(f"odd-{number}" for _ in names_of(metric)))
    samples = await series(gateway)
    assert unforeseen(samples) == []
    assert len(samples) - before <= MOST_NEW_SERIES
    assert metrics.child.cache_info().maxsize == 4096


def test_what_the_code_counts_as_a_word_is_foreseen() -> None:
    """A value that is written in the code and missing in `VALUES` would be counted as `other`."""
    missing, found = [], 0
    for path in Path(ingress.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr == "child":
                metric, arguments = call.args[0], call.args[1:]
            elif call.func.attr == "labels":
                metric, arguments = call.func.value, call.args
            elif call.func.attr == "observe":
                metric, arguments = call.func.value, call.args[1:]
            elif call.func.attr == "observe_request":
                metric, arguments = call.args[0], call.args[3:]
            else:
                continue
            name = metric.attr if isinstance(metric, ast.Attribute) else ""
            if not hasattr(metrics, name):
                continue
            for label, argument in zip(names_of(getattr(metrics, name)), arguments, strict=False):
                if isinstance(argument, ast.Constant):
                    found += 1
                    if argument.value not in VALUES[label] | {OTHER}:
                        missing.append((path.name, name, argument.value))
    assert found > 5
    assert missing == []
    [outcome] = names_of(metrics.send_requests)
    assert {*send._REFUSED.values(), "shed"} <= VALUES[outcome]


async def test_a_method_that_a_route_has_not_is_counted_apart(gateway: Gateway) -> None:
    def requests() -> dict[tuple[str, ...], float]:
        return {
            labels: sum(bucket.get() for bucket in child._buckets)
            for labels, child in metrics.http_seconds._metrics.items()
        }

    before = requests()
    for method in ("GET", "PURGE", "DELETE"):
        await gateway.call(method, "/healthz")
    counted = {labels: count - before.get(labels, 0) for labels, count in requests().items()}
    assert {labels: count for labels, count in counted.items() if count} == {
        ("/healthz", "GET", "2xx"): 1,
        (OTHER, OTHER, "4xx"): 2,
    }


async def test_a_latency_names_a_request(organization: Organization) -> None:
    """In OpenMetrics: the one that its answer and its lines in the log name."""
    gateway = organization.gateway

    async def missing() -> set[tuple[str, str]]:
        webhook = await organization.post_webhook(gateway.meta.inbound(organization.numbers[0]).text("x"))
        sent = await organization.send()
        page = (await gateway.metrics("application/openmetrics-text")).raw.decode()
        exemplars = {
            (sample.name.removeprefix("whatsapp_ingress_"), sample.exemplar.labels["request_id"])
            for family in parse_openmetrics(page)
            for sample in family.samples
            if sample.exemplar
        }
        acked, request = webhook.headers["x-request-id"], sent.headers["x-request-id"]
        return {
            ("ingest_ack_duration_seconds_bucket", acked),
            ("http_request_duration_seconds_bucket", request),
            ("send_attempt_duration_seconds_bucket", request),
            ("send_end_to_end_seconds_bucket", request),
        } - exemplars

    await eventually(missing, lambda found: not found)  # another's webhook may come in between, and is named instead


# ---------------------------------------------------------------- by organization


def counted(registry: CollectorRegistry) -> dict[str, float]:
    return {
        sample.labels["organization"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "whatsapp_ingress_organization_sends_total"
    }


def test_the_busiest_organizations_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is counted never goes down, which would be taken for a restart."""
    registry = CollectorRegistry()
    counters = OrganizationCounters(registry)
    first, second, third = (uuid4() for _ in range(3))
    counters.count(counters.sends, first)
    assert counted(registry) == {}
    counters.named = 2
    for organization_id in (first, second, third, third):
        counters.count(counters.sends, organization_id)
    assert counted(registry) == {str(first): 1, str(second): 1, OTHER: 2}
    assert registry.get_sample_value("whatsapp_ingress_organizations_unnamed") == 1
    counters.count(counters.sends, first)
    monkeypatch.setattr(organizations, "RANKED_EVERY_S", 0)
    counters.count(counters.sends, third)
    monkeypatch.undo()
    counters.count(counters.sends, second)
    assert counted(registry) == {str(first): 2, str(third): 1, OTHER: 3}


@pytest.fixture
def nobody_named(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Before and after: other tests of this process look at all series."""
    monkeypatch.setattr(metrics.by_organization, "_names", set())
    yield
    for metric in (metrics.by_organization.events, metrics.by_organization.sends):
        metric.clear()


@pytest.mark.usefixtures("nobody_named")
async def test_organizations_are_named_where_that_is_asked_for(
    organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def named() -> set[str]:
        samples = [sample for sample in await series(organization.gateway) if "organization" in sample.labels]
        found = {sample.name for sample in samples if sample.labels["organization"] == organization.id}
        return {name for name in found if name.endswith("_total")}

    for many, names in ((0, set()), (200, {"organization_events_total", "organization_sends_total"})):
        monkeypatch.setattr(metrics.by_organization, "named", many)
        body = organization.gateway.meta.inbound(organization.numbers[0]).text("x")
        assert (await organization.post_webhook(body)).status == 200
        assert (await organization.send()).status == 200
        assert await named() == {f"whatsapp_ingress_{name}" for name in names}


# ---------------------------------------------------------------- the port of their own


async def test_the_public_port_shows_no_metrics(gateway: Gateway) -> None:
    """And the other one shows nothing else but health."""
    assert (await gateway.call("GET", "/metrics")).status == 404
    own = gateway.operations
    assert [(await gateway.call("GET", f"{own}{path}")).status for path in ("/healthz", "/readyz", "/metrics")] == [
        200
    ] * 3
    for path in ("/send", "/events", "/openapi.json", "/webhooks/meta_business/x", "/organizations"):
        assert (await gateway.call("GET", own + path)).status == 404


async def test_a_scrape_while_the_public_port_is_flooded(gateway: Gateway) -> None:
    """More connections than that port keeps: the other one answers as ever."""
    port = int(gateway.url.rpartition(":")[2])
    async with silent(port, 1_100):
        async with asyncio.timeout(60):
            assert (await gateway.metrics()).status == 200
            assert (await gateway.call("GET", f"{gateway.operations}/readyz")).status == 200


async def test_connections_to_the_port_of_metrics_are_few(gateway: Gateway) -> None:
    """The ones that say nothing make room for who does."""
    port = int(gateway.operations.rpartition(":")[2])
    async with silent(port, 200) as held:
        assert (await gateway.call("GET", f"{gateway.operations}/healthz")).status == 200
        await eventually(lambda: sum(not reader.at_eof() for reader in held) <= OPERATIONS_CONNECTIONS)


@asynccontextmanager
async def silent(port: int, many: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """So *many* connections that never say a word."""
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(many)]
    try:
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.close()


def test_the_reasons_for_refusing_and_for_ending_a_connection_are_foreseen() -> None:
    assert {*get_args(Reason)} <= VALUES["reason"]
    kinds = [ChangeRefused]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.code for kind in kinds} <= VALUES["reason"] & VALUES["outcome"]
    codes = {made().code for made in vars(http_requests).values() if isinstance(made, partial)}
    assert "upgrade_refused" in codes
    assert codes <= VALUES["reason"]


async def test_scrapes_share_a_page(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, what is counted is written down once a second in each of two formats."""
    monkeypatch.setattr(operations, "KEEP_S", 60.0)
    collected: list[None] = []
    collect = metrics.REGISTRY.collect

    def counted() -> Any:
        collected.append(None)
        return collect()

    monkeypatch.setattr(metrics.REGISTRY, "collect", counted)
    accepts = ["", "text/plain", *(f"application/openmetrics-text; version=1.{number}.0" for number in range(30))]
    pages = await asyncio.gather(*map(gateway.metrics, accepts))
    kinds = {page.headers["content-type"].partition(";")[0] for page in pages}
    assert kinds == {"text/plain", "application/openmetrics-text"}
    assert {page.raw[-6:] == b"# EOF\n" for page in pages} == {True, False}
    assert len(collected) <= 2


async def test_a_flood_of_probes_looks_at_the_database_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "KEEP_S", 60.0)
    looks: list[None] = []
    check = Database.check

    async def counted(database: Database) -> None:
        looks.append(None)
        await check(database)

    monkeypatch.setattr(Database, "check", counted)
    answers = await asyncio.gather(*(gateway.call("GET", "/readyz") for _ in range(200)))
    assert {answer.status for answer in answers} == {200}
    assert len(looks) <= 1


async def test_the_description_is_written_once(gateway: Gateway) -> None:
    first, second = [await gateway.call("GET", "/openapi.json") for _ in range(2)]
    assert first.raw == second.raw
    assert routes._description.cache_info().misses == 1


@pytest.mark.parametrize("error", [StoreUnavailable("TimeoutError"), ZeroDivisionError()])
async def test_a_gauge_that_cannot_be_counted_leaves_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """It stays as it was, and says since when; the log says which."""

    async def gauges(_: object) -> None:
        raise error

    monkeypatch.setattr(deliveries, "gauges", gauges)
    others = metrics.send_pending, metrics.audit_chain_valid, metrics.audit_overdue
    for gauge in (*others, *(metrics.gauges_read.labels(kind) for kind in GAUGES)):
        gauge.set(-1)
    async with Database(settings.database_url) as database:
        await watch_gauges(database)
    assert min(gauge._value.get() for gauge in others) >= 0
    assert "the gauges of deliveries stand still" in caplog.text
    assert [kind for kind in GAUGES if metrics.gauges_read.labels(kind)._value.get() < 0] == ["deliveries"]
    metrics.gauges_read.clear()


async def test_an_alert_sees_the_first_switch_that_is_late_or_taken_back(gateway: Gateway) -> None:
    """What begins at 1 has never increased, for Prometheus."""
    counted = {(sample.name, *sample.labels.values()) for sample in await series(gateway)}
    for reason in ("asked", "process_died", "not_paired", OTHER):
        assert ("whatsapp_ingress_rollbacks_total", reason) in counted
    assert ("whatsapp_ingress_provider_switch_propagation_seconds_count", "read") in counted
