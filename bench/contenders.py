"""The servers under test, side by side and each with its own database."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .databases import database, storage
from .load import LoadTarget, paced
from .pool import APP_SECRET, Pool, sends, webhooks
from .processes import ServerProcess, log, python_server
from .provider import provider
from .service import ServiceProcess, service

IDLE_S = 3


@dataclass
class Contenders:
    """What can be loaded, by name. "bare" is the framework alone, or for sends the bare forwarder."""

    ingest: dict[str, LoadTarget] = field(default_factory=dict)
    send: dict[str, LoadTarget] = field(default_factory=dict)
    rss_mb: dict[str, float | None] = field(default_factory=dict)  # idle, after one request of each kind
    service_database: str | None = None
    services: Callable[..., AbstractContextManager[list[dict[str, LoadTarget]]]] = field(init=False)


def start_all(folder: Path, stack: ExitStack, with_service: bool) -> Contenders:
    """Everything started on *stack*, asked once and found well."""
    server_url, redis_url = stack.enter_context(storage(folder / "storage"))
    provider_url = stack.enter_context(provider(folder)).url
    hooks, messages = webhooks(folder), sends(folder)
    contenders, servers = Contenders(), dict[str, ServerProcess]()

    @contextmanager
    def services(*without: str | None) -> Iterator[list[dict[str, LoadTarget]]]:
        """New ones, each as it is (None) or without a fast path: what can be loaded of each, by part."""
        with ExitStack() as until:
            urls = [until.enter_context(database(server_url, f"bench_{path or 'whole'}")) for path in without]
            yield [
                _targets(until.enter_context(service(folder, url, redis_url, provider_url, path)), hooks, messages)
                for url, path in zip(urls, without, strict=True)
            ]

    contenders.services = services

    def baseline(name: str) -> ServerProcess:
        env = {
            "DATABASE_URL": refinement_database,
            "BENCH_PROVIDER_URL": provider_url,
            "BENCH_APP_SECRET": APP_SECRET,
        }
        servers[name] = stack.enter_context(python_server(name, f"bench.baselines.{name}:app", folder, env))
        return servers[name]

    refinement_database = stack.enter_context(database(server_url, "bench_refinement"))
    contenders.ingest["bare"] = LoadTarget("bare", baseline("bare"), hooks, hooks.head("/webhook"))
    contenders.send["bare"] = LoadTarget("forwarder", baseline("forwarder"), messages, messages.head("/send"))
    refinement = baseline("refinement")
    contenders.ingest["refinement"] = LoadTarget("refinement", refinement, hooks, hooks.head("/webhook"))
    contenders.send["refinement"] = LoadTarget("refinement", refinement, messages, messages.head("/send"))
    if with_service:
        url = contenders.service_database = stack.enter_context(database(server_url, "bench_service"))
        ours = stack.enter_context(service(folder, url, redis_url, provider_url))
        servers["service"] = ours.server
        targets = _targets(ours, hooks, messages)
        contenders.ingest["service"], contenders.send["service"] = targets["ingest"], targets["send"]
    for target in (*contenders.ingest.values(), *contenders.send.values()):
        if paced(target, rate=1, seconds=1, connections=1).accepted != 1:
            raise RuntimeError(f"{target.name} refuses its first request:\n{log(folder, target.name)}")
    time.sleep(IDLE_S)
    contenders.rss_mb = {name: server.rss_mb() for name, server in servers.items()}
    return contenders


def _targets(ours: ServiceProcess, hooks: Pool, messages: Pool) -> dict[str, LoadTarget]:
    authorization = {"Authorization": f"Bearer {ours.key}"}
    return {
        "ingest": LoadTarget("service", ours.server, hooks, hooks.head(ours.webhook_path)),
        "send": LoadTarget("service", ours.server, messages, messages.head("/send", authorization)),
    }
