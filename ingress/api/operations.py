"""For those who run the service: is it alive, can it work, what does it count."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from time import monotonic
from typing import Any, Generic, Literal, TypeVar

import msgspec
from prometheus_client import Metric, exposition
from starlette.responses import Response

from .. import metrics
from ..storage.database import Database, SchemaError, StoreUnavailable
from ..storage.vault import VaultError
from ..switching.manager import WhatsAppProviderManager
from ..web.bodies import Shown
from ..web.problems import Json, json_response
from . import ApiRequest

logger = logging.getLogger("ingress.api.operations")

# However many ask, the database is looked at, and the metrics are written down, once in so many seconds.
KEEP_S = 1.0
# With KEEP_S less than the 3 s after which a process without a database must not be given traffic any more.
READY_WITHIN_S = 1.5
LAG_EVERY_S = 0.5

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """What *make* gives, made once for all who ask meanwhile and in the KEEP_S after."""

    def __init__(self, make: Callable[[], Awaitable[Value]]) -> None:
        self._make = make
        self._making: asyncio.Future[Value] | None = None
        self._made_at = 0.0

    async def get(self) -> Value:
        if self._making is None or (self._making.done() and monotonic() - self._made_at >= KEEP_S):
            self._making = asyncio.ensure_future(self._make())
            self._making.add_done_callback(self._made)
        return await asyncio.shield(self._making)  # who hangs up does not take it from the others

    def _made(self, _: object) -> None:
        self._made_at = monotonic()


class Readiness(Shown, frozen=True, omit_defaults=True):
    """``detail``: why it is not ready."""

    status: Literal["ready", "draining", "unavailable"]
    detail: str | None = None


class Operations:
    """What this process says of itself."""

    def __init__(self, database: Database, manager: WhatsAppProviderManager, closing: asyncio.Event) -> None:
        self._database = database
        self._manager = manager
        self._closing = closing
        self._doubt = Kept(self._find_doubt)
        self._logged: str | None = None
        self._pages = {openmetrics: Kept(partial(_page, openmetrics)) for openmetrics in (False, True)}

    async def readiness(self) -> Json[Readiness]:
        found = await self.judge()
        return json_response(found, 200 if found.status == "ready" else 503)

    async def judge(self) -> Readiness:
        if self._closing.is_set():
            return Readiness("draining")
        doubt = await self._doubt.get()
        if doubt != self._logged:
            logger.warning("ready again" if doubt is None else f"not ready: {doubt}")
            self._logged = doubt
        return Readiness("ready") if doubt is None else Readiness("unavailable", doubt)

    async def _find_doubt(self) -> str | None:
        """Why what is accepted could not be stored, or what is stored not be opened; None: it can."""
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await self._database.check()
                await self._manager.check()
        except (StoreUnavailable, TimeoutError):
            return "the database does not answer"
        except (SchemaError, VaultError) as error:
            return str(error)
        return None

    async def metrics(self, accept: str) -> Response:
        return await metrics_response(self._pages, accept)


async def metrics_response(pages: dict[bool, Kept[bytes]], accept: str) -> Response:
    """One of two *pages*: that of OpenMetrics, where it is asked for."""
    openmetrics = "application/openmetrics-text" in accept
    return Response(await pages[openmetrics].get(), headers={"content-type": _encoder(openmetrics)[1]})


class _Collected(msgspec.Struct):
    """A registry of what was collected before."""

    families: list[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


def _encoder(openmetrics: bool) -> tuple[Callable[[Any], bytes], str]:
    # One version of each format, whichever is asked for: each other one would be another page.
    return exposition.choose_encoder("application/openmetrics-text; version=1.0.0" if openmetrics else "")


async def _page(openmetrics: bool) -> bytes:
    return await written(list(metrics.REGISTRY.collect()), openmetrics)


async def written(families: list[Metric], openmetrics: bool) -> bytes:
    """*families*, collected where everything is counted: writing them takes long, and touches nothing that changes."""
    return await asyncio.to_thread(_encoder(openmetrics)[0], _Collected(families))


async def watch_lag() -> None:
    """How late timers fire."""
    while True:
        before = monotonic()
        await asyncio.sleep(LAG_EVERY_S)
        metrics.loop_lag.observe(max(0.0, monotonic() - before - LAG_EVERY_S))


class Alive(Shown, frozen=True):
    status: Literal["ok"] = "ok"


async def healthz(_: ApiRequest) -> Alive:
    """GET /healthz: the process is alive. Says nothing about what it depends on."""
    return Alive()


async def readyz(request: ApiRequest) -> Json[Readiness]:
    """GET /readyz: it can store what it accepts, and open what is stored. Redis is not needed for that."""
    return await request.state["readiness"]()


async def show_metrics(request: ApiRequest) -> Response:
    """GET /metrics: for Prometheus; OpenMetrics where it asks for it."""
    return await request.state["metrics_page"](request.header.get("accept", ""))
