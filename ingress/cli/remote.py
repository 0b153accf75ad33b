"""Commands that speak to a running service over its API: switch, rollback, status, audit, org, key, providers reload.

The exit status is 0 where it was done, 1 where it was refused or a trail is broken, 3 where the version was another one
(look, and decide again), 4 where the service did not answer or cannot answer now (try again). 2 is argparse's own.
"""

import argparse
import contextlib
import http.client
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from uuid import UUID

URL, KEY, ORGANIZATION = "INGRESS_API_URL", "INGRESS_API_KEY", "INGRESS_API_ORG"
# Longer than the service waits for others that change the same organization, and tests a provider.
TIMEOUT_S = 60.0
REFUSED, CONFLICT, UNAVAILABLE = 1, 3, 4
BASE = "/integrations/whatsapp"

Row = Mapping[str, Any]


class Failed(Exception):
    """The command ends with ``status``; the message is for people, ``problem`` the answer of the service."""

    def __init__(self, message: str, status: int = REFUSED, problem: Row | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem


class Client:
    """The API of one service, with one key."""

    def __init__(self, url: str, key: str, organization: str | None) -> None:
        self._url = urlsplit(url)
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise Failed(f"{url!r} is no http:// or https:// address: give one by --url or {URL}")
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        if organization:
            self._headers["x-org-id"] = organization

    def call(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """The answer's JSON. Raises `Failed` with what the service says."""
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        assert self._url.hostname
        connection = kind(self._url.hostname, self._url.port, timeout=TIMEOUT_S)
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        target = self._url.path.rstrip("/") + path + (f"?{asked}" if asked else "")
        try:
            connection.request(method, target, None if body is None else json.dumps(body), self._headers)
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException, socket.gaierror) as error:
            where = f"{self._url.hostname}:{self._url.port or kind.default_port}"
            raise Failed(f"the service at {where} does not answer ({type(error).__name__})", UNAVAILABLE) from None
        finally:
            connection.close()
        try:
            answer = json.loads(raw) if raw else None
        except ValueError:
            raise Failed(f"what answers there is no WhatsApp Ingress (HTTP {response.status})", UNAVAILABLE) from None
        if response.status >= 400:
            problem = answer if isinstance(answer, dict) else {}
            status = UNAVAILABLE if response.status >= 500 else CONFLICT if _is_conflict(problem) else REFUSED
            raise Failed(_message_of(problem, response.status), status, problem)
        return answer


def _is_conflict(problem: Row) -> bool:
    return problem.get("code") == "version_conflict"


def _message_of(problem: Row, status: int) -> str:
    lines = [str(problem.get("detail") or f"HTTP {status}")]
    if status == 401:
        lines[0] += f" Give it by --key or {KEY}."
    if status == 404:
        lines[0] = "There is no such thing in this organization."
    lines += [f"  {error['path']}: {error['detail']}" for error in problem.get("errors", [])]
    for check in problem.get("checks", []):
        if not check["passed"]:
            lines.append("  " + " ".join(filter(None, [f"{check['name']}:", check.get("detail"), check.get("fix")])))
    if problem.get("request_id"):
        lines.append(f"  ({problem['code']}, {problem['request_id']})")
    return "\n".join(lines)


# ------------------------------------------------------------------ the commands


def add_commands(commands: Any, providers: Any) -> None:
    """Add them to the parsers of `ingress` and of `ingress providers`; each sets ``run``."""

    def command(parent: Any, name: str, about: str, run: Callable[..., Any]) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = parent.add_parser(name, help=about, description=about)
        parser.add_argument("--url", help=f"the service ({URL}; in development from dev.json)")
        parser.add_argument("--key", help=f"an API key, or the platform key ({KEY}; in development from dev.json)")
        parser.add_argument("--org", metavar="ID", help=f"with the platform key: the organization ({ORGANIZATION})")
        parser.add_argument("--json", action="store_true", help="print the answer of the service, for scripts")
        parser.set_defaults(run=run, platform=False)
        return parser

    def changing(name: str, about: str, run: Callable[..., Any]) -> argparse.ArgumentParser:
        parser = command(commands, name, about, run)
        parser.add_argument("--expected-version", type=int, metavar="N", help="only if the organization is at N")
        parser.add_argument("--dry-run", action="store_true", help="tell what it would mean, change nothing")
        parser.add_argument("--force", action="store_true", help="without the connection test")
        parser.add_argument("--reason", help="for the audit trail")
        return parser

    changing("switch", "make another config the active one", _switch).add_argument("config", help="its id or its name")
    changing("rollback", "return to the config that was active before", _rollback)
    command(commands, "status", "the active config, how it is doing, and the others", _status)
    audit = command(commands, "audit", "who changed what, newest first", _audit)
    audit.add_argument("--limit", type=int, default=20)
    below = audit.add_subparsers(dest="audit_action", metavar="verify")
    verify = command(below, "verify", "whether anybody changed the trail; names the first entry that is wrong", _verify)
    verify.add_argument(
        "--noted", metavar="ENTRIES:HASH", help="an end as it was printed before: it must still be there"
    )
    about = "take up plug-ins that were installed or uninstalled, in every process (platform key)"
    command(providers, "reload", about, _reload_providers).set_defaults(platform=True)
    org = commands.add_parser("org", help="organizations (platform key)").add_subparsers(dest="action", required=True)
    command(org, "list", "every organization", _organizations).set_defaults(platform=True)
    made = command(org, "create", "a new organization", _create_organization)
    made.set_defaults(platform=True)
    made.add_argument("name")
    key = commands.add_parser("key", help="API keys of the organization").add_subparsers(dest="action", required=True)
    command(key, "list", "every key, without its secret", _keys)
    made = command(key, "create", "a new key, shown this once", _create_key)
    made.add_argument("--name", default="key")
    made.add_argument("--scopes", default="send,read", help="of send, read, configure, admin; comma-separated")
    command(key, "revoke", "refused everywhere within five seconds", _revoke_key).add_argument("id")


def run(options: argparse.Namespace) -> int:
    """Run the command that was asked for: its exit status."""
    try:
        client = _client(options)
        answer, lines, status = options.run(client, options)
    except Failed as failed:
        if options.json and failed.problem:
            sys.stdout.write(json.dumps(failed.problem, indent=2) + "\n")
        sys.stderr.write(f"ingress: {failed}\n")
        return failed.status
    sys.stdout.write(json.dumps(answer, indent=2) + "\n" if options.json else "".join(f"{line}\n" for line in lines))
    return int(status)


def _client(options: argparse.Namespace) -> Client:
    """By option, by variable, or as `ingress run` wrote it down."""
    facts: dict[str, str] = {}
    url, key = options.url or os.environ.get(URL), options.key or os.environ.get(KEY)
    path = Path(os.environ.get("INGRESS_DATA_DIR", ".data")) / "dev.json"
    if not (url and key) and path.exists():
        facts = json.loads(path.read_text())
    url = url or facts.get("url")
    # A key goes to the service that it was written down for, and to no other.
    if facts.get("url") == url:
        key = key or facts.get("platform_key" if options.platform else "api_key")
    if not url or not key:
        missing = " and ".join(
            f"--{name} or {variable}" for name, variable, given in (("url", URL, url), ("key", KEY, key)) if not given
        )
        raise Failed(f"which service, and as whom? Give {missing}", 2)
    return Client(url, key, options.org or os.environ.get(ORGANIZATION))


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
    body |= {name: value for name in ("dry_run", "force") if (value := getattr(options, name))}
    body |= {name: value for name in ("expected_version", "reason") if (value := getattr(options, name)) is not None}
    answer = client.call("POST", f"{BASE}/provider/{what}", body)
    if options.dry_run:
        return answer, _dry_run(answer), int(not answer["ready"])
    if until := answer.get("waits_until"):
        config = f"{answer['provider']} {answer['config_id']}"
        line = f"{config} waits until {until} for its phone: link one by provider/pairing."
        return answer, [line, *_checks(answer["checks"])], 0
    lines = [
        f"{answer['provider']} {answer['config_id']} is active at version {answer['version']}"
        + ("." if answer["changed"] else ": it was before, nothing changed.")
    ]
    return answer, [*lines, *_checks(answer["checks"])], 0


def _dry_run(answer: Row) -> Iterable[str]:
    yield f"A switch to {answer['provider']} {answer['to_config_id'] or ''} from version {answer['version']} would"
    yield ("  pass its tests" if answer["ready"] else "  FAIL its tests, so nothing would change")
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
            yield "  " + " ".join(filter(None, [f"{check['name']} {state}:", check.get("detail"), check.get("fix")]))


def _status(client: Client, options: argparse.Namespace) -> Answer:
    current = client.call("GET", f"{BASE}/provider/current")
    configs = client.call("GET", f"{BASE}/provider/configs")["configs"]
    answer = {**current, "configs": configs}
    if current["provider"] is None:
        head = "No provider is active: nothing can be sent."
    else:
        state = current["health"]["state"]
        head = f"{current['provider']} ({current['name']}) is active at version {current['version']}: {state}"
    order = {config["config_id"]: place for place, config in enumerate(current.get("fallback", []), 1)}
    rows = [
        {**config, "fallback": order.get(config["config_id"], ""), "health": config["health"]["state"]}
        for config in configs
    ]
    table = _table(rows, "config_id", "provider", "name", "sender", "state", "fallback", "health")
    return answer, [head, *table, *_troubles(configs)], 0


def _troubles(configs: Iterable[Row]) -> Iterable[str]:
    for config in configs:
        answer = config["health"]
        if answer.get("reason"):
            since = f"{answer['state']} since {answer['since']}: {answer['reason']}."
            yield " ".join(filter(None, [config["name"], since, answer.get("detail"), answer["what_to_do"]]))


def _audit(client: Client, options: argparse.Namespace) -> Answer:
    answer = client.call("GET", f"{BASE}/audit", limit=options.limit)
    return (
        answer,
        _table(answer["entries"], "id", "at", "action", "actor", "address", "config_id", "version", "reason"),
        0,
    )


def _verify(client: Client, options: argparse.Namespace) -> Answer:
    entries, _, known = (options.noted or ":").partition(":")
    if options.noted and not (entries.isdigit() and known):
        raise Failed("--noted is ENTRIES:HASH, as this command prints it", 2)
    answer = client.call("GET", f"{BASE}/audit/verify", entries=entries or None, hash=known or None)
    if answer["intact"]:
        line = (
            f"{answer['entries']} entries, all as they were written. Note the end: {answer['entries']}:{answer['hash']}"
        )
    else:
        line = f"BROKEN at entry {answer['first_broken']}: {answer['reason']}"
    return answer, [line], int(not answer["intact"])


def _reload_providers(client: Client, options: argparse.Namespace) -> Answer:
    found = client.call("POST", f"{BASE}/providers/reload")
    lines = [f"{name} {what}." for what in ("added", "removed") for name in found[what]]
    lines += [f"{name} failed: {reason}" for name, reason in found["failed"].items()]
    lines += [f"{name} needs a restart: {reason}" for name, reason in found["needs_restart"].items()]
    return found, lines or ["Nothing changed."], int(bool(found["failed"]))


def _organizations(client: Client, options: argparse.Namespace) -> Answer:
    answer = _all(client, "/organizations", "organizations")
    return answer, _table(answer, "id", "name", "version", "created_at"), 0


def _create_organization(client: Client, options: argparse.Namespace) -> Answer:
    answer = client.call("POST", "/organizations", {"name": options.name})
    return answer, [answer["id"]], 0


def _keys(client: Client, options: argparse.Namespace) -> Answer:
    answer = _all(client, "/keys", "keys")
    rows = [{**key, "scopes": ",".join(key["scopes"])} for key in answer]
    return answer, _table(rows, "id", "name", "scopes", "created_at", "expires_at", "revoked_at"), 0


def _create_key(client: Client, options: argparse.Namespace) -> Answer:
    scopes = [scope.strip() for scope in options.scopes.split(",")]
    answer = client.call("POST", "/keys", {"name": options.name, "scopes": scopes})
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


def _table(rows: Iterable[Row], *columns: str) -> list[str]:
    """Lines of aligned columns under their names; absent is a dash."""
    cells = [[str(row[name]) if row.get(name) not in (None, "") else "-" for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (columns, *cells)]
