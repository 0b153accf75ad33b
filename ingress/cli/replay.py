"""`ingress replay`: events that were given up, and webhooks that were put aside, once more, by a running service.

Counted first, and asked for. What was replayed is neither parked nor open any more, so who begins again goes on.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from .client import Client, Failed, Row
from .tables import bar, progress, table

Answer = tuple[Any, Iterable[str], int]
# Of an item of the quarantine: it stays, and the next one may be read.
STAYS = ("still_unreadable", "too_old", "not_open", "not_found")


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """*command* makes a parser with what every command has that speaks to a service."""
    about = "deliver or read once more what was given up: counts it, and asks"
    kinds = commands.add_parser("replay", help=about, description=about).add_subparsers(dest="kind", required=True)
    events = command(kinds, "events", "deliver events that were given up to the callback after all", replay_events)
    events.add_argument("--type", help="only events of that type, as message.received")
    events.add_argument("--error", help="only those that were given up for that reason, as the count shows it")
    items = command(kinds, "quarantine", "read webhooks once more that could not be read", replay_quarantine)
    items.add_argument("--reason", help="only those that were put aside for that reason")
    items.add_argument("--config", metavar="ID", help="only those that came for that config")
    items.add_argument("--since", type=_moment, metavar="TIME", help="only those that came then or later, ISO 8601")
    items.add_argument("--until", type=_moment, metavar="TIME", help="only those that came before")
    items.add_argument("--foreign", action="store_true", help="what only the platform may see (platform key)")
    for parser in (events, items):
        parser.add_argument("--yes", action="store_true", help="without a question")


def _moment(text: str) -> datetime:
    """Raises `ValueError`."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def replay_events(client: Client, options: argparse.Namespace) -> Answer:
    """Each part that was counted is replayed by itself: no more than were counted, and a bar has where it is."""
    wanted = {"type": options.type, "last_error": options.error}
    parts, groups = list[dict[str, Any]](), Counter[tuple[str, str | None]]()
    for after, counted in _counted(client):
        chosen = {(each["type"], each["last_error"]): each["events"] for each in counted["groups"] if _is(wanted, each)}
        groups.update(chosen)
        parts.append({"after": after, "through": counted["through"], "events": sum(chosen.values())})
        progress(f"{groups.total()} events counted")
    rows = [{"type": type, "last_error": error, "events": count} for (type, error), count in groups.most_common()]
    _ask(options, "events", groups.total(), table(rows, "type", "last_error", "events"))
    replayed, passed, given = 0, 0, {name: value for name, value in wanted.items() if value is not None}
    for part in parts:
        if passed_by := part.pop("events"):
            body = {name: value for name, value in {**given, **part}.items() if value}
            replayed += client.call("POST", "/callback/replay", body)["replayed"]
            bar("replaying", passed := passed + passed_by, groups.total())
    return {"replayed": replayed}, [f"{replayed} events are delivered once more."], 0


def _counted(client: Client) -> Iterator[tuple[int, Row]]:
    """Parked events, a part after the other, each with what it is behind."""
    after, more = 0, True
    while more:
        counted = client.call("GET", "/callback/parked/count", after=after or None)
        if counted["through"]:
            yield after, counted
        after, more = counted["through"], counted["more"]


def _is(wanted: Row, group: Row) -> bool:
    return all(value in (None, group[name]) for name, value in wanted.items())


def replay_quarantine(client: Client, options: argparse.Namespace) -> Answer:
    """One after the other: each is read whole, and one that cannot be read stays."""
    foreign = {"foreign": "true"} if options.foreign else {}
    items = [item for item in _open_items(client, foreign) if _is_chosen(options, item)]
    reasons = Counter(item["reason"] for item in items)
    rows = [{"reason": reason, "items": count} for reason, count in reasons.most_common()]
    _ask(options, "webhooks", len(items), table(rows, "reason", "items"))
    became, events = Counter[str](), 0
    for done, item in enumerate(items, 1):
        state, fresh = _read_again(client, item["id"], foreign)
        became[state] += 1
        events += fresh
        bar("replaying", done, len(items))
    lines = [f"{became['replayed']} webhooks are read, with {events} events that were not there."]
    lines += [f"{count} stay: {state}" for state, count in became.most_common() if state != "replayed"]
    return {"events": events, **became}, lines, int(became.total() > became["replayed"])


def _open_items(client: Client, foreign: Row) -> Iterator[Row]:
    after = None
    while True:
        page = client.call("GET", "/quarantine", limit=200, after=after, **foreign)
        yield from page["quarantine"]
        if (after := page.get("next")) is None:
            return


def _is_chosen(options: argparse.Namespace, item: Row) -> bool:
    at = datetime.fromisoformat(item["received_at"])
    return (
        options.reason in (None, item["reason"])
        and options.config in (None, item["config_id"])
        and (options.since is None or at >= options.since)
        and (options.until is None or at < options.until)
    )


def _read_again(client: Client, item_id: str, foreign: Row) -> tuple[str, int]:
    """What became of it, and how many events are there now that were not. Raises `Failed`."""
    try:
        answer = client.call("POST", f"/quarantine/{item_id}/replay", **foreign)
    except Failed as failed:
        code = (failed.problem or {}).get("code")
        if code not in STAYS:
            raise
        return code, 0
    return answer["state"], answer.get("events", 0)


def _ask(options: argparse.Namespace, what: str, count: int, counted: Iterable[str]) -> None:
    """Show what it is about, and go on only where somebody says so. Raises `Failed`."""
    progress("")
    if not count:
        raise Failed(f"there are no such {what}", 0)
    sys.stderr.writelines(f"{line}\n" for line in counted)
    if options.yes:
        return
    if not sys.stdin.isatty() or input(f"Replay these {count} {what}? Type `replay` to go on: ") != "replay":
        raise Failed("nothing was replayed; --yes goes on without a question")
