"""Health and metrics of all workers, on the one port of their parent."""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

from prometheus_client import Metric
from prometheus_client.samples import Exemplar, Sample
from starlette.responses import Response

from .. import metrics
from ..api.operations import Kept, metrics_response, written
from ..web.bodies import Shown
from ..web.problems import Json, json_response
from .worker import STATES, Worker


class ReadinessOfAll(Shown, frozen=True, omit_defaults=True):
    """``ready`` of ``processes`` workers; ``detail``: why one of the others is not."""

    status: Literal["ready", "draining", "unavailable"]
    ready: int
    processes: int
    detail: str | None = None


class OperationsOfAll:
    """What *workers* say of themselves; each is to be one of *processes*."""

    def __init__(self, workers: Mapping[int, Worker], processes: int, closing: asyncio.Event) -> None:
        self._workers = workers
        self._processes = processes
        self._closing = closing
        self._judged = Kept(self._judge)
        self._pages = {openmetrics: Kept(partial(self._page, openmetrics)) for openmetrics in (False, True)}

    async def readiness(self) -> Json[ReadinessOfAll]:
        """Ready where one is: it takes the others' connections."""
        found = await self._judged.get()
        return json_response(found, 200 if found.status == "ready" else 503)

    async def _judge(self) -> ReadinessOfAll:
        answers = await self._ask("readiness")
        ready = sum(answer["status"] == "ready" for _, answer in answers)
        details = [answer["detail"] for _, answer in answers if "detail" in answer]
        status: Any = "draining" if self._closing.is_set() else "ready" if ready else "unavailable"
        return ReadinessOfAll(status, ready, self._processes, details[0] if details else None)

    async def metrics(self, accept: str) -> Response:
        return await metrics_response(self._pages, accept)

    async def _page(self, openmetrics: bool) -> bytes:
        for state in STATES:
            metrics.processes.labels(state).set(sum(worker.state == state for worker in self._workers.values()))
        pages = [("parent", metrics.OF_PARENT.collect())]
        for worker, families in await self._ask("metrics"):
            pages.append((str(worker.number), map(_family, families)))
        return await written(_merged(pages), openmetrics)

    async def _ask(self, what: Any) -> list[tuple[Worker, Any]]:
        """Those that answer, with what they answer."""
        workers = list(self._workers.values())
        answers = await asyncio.gather(*(worker.ask(what) for worker in workers))
        return [(worker, answer) for worker, answer in zip(workers, answers, strict=True) if answer is not None]


def _family(sent: tuple[str, str, str, list[list[Any]]]) -> Metric:
    name, text, kind, samples = sent
    family = Metric(name, text, kind)
    family.samples = [
        Sample(name, labels, value, exemplar=Exemplar(*exemplar) if exemplar else None)
        for name, labels, value, _, exemplar, *_ in samples
    ]
    return family


def _merged(pages: Iterable[tuple[str, Iterable[Metric]]]) -> list[Metric]:
    """Each family once, with the series of every process, which the label `process` tells apart.

    They are not summed: a sum goes down when one of its processes starts anew, and `rate` takes that for a restart of
    all. Prometheus' way is the rate of each, and then the sum of these. And a gauge that each process reads in the
    database would count it as often as there are processes.
    Source: https://prometheus.io/docs/prometheus/latest/querying/functions/#rate
    """
    merged: dict[str, Metric] = {}
    for process, families in pages:
        for family in families:
            whole = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            whole.samples += [one._replace(labels={**one.labels, "process": process}) for one in family.samples]
    return list(merged.values())
