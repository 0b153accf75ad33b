"""Commands that speak to a running service over its API: switch, rollback, status, audit, org, key, providers reload.

The exit status is 0 where it was done, 1 where it was refused or a trail is broken, 3 where the version was another one
(look, and decide again), 4 where the service did not answer or cannot answer now (try again). 2 is argparse's own.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from . import canary, persons, replay
from .client import KEY, ORGANIZATION, URL, Client, Failed, Row, line_of
from .tables import table

BASE = "/integrations/whatsapp"


# ------------------------------------------------------------------ the commands


def add_commands(commands: Any, providers: Any) -> None:
    """Add them to the parsers of `ingress` and of `ingress providers`; each sets ``run``."""
    switch = _changing(commands, "switch", "make another config the active one", _switch)
    switch.add_argument("config", help="its id or its name")
    _changing(commands, "rollback", "return to the config that was active before", _rollback)
    _command(commands, "status", "the active config, how it is doing, and the others", _status)
    _add_audit(commands)
    about = "take up plug-ins that were installed or uninstalled, in every process (platform key)"
    _command(providers, "reload", about, _reload_providers, platform=True)
    _add_organizations(commands)
    _add_keys(commands)
    _add_persons(commands)
    replay.add_commands(commands, _command)
    canary.add_command(commands, _command)


def _command(
    parent: Any, name: str, about: str, run: Callable[..., Any], *, platform: bool = False
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = parent.add_parser(name, help=about, description=about)
    parser.add_argument("--url", help=f"the service ({URL}; in development from dev.json)")
    parser.add_argument("--key", help=f"an API key, or the platform key ({KEY}; in development from dev.json)")
    parser.add_argument("--org", metavar="ID", help=f"with the platform key: the organization ({ORGANIZATION})")
    parser.add_argument("--json", action="store_true", help="print the answer of the service, for scripts")
    parser.set_defaults(run=run, platform=platform)
    return parser


def _changing(commands: Any, name: str, about: str, run: Callable[..., Any]) -> argparse.ArgumentParser:
    parser = _command(commands, name, about, run)
    parser.add_argument("--expected-version", type=int, metavar="N", help="only if the organization is at N")
    parser.add_argument("--dry-run", action="store_true", help="tell what it would mean, change nothing")
    parser.add_argument("--force", action="store_true", help="without the connection test")
    parser.add_argument("--reason", help="for the audit trail")
    return parser


def _add_audit(commands: Any) -> None:
    audit = _command(commands, "audit", "who changed what, newest first", _audit)
    audit.add_argument("--limit", type=int, default=20)
    below = audit.add_subparsers(dest="audit_action", metavar="verify")
    about = "whether anybody changed the trail; names the first entry that is wrong"
    verify = _command(below, "verify", about, _verify)
    about = "an end as it was printed before: it must still be there"
    verify.add_argument("--noted", metavar="ENTRIES:HASH", help=about)


def _add_organizations(commands: Any) -> None:
    org = commands.add_parser("org", help="organizations (platform key)").add_subparsers(dest="action", required=True)
    _command(org, "list", "every organization", _organizations, platform=True)
    made = _command(org, "create", "a new organization", _create_organization, platform=True)
    made.add_argument("name")


def _add_keys(commands: Any) -> None:
    key = commands.add_parser("key", help="API keys of the organization").add_subparsers(dest="action", required=True)
    _command(key, "list", "every key, without its secret", _keys)
    made = _command(key, "create", "a new key, shown this once", _create_key)
    made.add_argument("--name", default="key")
    made.add_argument("--scopes", default="send,read", help="of send, read, configure, admin; comma-separated")
    made.add_argument("--days", type=int, metavar="N", help="it is valid for so many; without it for ever")
    _command(key, "revoke", "refused everywhere within five seconds", _revoke_key).add_argument("id")


def _add_persons(commands: Any) -> None:
    who = "an id, or the number, lid, user id or @username they are known by"
    export = _command(commands, "export", "all that is there of a person, as a file of JSON lines", persons.export)
    export.add_argument("--contact", required=True, help=who)
    export.add_argument("--output", metavar="FILE", help="where to write it; contact-<id>.ndjson")
    erase = _command(commands, "erase", "delete all that is there of a person, for good", persons.erase)
    erase.add_argument("--contact", required=True, help=who)
    erase.add_argument("--yes", action="store_true", help="without a question")


def run(options: argparse.Namespace) -> int:
    """Run the command that was asked for: its exit status."""
    try:
        answer, lines, status = options.run(_client(options), options)
    except Failed as failed:
        if options.json and failed.problem:
            sys.stdout.write(_json(failed.problem))
        sys.stderr.write(f"ingress: {failed}\n")
        return failed.status
    sys.stdout.write(_json(answer) if options.json else "".join(f"{line}\n" for line in lines))
    return int(status)


def _json(answer: object) -> str:
    return json.dumps(answer, indent=2) + "\n"


def _client(options: argparse.Namespace) -> Client:
    """By option, by variable, or as `ingress run` wrote it down."""
    url, key = options.url or os.environ.get(URL), options.key or os.environ.get(KEY)
    facts = {} if url and key else _facts()
    url = url or facts.get("url")
    # A key goes to the service that it was written down for, and to no other.
    if facts.get("url") == url:
        key = key or facts.get("platform_key" if options.platform else "api_key")
    if not url or not key:
        raise _missing(url, key)
    return Client(url, key, options.org or os.environ.get(ORGANIZATION))


def _missing(url: str | None, key: str | None) -> Failed:
    missing = [
        f"--{name} or {variable}" for name, variable, given in (("url", URL, url), ("key", KEY, key)) if not given
    ]
    return Failed(f"which service, and as whom? Give {' and '.join(missing)}", 2)


def _facts() -> dict[str, str]:
    """What `ingress run` wrote down."""
    path = Path(os.environ.get("INGRESS_DATA_DIR", ".data")) / "dev.json"
    facts: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return facts


Answer = tuple[Any, Iterable[str], int]


def _switch(client: Client, options: argparse.Namespace) -> Answer:
    return _changed(client, options, "switch", {"config_id": _config_id(client, options.config)})


def _rollback(client: Client, options: argparse.Namespace) -> Answer:
    return _changed(client, options, "rollback", {})


def _config_id(client: Client, named: str) -> str:
    with contextlib.suppress(ValueError):
        return str(UUID(named))
    found = [config for config in client.call("GET", f"{BASE}/provider/configs")["configs"] if config["name"] == named]
    if len(found) != 1:
        raise Failed(f"{len(found) or 'no'} configs are called {named!r}: name one by its id, from `ingress status`")
    config_id: str = found[0]["config_id"]
    return config_id


def _changed(client: Client, options: argparse.Namespace, what: str, body: dict[str, Any]) -> Answer:
    answer = client.call("POST", f"{BASE}/provider/{what}", body | _given(options))
    if options.dry_run:
        return answer, _dry_run(answer), int(not answer["ready"])
    return answer, [_outcome(answer), *_checks(answer["checks"])], 0


def _given(options: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in ("dry_run", "force", "expected_version", "reason")}
    return {name: value for name, value in given.items() if value is not None and value is not False}


def _outcome(answer: Row) -> str:
    config = f"{answer['provider']} {answer['config_id']}"
    if until := answer.get("waits_until"):
        return f"{config} waits until {until} for its phone: link one by provider/pairing."
    now = f"{config} is active at version {answer['version']}"
    return f"{now}." if answer["changed"] else f"{now}: it was before, nothing changed."


def _dry_run(answer: Row) -> Iterable[str]:
    yield f"A switch to {answer['provider']} {answer['to_config_id'] or ''} from version {answer['version']} would"
    yield ("  pass its tests" if answer["ready"] else "  FAIL its tests, so nothing would change")
    if answer["another_number"]:
        yield f"  have people see ANOTHER NUMBER: {answer['to_sender']}, now {answer['from_sender']}"
    for gap in answer["capability_gaps"]:
        yield f"  not carry {gap['kind']}: {gap['sends']} sends since {answer['sends_since'][:10]}"
    for template in answer["templates_missing"]:
        named = f"{template['name']} ({template['language']})"
        yield f"  need the template {named} there, where it is {template['status']}: {template['sends']} sends"
    if answer["templates_unknown"]:
        yield f"  not tell which templates are there: {answer['templates_unknown']}"
    yield (
        f"  not reach by phone {answer['people_without_phone']} people who wrote since {answer['people_since'][:10]},"
        f" {answer['sends_without_phone']} sends"
    )
    yield f"  find {answer['in_flight']} sends under way, which end where they began"
    yield f"  fall back to {', then '.join(answer['fallback_config_ids']) or 'nobody'}"
    yield from _checks(answer["checks"])


def _checks(checks: Iterable[Row]) -> Iterable[str]:
    for check in checks:
        if not check["passed"] or not check.get("checkable", True):
            state = "cannot be checked" if check["passed"] else "failed"
            yield line_of(check, f"{check['name']} {state}:")


def _status(client: Client, options: argparse.Namespace) -> Answer:
    current = client.call("GET", f"{BASE}/provider/current")
    configs = client.call("GET", f"{BASE}/provider/configs")["configs"]
    lines = [_standing(current), *_in_order(configs, current.get("fallback", [])), *_troubles(configs)]
    return {**current, "configs": configs}, lines, 0


def _in_order(configs: Iterable[Row], fallback: Iterable[Row]) -> list[str]:
    order = {config["config_id"]: place for place, config in enumerate(fallback, 1)}
    rows = [
        {**config, "fallback": order.get(config["config_id"], ""), "health": config["health"]["state"]}
        for config in configs
    ]
    return table(rows, "config_id", "provider", "name", "sender", "state", "fallback", "health")


def _standing(current: Row) -> str:
    if current["provider"] is None:
        return "No provider is active: nothing can be sent."
    active, state = f"{current['provider']} ({current['name']})", current["health"]["state"]
    return f"{active} is active at version {current['version']}: {state}"


def _troubles(configs: Iterable[Row]) -> Iterable[str]:
    for config in configs:
        answer = config["health"]
        if answer.get("reason"):
            since = f"{answer['state']} since {answer['since']}: {answer['reason']}."
            yield " ".join(filter(None, [config["name"], since, answer.get("detail"), answer["what_to_do"]]))


def _audit(client: Client, options: argparse.Namespace) -> Answer:
    answer = client.call("GET", f"{BASE}/audit", limit=options.limit)
    columns = ("id", "at", "action", "outcome", "actor", "address", "provider", "config_id", "version", "reason")
    return answer, table(answer["entries"], *columns), 0


def _verify(client: Client, options: argparse.Namespace) -> Answer:
    """All of it, a part after the other."""
    answer: Row = {"next": 0}
    while "next" in answer:
        answer = client.call("GET", f"{BASE}/audit/verify", after=answer["next"], **_noted(options.noted))
        if not answer["intact"]:
            return answer, [f"BROKEN at entry {answer['first_broken']}: {answer['reason']}"], 1
    entries = answer["entries"]
    return answer, [f"{entries} entries, all as they were written. Note the end: {entries}:{answer['hash']}"], 0


def _noted(end: str | None) -> dict[str, str]:
    if not end:
        return {}
    entries, _, known = end.partition(":")
    if not (entries.isdigit() and known):
        raise Failed("--noted is ENTRIES:HASH, as this command prints it", 2)
    return {"entries": entries, "hash": known}


def _reload_providers(client: Client, options: argparse.Namespace) -> Answer:
    found = client.call("POST", f"{BASE}/providers/reload")
    return found, list(_reloaded(found)) or ["Nothing changed."], int(bool(found["failed"]))


def _reloaded(found: Row) -> Iterable[str]:
    for what in ("added", "removed"):
        yield from (f"{name} {what}." for name in found[what])
    for what, about in (("failed", "failed"), ("needs_restart", "needs a restart")):
        yield from (f"{name} {about}: {reason}" for name, reason in found[what].items())


def _organizations(client: Client, options: argparse.Namespace) -> Answer:
    answer = _all(client, "/organizations", "organizations")
    return answer, table(answer, "id", "name", "version", "created_at"), 0


def _create_organization(client: Client, options: argparse.Namespace) -> Answer:
    answer = client.call("POST", "/organizations", {"name": options.name})
    return answer, [answer["id"]], 0


def _keys(client: Client, options: argparse.Namespace) -> Answer:
    answer = _all(client, "/keys", "keys")
    rows = [{**key, "scopes": ",".join(key["scopes"])} for key in answer]
    return answer, table(rows, "id", "name", "scopes", "created_at", "last_used_at", "expires_at", "revoked_at"), 0


def _create_key(client: Client, options: argparse.Namespace) -> Answer:
    scopes = [scope.strip() for scope in options.scopes.split(",")]
    expires_at = options.days and f"{datetime.now(UTC) + timedelta(days=options.days):%Y-%m-%dT%H:%M:%SZ}"
    answer = client.call("POST", "/keys", {"name": options.name, "scopes": scopes, "expires_at": expires_at})
    return answer, [answer["key"]], 0


def _revoke_key(client: Client, options: argparse.Namespace) -> Answer:
    client.call("DELETE", f"/keys/{quote(options.id, safe='')}")
    return {"id": options.id, "revoked": True}, [f"{options.id} is revoked."], 0


def _all(client: Client, path: str, name: str) -> list[Row]:
    """Every page of a list."""
    found: list[Row] = []
    after: object = None
    while True:
        page = client.call("GET", path, limit=200, after=after)
        found += page[name]
        if (after := page.get("next")) is None:
            return found
