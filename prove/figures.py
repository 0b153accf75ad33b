"""A run, the rules it is held against, and what was measured on the way."""

import os
from collections import Counter
from pathlib import Path
from time import time
from typing import Any

import msgspec
from rich.table import Table

from ingress.sandbox import Refuse

from .cluster import Cluster, cluster
from .history import History, check
from .load import Plan, Run
from .propagation import quantile_s, shown

FALLBACKS = 20
FALLBACK_WARM_UP = 3


async def measured(folder: Path, plan: Plan, fallbacks: int = FALLBACKS) -> tuple[History, dict[str, Any]]:
    """Play *plan*: its history, and the figures with their violations."""
    started = time()
    async with cluster(folder) as playing:
        run = Run(playing, plan)
        await run.play()
        found = figures(run)
        found["violations"] = check(run.history)  # before anything else is sent that is not in it
        found["fallback_ms"] = _spread([await _fallback_s(playing) for _ in range(fallbacks)])
    found["seconds"] = round(time() - started, 1)
    return run.history, found


def figures(run: Run) -> dict[str, Any]:
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
        "redis_troubles": len(run.redis_trouble),
        "fence_rejections": propagation.fenced,
        "reads": len(history.reads),
        "samples": len(history.samples),
        "switch_ms": _spread([(one.answered or 0.0) - one.asked for one in calm]),
        "switch_in_trouble_ms": _spread([(one.answered or 0.0) - one.asked for one in made if one not in calm]),
        "propagation_p99_ms": shown(quantile_s(propagation.all, 0.99)),
        "propagations": max(propagation.all.values(), default=0),
        "propagation_redis_down_worst_ms": shown(quantile_s(propagation.redis_down, 1.0)),
        "propagations_redis_down": max(propagation.redis_down.values(), default=0),
        "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
    }


def _troubled(run: Run, since: float, until: float) -> bool:
    """Whether a process was down, or Redis, at some time in between."""
    spans = [(down.since, down.until) for down in run.history.down] + run.redis_trouble
    return any(began <= until and since <= ended for began, ended in spans)


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


def table(found: dict[str, Any]) -> Table:
    made = Table(title=f"A run of {found['seconds']:.0f} s")
    made.add_column("what")
    made.add_column("figure", justify="right")
    made.add_column("of")
    killed = found["sends_of_killed_processes"]
    rows = [
        ("sends failed or lost", found["sends_failed"], f"{found['sends']} sends, {found['switches']} switches"),
        ("sends delivered twice", found["deliveries_doubled"], f"{found['deliveries']} deliveries"),
        ("sends that ended as unknown", found["sends_ended"].get("unknown", 0), f"{killed} whose process was killed"),
        ("webhooks refused", found["webhooks_refused"], f"{found['webhooks_acknowledged']} acknowledged"),
        ("history violations", len(found["violations"]), f"{found['kills']} kills, {found['redis_troubles']} of Redis"),
        ("attempts stopped by the fence", found["fence_rejections"], "all processes"),
        *_times("switch, request to answer", found["switch_ms"], "nothing else broken"),
        *_times("the same, something down", found["switch_in_trouble_ms"], "a process or Redis"),
        ("propagation, p99", _at_most(found["propagation_p99_ms"]), f"{found['propagations']} seen by processes"),
        (
            "propagation, Redis down, worst",
            _at_most(found["propagation_redis_down_worst_ms"]),
            f"{found['propagations_redis_down']} seen by processes",
        ),
        *_times("first send through the fallback", found["fallback_ms"], "after refused connections"),
    ]
    for what, figure, of in rows:
        made.add_row(what, str(figure), of)
    return made


def _times(what: str, spread: dict[str, Any] | None, of: str) -> list[tuple[str, Any, str]]:
    if spread is None:
        return []
    return [(f"{what}, {name}", f"{spread[name]} ms", f"{spread['count']}, {of}") for name in ("p50", "p99", "max")]


def _at_most(milliseconds: float | None) -> str:
    return "none seen" if milliseconds is None else f"≤ {milliseconds} ms"


def encoded(history: History) -> bytes:
    return msgspec.json.format(msgspec.json.encode(history))
