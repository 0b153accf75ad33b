"""A run, the rules it is held against, and what was measured on the way."""

import os
from collections import Counter
from pathlib import Path
from time import time
from typing import Any

import msgspec
from rich.table import Table

from ingress.dev.sandbox import Refuse

from .cluster import Cluster, cluster
from .history import History, check
from .load import CLIENTS, LoadRun, Plan
from .order import Plan as OrderPlan
from .order import ordered, queued
from .propagation import quantile_s, shown
from .protection import calls_per_send, flooded
from .restarts import Plan as RestartPlan
from .restarts import restarted

FALLBACKS = 20
FALLBACK_WARM_UP = 3


class Figure(msgspec.Struct, frozen=True):
    """What was measured beside what it may be: at most, or at least. ``value`` None: nothing was there to measure."""

    what: str
    value: float | None
    limit: float
    unit: str = ""
    at_least: bool = False
    of: str = ""

    @property
    def is_missed(self) -> bool:
        if self.value is None:
            return True
        return self.value < self.limit if self.at_least else self.value > self.limit

    @property
    def shown(self) -> str:
        return "nothing measured" if self.value is None else f"{self.value:g} {self.unit}".rstrip()

    @property
    def bound(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g} {self.unit}".rstrip()


async def measured(folder: Path, plan: Plan, *, whole: bool = True) -> tuple[History, dict[str, Any]]:
    """Play *plan*: its history, and the figures with their violations; the *whole* takes a minute more."""
    started = time()
    async with cluster(folder) as playing:
        run = LoadRun(playing, plan)
        await run.play()
        found = figures(run)
        found["violations"] = check(run.history)  # before anything else is sent that is not in it
        fallbacks = [await _fallback_s(playing) for _ in range(FALLBACKS if whole else 2)]
        found["fallback_ms"] = _spread(fallbacks)
        found |= await ordered(playing, OrderPlan() if whole else OrderPlan(sends=60, kills=0))  # a kill takes a lease
        found |= await restarted(playing, RestartPlan() if whole else RestartPlan(1, webhooks_per_s=40, sends_per_s=8))
        if whole:
            found |= await queued(playing) | await _protection(playing)
    found["seconds"] = round(time() - started, 1)
    return run.history, found


async def _protection(playing: Cluster) -> dict[str, Any]:
    failing, flooding, steady = [await playing.organization() for _ in range(3)]
    for organization in (failing, flooding, steady):
        await playing.add_meta(organization, active=True)
    calls, _ = await calls_per_send(failing)
    alone, beside, _ = await flooded(flooding, steady)
    return {"calls_per_send": round(calls, 2), "flooded_ms": shown(beside), "flood_growth_ms": shown(beside - alone)}


def figures(run: LoadRun) -> dict[str, Any]:
    history = run.history
    made = [one for one in history.switches if one.changed and one.answered]
    calm = [one for one in made if not _troubled(run, one.asked, one.answered or 0.0)]
    ended = Counter(one.status for one in history.messages)
    propagation = run.propagation
    return {
        "sends": len(history.sends),
        "sends_ended": dict(ended),
        "sends_of_killed_processes": sum(None in one.statuses for one in history.sends),
        "sends_failed": sum(one.status in ("failed", "accepted") for one in history.messages)
        + len({one.key for one in history.sends} - {one.key for one in history.messages}),
        "deliveries": len(history.deliveries),
        "deliveries_doubled": sum(times - 1 for times in Counter(one.message for one in history.deliveries).values()),
        "webhooks_acknowledged": len(history.acknowledged),
        "webhooks_refused": sum(one.kind == "webhook" and one.status not in (200, None) for one in history.calls),
        "posts_without_an_answer": sum(one.kind == "webhook" and one.status is None for one in history.calls),
        "switches": len(history.trail),
        "rollbacks": sum(one.target is None and one.changed for one in history.switches),
        "switch_answers_lost": sum(one.answered is None for one in history.switches),
        "switches_refused_for_their_version": sum(one.status == 409 for one in history.switches),
        "kills": len(history.down),
        "redis_troubles": len(run.trouble),
        "fence_rejections": propagation.fenced,
        "reads": len(history.reads),
        "samples": len(history.samples),
        "switch_ms": _spread([(one.answered or 0.0) - one.asked for one in calm]),
        "switch_in_trouble_ms": _spread([(one.answered or 0.0) - one.asked for one in made if one not in calm]),
        "propagation_p99_ms": shown(quantile_s(propagation.calm, 0.99)),
        "propagations": max(propagation.calm.values(), default=0),
        "propagation_in_trouble_too_p99_ms": shown(quantile_s(propagation.all, 0.99)),
        "propagation_redis_down_worst_ms": shown(quantile_s(propagation.redis_down, 1.0)),
        "propagations_redis_down": max(propagation.redis_down.values(), default=0),
        "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
    }


def _troubled(run: LoadRun, since: float, until: float) -> bool:
    """Whether a process was stopped or down, or Redis in trouble, at some time in between."""
    return any(began <= until and since <= ended for began, ended in run.trouble)


