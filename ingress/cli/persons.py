"""`ingress export` and `ingress erase`: what a person may ask for by law, of a running service."""

import argparse
import contextlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

from .client import Client, Failed, Row
from .tables import progress

POLL_S = 0.5


def contact_id(client: Client, named: str) -> str:
    """By their id, or by the number, lid, user id or @username that they are known by. Raises `Failed`."""
    with contextlib.suppress(ValueError):
        return str(UUID(named))
    found = client.call("GET", "/contacts", **{_kind(named): named.removeprefix("@")})["contacts"]
    if len(found) != 1:
        raise Failed(f"{len(found) or 'no'} contacts are known by that: look for one in the console, and give the id")
    found_id: str = found[0]["id"]
    return found_id


def _kind(named: str) -> str:
    if named.endswith("@lid"):
        return "lid"
    if named.startswith("@"):
        return "username"
    return "phone" if named.lstrip("+").isdigit() else "user_id"


def export(client: Client, options: argparse.Namespace) -> tuple[Any, Iterable[str], int]:
    whom = contact_id(client, options.contact)
    path = Path(options.output or f"contact-{whom}.ndjson")
    if path.exists():
        raise Failed(f"{path} is there already: give another name by --output, or delete it")
    counts = dict.fromkeys(("contact", "event", "message"), 0)
    with _mine(path) as file:
        for line in client.lines("GET", f"/contacts/{whom}/export"):
            file.write(line)
            counts[next(iter(json.loads(line)))] += 1
            progress(f"{counts['event']} events, {counts['message']} messages")
    progress("")
    summary = f"{path}: the contact, {counts['event']} events and {counts['message']} messages that were sent to them."
    return {"file": str(path), **counts}, [summary], 0


def _mine(path: Path) -> Any:
    """A new file that nobody else may read."""
    path.touch(mode=0o600, exist_ok=False)
    return path.open("wb")


QUESTION = "All that is there of this person is deleted for good. Type `erase` to go on: "


def erase(client: Client, options: argparse.Namespace) -> tuple[Any, Iterable[str], int]:
    whom = contact_id(client, options.contact)
    if not options.yes and input(QUESTION) != "erase":
        raise Failed("nothing was deleted")
    erasure = _done(client, client.call("POST", f"/contacts/{whom}/erasure"))
    return erasure, [f"Nothing is left of them: {erasure['deleted']} rows are deleted (erasure {erasure['id']})."], 0


def _done(client: Client, erasure: Row) -> Row:
    """The *erasure* once nothing is left to delete; how far it is, until then."""
    while erasure["state"] != "done":
        progress(_how_far(erasure))
        time.sleep(POLL_S)
        erasure = client.call("GET", f"/erasures/{erasure['id']}")
    progress("")
    return erasure


def _how_far(asked: Row) -> str:
    if asked["state"] == "waiting":
        return f"waits for {asked['step'] or 'its turn'}"
    return f"deleting {asked['step'] or 'what is left'}: {asked['deleted']} rows"