async def _fallback_s(playing: Cluster) -> float:
    """From a send's request, at a provider that has just begun to refuse connections, to its answer from the other."""
    organization = await playing.organization()
    first, second = await playing.add_meta(organization, active=True), await playing.add_meta(organization)
    await organization.fall_back_to(second)
    for _ in range(FALLBACK_WARM_UP):
        answer = await organization.send()
        assert (answer.status, answer.json["config_id"]) == (200, first), answer.raw
    await playing.meta.set_default(organization.numbers[0], Refuse())
    started = time()
    answer = await organization.send()
    took = time() - started
    assert (answer.status, answer.json["config_id"]) == (200, second), answer.raw
    return took


def _spread(seconds: list[float]) -> dict[str, Any] | None:
    """None: there were none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    at = {
        name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in (("p50", 0.5), ("p99", 0.99))
    }
    return {"count": len(ordered), **{name: shown(value) for name, value in at.items()}, "max": shown(ordered[-1])}


def judged(found: dict[str, Any], plan: Plan) -> list[Figure]:
    """Every figure of a run that has a limit, with it."""
    switches, calm, trouble = found["switches"], found["switch_ms"] or {}, found["switch_in_trouble_ms"] or {}
    fallback = found["fallback_ms"] or {}
    killed = found["sends_of_killed_processes"]
    in_all = found["propagation_in_trouble_too_p99_ms"]
    return [
        Figure("sends", found["sends"], plan.sends // CLIENTS * CLIENTS, at_least=True),
        Figure("switches made", switches, plan.made, at_least=True, of=f"{plan.switches} asked for"),
        Figure(
            "kills of processes", found["kills"], plan.kills, at_least=True, of=f"{found['redis_troubles']} of Redis"
        ),
        Figure("sends failed or lost", found["sends_failed"], 0, of=f"{found['sends']} sends"),
        Figure("sends delivered twice", found["deliveries_doubled"], 0, of=f"{found['deliveries']} deliveries"),
        Figure("sends that ended as unknown", found["sends_ended"].get("unknown", 0), killed, of="killed in the call"),
        Figure("webhooks refused", found["webhooks_refused"], 0, of=f"{found['webhooks_acknowledged']} acknowledged"),
        Figure("history violations", len(found["violations"]), 0, of=f"{found['reads']} reads too"),
        Figure("attempts stopped by the fence", found["fence_rejections"], 1, at_least=True, of="all processes"),
        Figure(
            "switch, request to answer, p99",
            calm.get("p99"),
            250,
            "ms",
            of=f"p50 {calm.get('p50')}, max {calm.get('max')} of {calm.get('count')}, nothing else broken; "
            f"else p50 {trouble.get('p50')}, p99 {trouble.get('p99')} of {trouble.get('count')}",
        ),
        Figure(
            "propagation to every process, p99",
            found["propagation_p99_ms"],
            100,
            "ms",
            of=f"bound of a bucket, {found['propagations']} seen, nothing else broken; {in_all} with all troubles",
        ),
        Figure(
            "the same with Redis down, worst",
            found["propagation_redis_down_worst_ms"],
            2000,
            "ms",
            of=f"bound of a bucket, {found['propagations_redis_down']} seen",
        ),
        Figure(
            "first send through the fallback, worst",
            fallback.get("max"),
            1000,
            "ms",
            of=f"p50 {fallback.get('p50')} of {fallback.get('count')}, connections refused",
        ),
        Figure("calls per send at a provider that answers 503", found.get("calls_per_send"), 1.25, of="100 sends/s"),
        Figure(
            "p99 beside a flood at a hanging provider grows by",
            found.get("flood_growth_ms"),
            200,
            "ms",
            of=f"to {found.get('flooded_ms')} ms",
        ),
        Figure(
            "sends to one person out of order",
            found["order_inversions"],
            0,
            of=f"{found['order_sends']}, {found['order_retried']} repeated, {found['order_failed']} refused for good, "
            f"{found['order_kills']} kills",
        ),
        Figure("of them lost", found["order_lost"], found["order_unknown"], of="killed in the call"),
        Figure("of them delivered twice", found["order_doubled"], 0),
        Figure("restarts of processes in turn", found["restarts"], 3, at_least=True, of="each with no new requests"),
        Figure(
            "answers meanwhile that are neither 2xx nor 503",
            found["restart_unanswered"],
            0,
            of=f"{found['restart_webhooks']} webhooks, {found['restart_sends']} sends; 503: {found['restart_again']}",
        ),
        Figure("of these lost", found["restart_lost"], 0),
        Figure(
            "of these doubled", found["restart_doubled"], 0, of=f"the slowest restart {found['restart_slowest_ms']} ms"
        ),
        Figure(
            "p99 beside a queue of one person grows by",
            found.get("queued_growth_ms"),
            20,
            "ms",
            of=f"to {found.get('queued_ms')} ms",
        ),
    ]


def table(found: dict[str, Any], plan: Plan) -> Table:
    made = Table(title=f"A run of {found['seconds']:.0f} s, load {found['machine']['load']}")
    made.add_column("what")
    made.add_column("figure", justify="right")
    made.add_column("limit", justify="right")
    made.add_column("of")
    for figure in judged(found, plan):
        shown_as = f"[bold red]{figure.shown}[/]" if figure.is_missed else figure.shown
        made.add_row(figure.what, shown_as, figure.bound, figure.of)
    return made


def encoded(history: History) -> bytes:
    return msgspec.json.format(msgspec.json.encode(history))
